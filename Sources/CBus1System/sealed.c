#include "bus1_sys_sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Debian 12's headers are older than this. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define TMPFS 0x01021994

int bus1_sys_sealed_prepare(int fd, uint64_t byte_count, void **base_out)
{
    char *base = mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    /* A page that was only reserved counts as a hole, which its readers refuse. A child that kept
     * the mapping would keep the file from being sealed. */
    int error = madvise(base, byte_count, MADV_DONTFORK) != 0 ? -errno : 0;
    if (error == 0 && madvise(base, byte_count, MADV_POPULATE_WRITE) != 0) {
        if (errno != EINVAL)
            error = -errno;
        else /* before Linux 5.14 */
            for (uint64_t i = 0; i < byte_count; i += 4096)
                ((volatile char *)base)[i] = 0;
    }
    if (error != 0) {
        (void)munmap(base, byte_count);
        return error;
    }
    *base_out = base;
    return 0;
}

int bus1_sys_sealed_seal(int fd, void *base, uint64_t byte_count)
{
    (void)munmap(base, byte_count);
    const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    return fcntl(fd, F_ADD_SEALS, seals) == 0 ? 0 : -errno;
}

int bus1_sys_sealed_check(int fd, uint64_t byte_count)
{
    const int wanted = F_SEAL_WRITE | F_SEAL_SHRINK;
    struct statfs file_system;
    struct stat status;

    /* Seals first: what is read after them can't change. */
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return errno == EINVAL ? BUS1_SYS_SEALED_NO_MEMORY_FILE : -errno;
    if (fstat(fd, &status) != 0 || fstatfs(fd, &file_system) != 0)
        return -errno;
    /* Not of huge pages: whether they are there can't be told. */
    if (!S_ISREG(status.st_mode) || (uint64_t)file_system.f_type != TMPFS)
        return BUS1_SYS_SEALED_NO_MEMORY_FILE;
    if ((seals & wanted) != wanted)
        return BUS1_SYS_SEALED_WRITABLE;
    if (status.st_size < 0 || (uint64_t)status.st_size < byte_count)
        return BUS1_SYS_SEALED_SHORT;
    /* Its blocks alone prove nothing: some may lie beyond the end. */
    off_t hole = byte_count == 0 ? 0 : lseek(fd, 0, SEEK_HOLE);
    if (hole < 0)
        return -errno;
    return (uint64_t)hole < byte_count ? BUS1_SYS_SEALED_SPARSE : 0;
}

int bus1_sys_sealed_map(int fd, uint64_t byte_count, const void **base_out)
{
    *base_out = NULL;
    int result = bus1_sys_sealed_check(fd, byte_count);
    if (result != 0 || byte_count == 0)
        return result;
    if (byte_count > SIZE_MAX)
        return -ENOMEM;
    void *base = mmap(NULL, byte_count, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    *base_out = base;
    return 0;
}

void bus1_sys_sealed_unmap(const void *base, uint64_t byte_count)
{
    if (base != NULL)
        (void)munmap((void *)(uintptr_t)base, byte_count);
}
