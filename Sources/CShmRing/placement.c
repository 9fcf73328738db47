/*
 * placement.c - where the pages of a mapping lie, and when they are touched.
 *
 * The order matters: a policy binds only pages that are allocated after it, so node and huge pages
 * come first, then the first touch, then the lock. What is reported is read back from smaps,
 * because madvise returns 0 also where the system administrator has switched huge pages off.
 */
#include "placement.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shmring_atomics.h"

#if defined(SHMRING_WITH_NUMA) && __has_include(<numaif.h>)
#include <numaif.h>
#define SHMRING_HAS_NUMA 1
#else
#define SHMRING_HAS_NUMA 0
#endif

/* Debian 12's headers are older than these. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#if SHMRING_HAS_NUMA
static int numa_bind(const struct shmring_mapping *mapping, int32_t node)
{
    unsigned long mask[16] = {0};
    const int32_t bits = (int32_t)(8 * sizeof mask[0]);
    if (node >= bits * 16)
        return EINVAL;
    mask[node / bits] = 1ul << (node % bits);
    return mbind(mapping->base, mapping->byte_count, MPOL_BIND, mask, 8 * sizeof mask,
                 MPOL_MF_MOVE) == 0 ? 0 : errno;
}

static int32_t numa_node_of(const struct shmring_mapping *mapping)
{
    int node = -1;
    if (get_mempolicy(&node, NULL, 0, mapping->base, MPOL_F_NODE | MPOL_F_ADDR) != 0)
        return -1;
    return node;
}
#else
static int numa_bind(const struct shmring_mapping *mapping, int32_t node)
{
    (void)mapping;
    (void)node;
    return ENOTSUP;
}

static int32_t numa_node_of(const struct shmring_mapping *mapping)
{
    (void)mapping;
    return -1;
}
#endif

/* Kernels before 5.14 cannot populate by advice. */
static void touch_every_page(const struct shmring_mapping *mapping, enum shmring_access access)
{
    for (uint64_t offset = 0; offset < mapping->byte_count; offset += SHMRING_PAGE_BYTES) {
        uint32_t *word = (uint32_t *)((char *)mapping->base + offset);
        /* SYNC P20: no order is needed, these bring the page in. Adding 0 leaves alone what another
         * process writes there meanwhile; a plain write could undo it. */
        if (access == SHMRING_READ_WRITE)
            (void)shmring_fetch_add_acq_rel_u32(word, 0);
        else
            (void)shmring_load_relaxed_u32(word);
    }
}

/* qemu returns 0 for advice that it does not pass on. */
static bool last_page_is_there(const struct shmring_mapping *mapping)
{
    unsigned char there = 0;
    char *last = (char *)mapping->base + mapping->byte_count - SHMRING_PAGE_BYTES;
    last -= (uintptr_t)last % (uintptr_t)sysconf(_SC_PAGESIZE);
    return mincore(last, SHMRING_PAGE_BYTES, &there) == 0 && (there & 1) != 0;
}

struct smaps_sums {
    uint64_t rss_kib, huge_kib, locked_kib;
};

/* Sums over all areas that lie in the mapping: mlock or mbind may have split it. */
static struct smaps_sums smaps_read(const struct shmring_mapping *mapping)
{
    struct smaps_sums sums = {0, 0, 0};
    FILE *file = fopen("/proc/self/smaps", "re");
    if (file == NULL)
        return sums;
    const uintptr_t begin = (uintptr_t)mapping->base;
    const uintptr_t end = begin + mapping->byte_count;
    bool inside = false;
    char line[512];
    while (fgets(line, sizeof line, file) != NULL) {
        uint64_t low = 0, high = 0, kib = 0;
        char name[32];
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &low, &high) == 2) {
            inside = low >= begin && high <= end;
        } else if (inside && sscanf(line, "%31[^:]: %" SCNu64 " kB", name, &kib) == 2) {
            if (strcmp(name, "Rss") == 0)
                sums.rss_kib += kib;
            else if (strcmp(name, "ShmemPmdMapped") == 0 || strcmp(name, "FilePmdMapped") == 0)
                sums.huge_kib += kib;
            else if (strcmp(name, "Locked") == 0)
                sums.locked_kib += kib;
        }
    }
    (void)fclose(file);
    return sums;
}

void shmring_placement_apply(const struct shmring_mapping *mapping, enum shmring_access access,
                             const struct shmring_placement *placement,
                             struct shmring_placement_report *report)
{
    struct shmring_placement_report result = {.numa_node = -1};
    if (placement->numa_node >= 0)
        result.numa_errno = numa_bind(mapping, placement->numa_node);
    if (placement->huge && madvise(mapping->base, mapping->byte_count, MADV_HUGEPAGE) != 0)
        result.huge_errno = errno;
    if (placement->prefault) {
        const int advice =
            access == SHMRING_READ_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
        const int refused = madvise(mapping->base, mapping->byte_count, advice);
        if (refused || !last_page_is_there(mapping))
            touch_every_page(mapping, access);
    }
    /* Blocks reserved at creation are small pages; the kernel may gather them afterwards. */
    if (placement->huge && result.huge_errno == 0)
        (void)madvise(mapping->base, mapping->byte_count, MADV_COLLAPSE);
    if (placement->lock && mlock(mapping->base, mapping->byte_count) != 0)
        result.lock_errno = errno;
    if (report == NULL)
        return;

    const struct smaps_sums sums = smaps_read(mapping);
    const uint64_t mapped_kib = mapping->byte_count / 1024;
    result.prefaulted = sums.rss_kib >= mapped_kib;
    result.huge_bytes = sums.huge_kib * 1024;
    result.locked = placement->lock && result.lock_errno == 0 && sums.locked_kib >= mapped_kib;
    if (placement->lock && result.lock_errno == 0 && !result.locked)
        result.lock_errno = ENOTSUP; /* sanitizers let mlock succeed without doing it */
    if (placement->huge && result.huge_errno == 0 && result.huge_bytes == 0)
        result.huge_errno = ENOTSUP;
    if (placement->prefault || placement->lock || placement->numa_node >= 0)
        result.numa_node = numa_node_of(mapping);
    *report = result;
}

int shmring_outbox_reserve_words(const struct shmring_mapping *outbox, uint64_t offset,
                                 uint64_t byte_count)
{
    if (offset > outbox->byte_count || byte_count > outbox->byte_count - offset)
        return SHMRING_E_SIZE;
    if (byte_count == 0)
        return SHMRING_OK;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t begin = offset / page * page;
    uint64_t end = (offset + byte_count + page - 1) / page * page;
    struct shmring_mapping part = {.base = (uint8_t *)outbox->base + begin,
                                   .byte_count = end - begin};
    if (madvise(part.base, part.byte_count, MADV_POPULATE_WRITE) != 0) {
        if (errno != EINVAL)
            return -errno;
        touch_every_page(&part, SHMRING_READ_WRITE);
    }
    return SHMRING_OK;
}
