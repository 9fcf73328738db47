/*
 * pool.c - loans. See shmring_pool.h for what a pool promises and pool_private.h for its words.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pool_private.h"

#define POOL_WARM_BYTES (UINT64_C(4) << 20)
#define POOL_WARM_SMALL_BYTES (UINT64_C(1) << 20)

int shmring_pool_init(const struct shmring_pool_options *options, struct shmring_pool **pool_out)
{
    *pool_out = NULL;
    if (options->lane >= SHMRING_LANES_MAX)
        return -EINVAL;
    struct shmring_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return -ENOMEM;
    pool->options = *options;
    /* Segments are whole pages, so a part of one could never be used. */
    pool->options.quota_bytes -= options->quota_bytes % SHMRING_PAGE_BYTES;
    if (SHMRING_UNCHECKED(QUOTA))
        pool->options.quota_bytes = (uint64_t)1 << 40;
    if (pool->options.warm_bytes == 0)
        pool->options.warm_bytes = POOL_WARM_BYTES;
    if (pool->options.warm_small_bytes == 0)
        pool->options.warm_small_bytes = POOL_WARM_SMALL_BYTES;
    pool->first_active = POOL_NONE;
    for (uint32_t i = 0; i < POOL_CLASSES; i++)
        pool->classes[i].warm_bytes = pool_class_warm_bytes(pool, i);
    *pool_out = pool;
    return 0;
}

void shmring_pool_deinit(struct shmring_pool *pool)
{
    if (pool == NULL)
        return;
    for (uint32_t i = 0; i < pool->link_count; i++) {
        if (pool->links[i].board != NULL)
            (void)shmring_pool_link_remove(pool, i);
    }
    while (pool->foreign_records != NULL) /* forwarded and not lent any more, but not ended */
        pool_foreign_free(pool, pool->foreign_records);
    for (uint32_t i = 0; i < pool->segment_limit; i++) {
        if (pool->segments[i] != NULL)
            pool_segment_destroy(pool->segments[i]);
    }
    free(pool->links);
    free(pool->segments);
    free(pool->generations);
    free(pool->retired);
    free(pool);
}

static int hand_out(struct shmring_pool *pool, struct shmring_pool_record *record,
                    struct shmring_slice *slice_out)
{
    struct pool_segment *segment = record->segment;
    struct pool_class *class = &pool->classes[segment->class_index];
    record->references = 1;
    segment->used++;
    class->uses++;
    class->used_bytes += segment->slice_bytes;
    pool->used_bytes += segment->slice_bytes;
    if (class->used_bytes > class->peak_bytes)
        class->peak_bytes = class->used_bytes;
    *slice_out = (struct shmring_slice){
        .base = (char *)segment->mapping.base + record->offset,
        .capacity_bytes = segment->slice_bytes,
        .offset = record->offset,
        .segment = segment->number,
        .record = record,
    };
    return SHMRING_OK;
}

/* When neither the class nor the kernel has anything: a free slice of a larger class. */
static struct shmring_pool_record *borrow_larger(struct shmring_pool *pool, uint32_t class_index,
                                                 uint64_t byte_count)
{
    for (uint32_t i = class_index + 1; i < POOL_CLASSES; i++) {
        struct pool_class *class = &pool->classes[i];
        if (class->segments == NULL)
            continue;
        struct shmring_pool_record *record = pool_class_take(class, byte_count);
        if (record != NULL)
            return record;
    }
    return NULL;
}

/* A segment for the class: a smaller one than usual where the quota ends. */
static int grow(struct shmring_pool *pool, uint32_t class_index, uint64_t byte_count,
                bool make_room)
{
    const uint64_t wanted = pool_class_segment_bytes(class_index);
    const uint64_t quota = pool->options.quota_bytes;
    if (pool->charged_bytes + wanted > quota) {
        const uint64_t slice_bytes = pool_class_slice_bytes(class_index);
        const uint64_t least = slice_bytes > quota ? byte_count : slice_bytes;
        /* What is free elsewhere goes first: for all that is wanted, or at least for one slice. */
        if (make_room && !pool_segment_make_room(pool, wanted < quota ? wanted : quota))
            (void)pool_segment_make_room(pool, least);
        if (quota - pool->charged_bytes < least)
            return SHMRING_E_FULL;
    }
    return pool_segment_add(pool, class_index, byte_count);
}

static int loan_cold(struct shmring_pool *pool, uint32_t class_index, uint64_t byte_count,
                     struct shmring_slice *slice_out)
{
    struct pool_class *class = &pool->classes[class_index];
    struct shmring_pool_record *record;
    for (uint32_t all = 0; all < 2; all++) {
        if (shmring_pool_collect(pool, all == 1) != 0 &&
            (record = pool_class_take(class, byte_count)) != NULL)
            return hand_out(pool, record, slice_out);
    }
    const int result = grow(pool, class_index, byte_count, true);
    record = result == SHMRING_OK ? pool_class_take(class, byte_count)
                                  : borrow_larger(pool, class_index, byte_count);
    if (record == NULL)
        return result;
    return hand_out(pool, record, slice_out);
}

int shmring_pool_loan(struct shmring_pool *pool, uint64_t byte_count,
                      struct shmring_slice *slice_out)
{
    if (shmring_unlikely(shmring_forked()))
        return SHMRING_E_FORKED;
    if (shmring_unlikely(byte_count > pool->options.quota_bytes ||
                         byte_count > SHMRING_SLICE_BYTES_MAX))
        return SHMRING_E_TOO_LARGE;
    const uint32_t class_index = pool_class_of(byte_count);
    struct pool_class *class = &pool->classes[class_index];
    if (shmring_unlikely(class->touched_bytes < class->warm_bytes && class->fresh == NULL &&
                         class->oldest != NULL)) {
        /* Not warm yet: fresh memory rather than what has just come back. If there is none to be
         * had, the class counts as warm until the next trim. */
        if (grow(pool, class_index, byte_count, false) != SHMRING_OK)
            class->warm_bytes = 0;
    }
    struct shmring_pool_record *record = pool_class_take(class, byte_count);
    if (shmring_unlikely(record == NULL))
        return loan_cold(pool, class_index, byte_count, slice_out);
    return hand_out(pool, record, slice_out);
}

void pool_record_drop(struct shmring_pool *pool, struct shmring_pool_record *record)
{
    assert(record->references != 0);
    if (--record->references != 0)
        return;
    struct pool_segment *segment = record->segment;
    segment->used--;
    if (shmring_unlikely(segment->class_index == POOL_FOREIGN_CLASS)) {
        pool_foreign_free(pool, record);
        return;
    }
    struct pool_class *class = &pool->classes[segment->class_index];
    class->uses++;
    class->used_bytes -= segment->slice_bytes;
    pool->used_bytes -= segment->slice_bytes;
    pool_class_put(class, record);
}

void shmring_pool_end(struct shmring_pool *pool, const struct shmring_slice *slice)
{
    pool_record_drop(pool, slice->record);
}

void shmring_pool_usage(const struct shmring_pool *pool, struct shmring_pool_usage *usage_out)
{
    *usage_out = (struct shmring_pool_usage){
        .quota_bytes = pool->options.quota_bytes,
        .charged_bytes = pool->charged_bytes,
        .used_bytes = pool->used_bytes,
        .lends = pool->lends_out,
        .segments = pool->segment_count,
        .foreign_segments = pool->foreign_count,
    };
}
