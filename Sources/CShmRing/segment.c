/*
 * segment.c - see shmring_segment.h. Everything here is off the hot path but shmring_forked.
 */
#include "shmring_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "placement.h"
#include "shmring_atomics.h"
#include "shmring_checks.h"

/* Debian 12's headers are older than these. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define SHMRING_TMPFS_MAGIC 0x01021994
#define SHMRING_HUGE_PAGE_BYTES (UINT64_C(2) << 20)
#define SHMRING_RESERVE_CHUNK_BYTES (UINT64_C(16) << 20)

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* ---- making --------------------------------------------------------------------------------- */

/* Growing a file beyond RLIMIT_FSIZE kills the process by SIGXFSZ; asking first does not. */
static int check_file_limit(uint64_t byte_count)
{
    struct rlimit limit;
    if (byte_count > (uint64_t)INT64_MAX)
        return -EFBIG;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        byte_count > limit.rlim_cur)
        return -EFBIG;
    return 0;
}

/* Reserving more than the machine has would call the OOM killer before it fails. */
static int check_memory(uint64_t byte_count)
{
    struct sysinfo info;
    if (sysinfo(&info) != 0)
        return 0;
    const uint64_t unit = info.mem_unit == 0 ? 1 : info.mem_unit;
    if (byte_count / unit > (uint64_t)info.totalram + info.totalswap)
        return -ENOMEM;
    return 0;
}

/* In chunks, because a signal makes the kernel undo the whole call: a process with a fast timer
 * would never get through a large one. */
