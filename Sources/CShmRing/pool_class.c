/*
 * pool_class.c - sizes, and the queue of free slices of one size.
 *
 * Up to 1 MiB a class is a power of two and its segments hold many slices. Above, there are eight
 * classes to each doubling, so that at most an eighth is wasted, and every slice has a segment of
 * its own.
 */
#include <stddef.h>

#include "pool_private.h"

#define POOL_SEGMENT_BYTES (UINT64_C(2) << 20)       /* of small slices */
#define POOL_SEGMENT_BYTES_SPANS (UINT64_C(4) << 20) /* of slices from 256 KiB on */
#define POOL_WARM_SMALL_BELOW (UINT64_C(64) << 10)
#define POOL_SEGMENT_SLICES 1024u                    /* no more than that in one segment */

uint32_t pool_class_of(uint64_t byte_count)
{
    if (byte_count <= SHMRING_SLICE_BYTES_MIN)
        return 0;
    const uint64_t last = byte_count - 1;
    const uint32_t exponent = 63u - (uint32_t)__builtin_clzll(last);
    if (exponent < POOL_LARGE_EXPONENT)
        return exponent - 7; /* 2^8 + 1 .. 2^9 bytes have a last byte in 2^8 .. : class 1 */
    const uint32_t eighths = (uint32_t)(last >> (exponent - 3)); /* 8 .. 15 */
    return POOL_SMALL_CLASSES + (exponent - POOL_LARGE_EXPONENT) * 8 + eighths - 8;
}

uint64_t pool_class_slice_bytes(uint32_t class_index)
{
    if (class_index < POOL_SMALL_CLASSES)
        return (uint64_t)SHMRING_SLICE_BYTES_MIN << class_index;
    const uint32_t large = class_index - POOL_SMALL_CLASSES;
    const uint32_t exponent = POOL_LARGE_EXPONENT + large / 8;
    return (uint64_t)(large % 8 + 9) << (exponent - 3);
}

uint64_t pool_class_segment_bytes(uint32_t class_index)
{
    const uint64_t slice_bytes = pool_class_slice_bytes(class_index);
    if (class_index >= POOL_SMALL_CLASSES)
        return slice_bytes;
    if (slice_bytes >= POOL_SEGMENT_BYTES / 8)
        return POOL_SEGMENT_BYTES_SPANS;
    const uint64_t most = slice_bytes * POOL_SEGMENT_SLICES;
    return most < POOL_SEGMENT_BYTES ? most : POOL_SEGMENT_BYTES;
}

uint64_t pool_class_warm_bytes(const struct shmring_pool *pool, uint32_t class_index)
{
    return pool_class_slice_bytes(class_index) < POOL_WARM_SMALL_BELOW
               ? pool->options.warm_small_bytes
               : pool->options.warm_bytes;
}

void pool_class_remove(struct pool_class *class, struct shmring_pool_record *record)
{
    if (record->previous != NULL)
        record->previous->next = record->next;
    else
        class->oldest = record->next;
    if (record->next != NULL)
        record->next->previous = record->previous;
    else
        class->newest = record->previous;
    record->next = record->previous = NULL;
}

void pool_class_put(struct pool_class *class, struct shmring_pool_record *record)
{
    record->next = NULL;
    record->previous = class->newest;
    if (class->newest != NULL)
        class->newest->next = record;
    else
        class->oldest = record;
    class->newest = record;
}

struct shmring_pool_record *pool_class_carve(struct pool_class *class, uint64_t byte_count)
{
    struct pool_segment *segment = class->fresh;
    if (segment == NULL || segment->slice_bytes < byte_count)
        return NULL;
    struct shmring_pool_record *record = &segment->records[segment->carved];
    record->segment = segment;
    record->offset = segment->carved * segment->slice_bytes;
    class->touched_bytes += segment->slice_bytes;
    if (++segment->carved == segment->slice_count)
        class->fresh = NULL;
    return record;
}

struct shmring_pool_record *pool_class_take(struct pool_class *class, uint64_t byte_count)
{
    if (shmring_unlikely(class->touched_bytes < class->warm_bytes)) {
        struct shmring_pool_record *fresh = pool_class_carve(class, byte_count);
        if (fresh != NULL)
            return fresh;
    }
    /* The oldest fits, but where the quota cut a large segment short. */
    struct shmring_pool_record *record = class->oldest;
    while (record != NULL && shmring_unlikely(record->segment->slice_bytes < byte_count))
        record = record->next;
    if (shmring_likely(record != NULL)) {
        pool_class_remove(class, record);
        return record;
    }
    return pool_class_carve(class, byte_count);
}
