#include <errno.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench_check.h"
#include "bench_process.h"

static uint64_t stage_bytes(void)
{
    return (sizeof(struct bench_check_stage) + 4095) & ~UINT64_C(4095);
}

int bench_check_create(uint64_t recorder_bytes)
{
    int fd = memfd_create("bus1-bench-check", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    recorder_bytes = (recorder_bytes + 4095) & ~UINT64_C(4095);
    /* Sparse: pages exist once they are written. */
    if (ftruncate(fd, (off_t)(stage_bytes() + BENCH_CHECK_PEERS * recorder_bytes)) < 0 ||
        pwrite(fd, &recorder_bytes, sizeof recorder_bytes,
               offsetof(struct bench_check_stage, recorder_bytes)) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

struct bench_check_stage *bench_check_map(int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return NULL;
    void *base =
        mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

void bench_check_unmap(struct bench_check_stage *stage)
{
    (void)munmap(stage, stage_bytes() + BENCH_CHECK_PEERS * stage->recorder_bytes);
}

struct bench_recorder *bench_check_recorder(struct bench_check_stage *stage, uint32_t peer)
{
    uint8_t *first = (uint8_t *)stage + stage_bytes();
    return (struct bench_recorder *)(void *)(first + peer * stage->recorder_bytes);
}

int bench_check_become(uint32_t user, int32_t parent)
{
    if (setgroups(0, NULL) < 0 || setresgid(user, user, user) < 0 ||
        setresuid(user, user, user) < 0)
        return -errno;
    /* The kernel forgets on a change of user that this process dies with its parent. */
    return bench_worker_settle(parent);
}