static int reserve_blocks(int fd, uint64_t byte_count)
{
    for (uint64_t offset = 0; offset < byte_count;) {
        uint64_t chunk = byte_count - offset;
        if (chunk > SHMRING_RESERVE_CHUNK_BYTES)
            chunk = SHMRING_RESERVE_CHUNK_BYTES;
        if (fallocate(fd, 0, (off_t)offset, (off_t)chunk) == 0)
            offset += chunk;
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

int shmring_segment_create(const char *label, uint64_t byte_count, bool reserve, int *fd_out)
{
    *fd_out = -1;
    if (byte_count == 0)
        return -EINVAL;
    if (byte_count > (uint64_t)INT64_MAX - SHMRING_PAGE_BYTES)
        return -EFBIG;
    byte_count = round_up(byte_count, SHMRING_PAGE_BYTES);
    int result = check_file_limit(byte_count);
    if (result == 0 && reserve)
        result = check_memory(byte_count);
    if (result != 0)
        return result;

    int fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    while (ftruncate(fd, (off_t)byte_count) != 0) {
        if (errno == EINTR)
            continue;
        result = -errno;
        goto close_it;
    }
    if (reserve && (result = reserve_blocks(fd, byte_count)) != 0)
        goto close_it;
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
        result = -errno;
        goto close_it;
    }
    *fd_out = fd;
    return 0;

close_it:
    (void)close(fd);
    return result;
}

int shmring_segment_seal(int fd, bool future_write)
{
    const int wanted = F_SEAL_SEAL | (future_write ? F_SEAL_FUTURE_WRITE : 0);
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return -errno;
    if ((seals & wanted) == wanted)
        return 0;
    return fcntl(fd, F_ADD_SEALS, wanted) == 0 ? 0 : -errno;
}

/* ---- checking ------------------------------------------------------------------------------- */

/* Seals before size: only behind SHRINK and GROW does a size stay what it was read as. */
static int check_descriptor(int fd, uint64_t byte_count, bool require_future_write,
                            bool require_blocks, uint64_t *size_out)
{
    struct stat status;
    struct statfs file_system;
    if (fstat(fd, &status) != 0 || fstatfs(fd, &file_system) != 0)
        return -errno;
    if ((!S_ISREG(status.st_mode) || status.st_nlink != 0 ||
         file_system.f_type != SHMRING_TMPFS_MAGIC) &&
        !SHMRING_UNCHECKED(KIND))
        return SHMRING_E_KIND;

    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return errno == EINVAL ? SHMRING_E_KIND : -errno;
    const int wanted =
        F_SEAL_SHRINK | F_SEAL_GROW | (require_future_write ? F_SEAL_FUTURE_WRITE : 0);
    if (((seals & wanted) != wanted || (seals & F_SEAL_WRITE) != 0) && !SHMRING_UNCHECKED(SEALS))
        return SHMRING_E_SEALS;

    if (fstat(fd, &status) != 0)
        return -errno;
    const uint64_t size = (uint64_t)status.st_size;
    if ((status.st_size <= 0 || size % SHMRING_PAGE_BYTES != 0 || size > SIZE_MAX) &&
        !SHMRING_UNCHECKED(SIZE))
        return SHMRING_E_SIZE;
    if (byte_count != 0 && size != byte_count && !SHMRING_UNCHECKED(SIZE))
        return SHMRING_E_SIZE;
    if (require_blocks && (uint64_t)status.st_blocks * 512 < size && !SHMRING_UNCHECKED(BLOCKS))
        return SHMRING_E_SPARSE;
    *size_out = SHMRING_UNCHECKED(SIZE) && byte_count != 0 ? byte_count : size;
    return 0;
}

/* pread is the one copy: nobody can change the header between the check and what was checked. */
static int check_header(int fd, enum shmring_segment_kind kind, uint64_t size)
{
    struct shmring_header header;
    ssize_t count;
    do {
        count = pread(fd, &header, sizeof header, 0);
    } while (count < 0 && errno == EINTR);
    if (count < 0)
        return -errno;
    if (count != (ssize_t)sizeof header)
        return SHMRING_E_SIZE;
    if (header.magic != SHMRING_MAGIC)
        return SHMRING_E_KIND;
    if (header.layout_version < SHMRING_LAYOUT_VERSION_MIN ||
        header.layout_version > SHMRING_LAYOUT_VERSION)
        return SHMRING_E_VERSION;
    if (header.kind != (uint32_t)kind)
        return SHMRING_E_KIND;
    if (header.byte_count != size)
        return SHMRING_E_SIZE;
    return 0;
}

/* ---- mapping -------------------------------------------------------------------------------- */

/* Huge pages need an address that is a multiple of their size: reserve more, keep the middle. */
static void *map_aligned(int fd, uint64_t size, int protection)
{
    const uint64_t unit = SHMRING_HUGE_PAGE_BYTES;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *area = mmap(NULL, size + unit, PROT_NONE, flags, -1, 0);
    if (area == MAP_FAILED)
        return MAP_FAILED;
    char *base = (char *)round_up((uintptr_t)area, unit);
    char *mapped = mmap(base, size, protection, MAP_SHARED | MAP_FIXED, fd, 0);
    if (mapped == MAP_FAILED) {
        const int saved = errno;
        (void)munmap(area, size + unit);
        errno = saved;
        return MAP_FAILED;
    }
    if (base > area)
        (void)munmap(area, (size_t)(base - area));
    if (base + size < area + size + unit)
        (void)munmap(base + size, (size_t)(area + unit - base));
    return base;
}

int shmring_segment_map(int fd, enum shmring_segment_kind kind, enum shmring_access access,
                        uint64_t byte_count, bool require_future_write, bool require_blocks,
                        const struct shmring_placement *placement,
                        struct shmring_placement_report *report,
                        struct shmring_mapping *mapping_out)
{
    uint64_t size = 0;
    *mapping_out = (struct shmring_mapping){NULL, 0};
    if (report != NULL)
        *report = (struct shmring_placement_report){.numa_node = -1};
    int result = check_descriptor(fd, byte_count, require_future_write, require_blocks, &size);
    if (result == 0 && kind != SHMRING_SEGMENT_POOL)
        result = check_header(fd, kind, size);
    if (result != 0)
        return result;

    const int protection = access == SHMRING_READ_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
    const bool align = placement != NULL && placement->huge && size >= SHMRING_HUGE_PAGE_BYTES;
    void *base = align ? map_aligned(fd, size, protection)
                       : mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    struct shmring_mapping mapping = {base, size};
    if (madvise(base, size, MADV_DONTFORK) != 0) {
        result = -errno;
        shmring_segment_unmap(&mapping);
        return result;
    }
    if (placement != NULL)
        shmring_placement_apply(&mapping, access, placement, report);
    *mapping_out = mapping;
    return 0;
}

void shmring_segment_unmap(struct shmring_mapping *mapping)
{
    /* In a forked child there is nothing at this address, or by now something else. */
    if (mapping->base != NULL && !shmring_forked())
        (void)munmap(mapping->base, mapping->byte_count);
    *mapping = (struct shmring_mapping){NULL, 0};
}

/* ---- the kinds with a header ---------------------------------------------------------------- */

uint64_t shmring_ring_bytes(uint32_t capacity, uint32_t slot_bytes)
{
    if (capacity < SHMRING_CAPACITY_MIN || capacity > SHMRING_CAPACITY_MAX ||
        (capacity & (capacity - 1)) != 0)
        return 0;
    if (slot_bytes < SHMRING_SLOT_BYTES_MIN || slot_bytes > SHMRING_SLOT_BYTES_MAX ||
        (slot_bytes & (slot_bytes - 1)) != 0)
        return 0;
    const uint64_t slots = round_up((uint64_t)capacity * slot_bytes, SHMRING_PAGE_BYTES);
    return shmring_ring_slots_offset(capacity) + slots;
}

uint64_t shmring_ring_slots_offset(uint32_t capacity)
{
    const uint64_t resume = round_up((uint64_t)capacity * sizeof(uint64_t), SHMRING_PAGE_BYTES);
    return SHMRING_RESUME_OFFSET + resume;
}

uint64_t shmring_claims_bytes(uint32_t lanes)
{
    if (lanes == 0 || lanes > SHMRING_LANES_MAX)
        return 0;
    const uint64_t words = (uint64_t)lanes * SHMRING_CLAIM_WORDS * sizeof(uint64_t);
    return round_up(SHMRING_CLAIMS_OFFSET + words, SHMRING_PAGE_BYTES);
}

uint64_t shmring_outbox_release_offset(uint32_t lanes)
{
    const uint64_t words = (uint64_t)lanes * SHMRING_COMMIT_WORDS * sizeof(uint64_t);
    return round_up(sizeof(struct shmring_outbox) + words, SHMRING_PAGE_BYTES);
}

uint64_t shmring_outbox_drop_offset(uint32_t lanes)
{
    return shmring_outbox_release_offset(lanes) + SHMRING_RELEASE_WORDS * sizeof(uint64_t);
}

uint64_t shmring_outbox_bytes(uint32_t lanes)
{
    if (lanes == 0 || lanes > SHMRING_LANES_MAX)
        return 0;
    return shmring_outbox_drop_offset(lanes) + SHMRING_DROP_WORDS * sizeof(struct shmring_drop);
}

static int write_at(int fd, const void *bytes, size_t count, size_t offset)
{
    ssize_t written;
    do {
        written = pwrite(fd, bytes, count, (off_t)offset);
    } while (written < 0 && errno == EINTR);
    if (written < 0)
        return -errno;
    return written == (ssize_t)count ? 0 : -EIO;
}

/* A new memfd is all zeros, and zero means idle in nearly every word of the layout (no index is out
 * of service, no word is claimed): the header is to be filled in, and little else. */
static int create_with_header(const char *label, struct shmring_header header, bool seal,
                              int *fd_out)
{
    int fd = -1;
    *fd_out = -1;
    if (header.byte_count == 0)
        return SHMRING_E_SIZE;
    /* Not reserved: a thousand idle peers have rings of which no page was ever touched. Their
     * number is limited and their size is the broker's choice, so that nobody can make others pay
     * with them. */
    int result = shmring_segment_create(label, header.byte_count, false, &fd);
    if (result != 0)
        return result;
    header.magic = SHMRING_MAGIC;
    header.layout_version = SHMRING_LAYOUT_VERSION;
    result = write_at(fd, &header, sizeof header, 0);
    if (result == 0 && seal)
        result = shmring_segment_seal(fd, false);
    if (result != 0) {
        (void)close(fd);
        return result;
    }
    *fd_out = fd;
    return 0;
}

int shmring_ring_create(uint32_t ring_id, uint32_t capacity, uint32_t slot_bytes, int *fd_out)
{
    const struct shmring_header header = {
        .kind = SHMRING_SEGMENT_RING,
        .byte_count = shmring_ring_bytes(capacity, slot_bytes),
        .id = ring_id,
        .param_a = capacity,
        .param_b = slot_bytes,
    };
    int result = create_with_header("bus1-ring", header, true, fd_out);
    if (result != 0)
        return result;
    /* Positions begin a lap late, so that no slot of zeros can be taken for a written position 0.
     * */
    const uint64_t first = capacity;
    result = write_at(*fd_out, &first, sizeof first, offsetof(struct shmring_ring_control, tail));
    if (result == 0)
        result =
            write_at(*fd_out, &first, sizeof first, offsetof(struct shmring_ring_control, head));
    if (result != 0) {
        (void)close(*fd_out);
        *fd_out = -1;
    }
    return result;
}

int shmring_claims_create(uint32_t peer_id, uint32_t lanes, int *fd_out)
{
    const struct shmring_header header = {
        .kind = SHMRING_SEGMENT_CLAIMS,
        .byte_count = shmring_claims_bytes(lanes),
        .id = peer_id,
        .param_a = lanes,
    };
    return create_with_header("bus1-claims", header, false, fd_out);
}

int shmring_outbox_create(uint32_t peer_id, uint32_t lanes, int *fd_out)
{
    const struct shmring_header header = {
        .kind = SHMRING_SEGMENT_OUTBOX,
        .byte_count = shmring_outbox_bytes(lanes),
        .id = peer_id,
        .param_a = lanes,
    };
    return create_with_header("bus1-outbox", header, false, fd_out);
}

int shmring_board_create(uint32_t id, int *fd_out)
{
    const struct shmring_header header = {
        .kind = SHMRING_SEGMENT_BOARD,
        .byte_count = sizeof(struct shmring_board),
        .id = id,
    };
    return create_with_header("bus1-board", header, true, fd_out);
}

int shmring_bus_page_create(int *fd_out)
{
    const struct shmring_header header = {
        .kind = SHMRING_SEGMENT_BUS,
        .byte_count = SHMRING_PAGE_BYTES,
    };
    return create_with_header("bus1-bus", header, false, fd_out);
}

/* ---- fork ----------------------------------------------------------------------------------- */

/* A page of its own, which the kernel wipes in a child however it was forked; the handler does the
 * same where the advice is not known. A vfork child shares all memory and is not a fork here. */
static struct {
    uint32_t alive;
    uint32_t pad[16383];
} fork_page __attribute__((aligned(65536)));

static void forget_in_child(void)
{
    /* Relaxed: see P21. */
    shmring_store_relaxed_u32(&fork_page.alive, 0);
}

__attribute__((constructor)) static void watch_forks(void)
{
    (void)madvise(&fork_page, sizeof fork_page, MADV_WIPEONFORK);
    (void)pthread_atfork(NULL, NULL, forget_in_child);
    /* Relaxed: see P21. */
    shmring_store_relaxed_u32(&fork_page.alive, 1);
}

bool shmring_forked(void)
{
    /* SYNC P21 relaxed: written once before main and once before fork returns in the child, so
     * every thread that can ask comes later. */
    return shmring_load_relaxed_u32(&fork_page.alive) == 0;
}
