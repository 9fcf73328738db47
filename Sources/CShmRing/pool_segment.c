/*
 * pool_segment.c - where slices come from, and where idle ones go.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool_private.h"

#define POOL_GENERATIONS (1u << (32 - SHMRING_SEGMENT_INDEX_BITS - SHMRING_SEGMENT_LANE_BITS))

/* ---- the table ------------------------------------------------------------------------------ */

static int grow_table(struct shmring_pool *pool)
{
    if (pool->segment_limit == SHMRING_SEGMENTS_MAX)
        return -ENFILE;
    const uint32_t limit = pool->segment_limit == 0 ? 16 : pool->segment_limit * 2;
    struct pool_segment **segments = realloc(pool->segments, limit * sizeof(*segments));
    if (segments == NULL)
        return -ENOMEM;
    pool->segments = segments;
    uint16_t *generations = realloc(pool->generations, limit * sizeof *generations);
    if (generations == NULL)
        return -ENOMEM;
    pool->generations = generations;
    for (uint32_t i = pool->segment_limit; i < limit; i++) {
        segments[i] = NULL;
        generations[i] = 0;
    }
    pool->segment_limit = limit;
    return 0;
}

int pool_segment_enter(struct shmring_pool *pool, struct pool_segment *segment)
{
    uint32_t index = 0;
    while (index < pool->segment_limit && pool->segments[index] != NULL)
        index++;
    if (index == pool->segment_limit) {
        const int result = grow_table(pool);
        if (result != 0)
            return result;
    }
    /* From 1 on, so that 0 is never a number and a number is not soon used again. */
    const uint32_t generation = pool->generations[index] % (POOL_GENERATIONS - 1) + 1;
    pool->generations[index] = (uint16_t)generation;
    segment->number = generation << (SHMRING_SEGMENT_INDEX_BITS + SHMRING_SEGMENT_LANE_BITS) |
                      pool->options.lane << SHMRING_SEGMENT_INDEX_BITS | index;
    pool->segments[index] = segment;
    return 0;
}

struct pool_segment *pool_segment_find(const struct shmring_pool *pool, uint32_t number)
{
    const uint32_t index = SHMRING_SEGMENT_INDEX(number);
    if (index >= pool->segment_limit || pool->segments[index] == NULL ||
        pool->segments[index]->number != number)
        return NULL;
    return pool->segments[index];
}

int shmring_pool_segment(const struct shmring_pool *pool, uint32_t number, int *fd_out,
                         uint64_t *byte_count_out)
{
    const struct pool_segment *segment = pool_segment_find(pool, number);
    if (segment == NULL)
        return -ENOENT;
    *fd_out = segment->fd;
    *byte_count_out = segment->byte_count;
    return 0;
}

/* ---- adding --------------------------------------------------------------------------------- */

/* Reserved, mapped for writing and touched, then sealed so that nobody else can map it so. Touched,
 * because only that proves to a receiver that no page is missing; it also costs less than a fault
 * for each page later. */
static int make_memory(const struct shmring_pool *pool, struct pool_segment *segment)
{
    struct shmring_placement placement = pool->options.placement;
    placement.prefault = true;
    int result = shmring_segment_create("bus1-pool", segment->byte_count, true, &segment->fd);
    if (result != 0)
        return result;
    result = shmring_segment_map(segment->fd, SHMRING_SEGMENT_POOL, SHMRING_READ_WRITE,
                                 segment->byte_count, false, true, &placement, NULL,
                                 &segment->mapping);
    if (result == 0)
        result = shmring_segment_seal(segment->fd, true);
    return result;
}

int pool_segment_add(struct shmring_pool *pool, uint32_t class_index, uint64_t byte_count)
{
    const uint64_t room = pool->options.quota_bytes - pool->charged_bytes;
    uint64_t segment_bytes = pool_class_segment_bytes(class_index);
    uint64_t slice_bytes = pool_class_slice_bytes(class_index);
    if (segment_bytes > room)
        segment_bytes = room / SHMRING_PAGE_BYTES * SHMRING_PAGE_BYTES;
    if (slice_bytes > segment_bytes)
        slice_bytes = segment_bytes;
    if (slice_bytes < byte_count || slice_bytes == 0)
        return SHMRING_E_FULL;
    const uint32_t count = (uint32_t)(segment_bytes / slice_bytes);
    const uint64_t pages = (count * slice_bytes + SHMRING_PAGE_BYTES - 1) / SHMRING_PAGE_BYTES;
    segment_bytes = pages * SHMRING_PAGE_BYTES;

    struct pool_segment *segment = calloc(1, sizeof *segment + count * sizeof segment->records[0]);
    if (segment == NULL)
        return -ENOMEM;
    segment->fd = -1;
    segment->class_index = class_index;
    segment->slice_count = count;
    segment->slice_bytes = slice_bytes;
    segment->byte_count = segment_bytes;
    int result = make_memory(pool, segment);
    if (result == 0)
        result = pool_segment_enter(pool, segment);
    if (result != 0) {
        pool_segment_destroy(segment);
        return result;
    }
    struct pool_class *class = &pool->classes[class_index];
    segment->next = class->segments;
    if (segment->next != NULL)
        segment->next->previous = segment;
    class->segments = segment;
    class->fresh = segment;
    class->segment_bytes += segment_bytes;
    pool->charged_bytes += segment_bytes;
    pool->segment_count++;
    return 0;
}

/* ---- retiring ------------------------------------------------------------------------------- */

void pool_segment_destroy(struct pool_segment *segment)
{
    shmring_segment_unmap(&segment->mapping);
    if (segment->origin != NULL)
        shmring_view_segment_drop(segment->origin);
    else if (segment->fd >= 0)
        (void)close(segment->fd);
    free(segment);
}

/* The list must not lose a number, or receivers would keep the memory: no room, no retirement. */
static bool note_retired(struct shmring_pool *pool, uint32_t number)
{
    if (pool->retired_count == pool->retired_limit) {
        const uint32_t limit = pool->retired_limit == 0 ? 16 : pool->retired_limit * 2;
        uint32_t *retired = realloc(pool->retired, limit * sizeof *retired);
        if (retired == NULL)
            return false;
        pool->retired = retired;
        pool->retired_limit = limit;
    }
    pool->retired[pool->retired_count++] = number;
    return true;
}

bool pool_segment_retire(struct shmring_pool *pool, struct pool_segment *segment)
{
    if (!note_retired(pool, segment->number))
        return false;
    pool->segments[SHMRING_SEGMENT_INDEX(segment->number)] = NULL;
    if (segment->class_index != POOL_FOREIGN_CLASS) {
        struct pool_class *class = &pool->classes[segment->class_index];
        for (uint32_t i = 0; i < segment->carved; i++)
            pool_class_remove(class, &segment->records[i]);
        if (segment->previous != NULL)
            segment->previous->next = segment->next;
        else
            class->segments = segment->next;
        if (segment->next != NULL)
            segment->next->previous = segment->previous;
        if (class->fresh == segment)
            class->fresh = NULL;
        class->segment_bytes -= segment->byte_count;
        class->touched_bytes -= segment->carved * segment->slice_bytes;
        pool->charged_bytes -= segment->byte_count;
        pool->segment_count--;
    }
    pool_segment_destroy(segment);
    return true;
}

/* Retires free segments of a class while it keeps at least `keep` bytes. */
static uint32_t retire_free(struct shmring_pool *pool, struct pool_class *class, uint64_t keep)
{
    uint32_t count = 0;
    for (struct pool_segment *segment = class->segments, *next; segment != NULL; segment = next) {
        next = segment->next;
        if (segment->used != 0 || class->segment_bytes - segment->byte_count < keep)
            continue;
        count += pool_segment_retire(pool, segment);
    }
    return count;
}

bool pool_segment_make_room(struct shmring_pool *pool, uint64_t byte_count)
{
    const uint64_t quota = pool->options.quota_bytes;
    if (byte_count > quota)
        return false;
    uint64_t could = quota - pool->charged_bytes;
    for (uint32_t i = 0; i < POOL_CLASSES && could < byte_count; i++) {
        for (struct pool_segment *s = pool->classes[i].segments; s != NULL; s = s->next)
            could += s->used == 0 ? s->byte_count : 0;
    }
    if (could < byte_count)
        return false;
    for (uint32_t i = POOL_CLASSES; i-- > 0;) {
        for (struct pool_segment *s = pool->classes[i].segments, *next; s != NULL; s = next) {
            next = s->next;
            if (quota - pool->charged_bytes >= byte_count)
                return true;
            if (s->used == 0)
                (void)pool_segment_retire(pool, s);
        }
    }
    return quota - pool->charged_bytes >= byte_count;
}

static uint32_t trim_class(struct shmring_pool *pool, struct pool_class *class, uint64_t now_ns,
                           uint64_t idle_ns, uint64_t warm_bytes)
{
    class->warm_bytes = warm_bytes;
    if (class->segments == NULL)
        return 0;
    if (idle_ns == 0)
        return retire_free(pool, class, 0);
    if (class->uses != class->uses_seen || class->used_bytes != 0) {
        class->uses_seen = class->uses;
        class->idle_since_ns = now_ns;
    } else if (now_ns - class->idle_since_ns >= idle_ns) {
        return retire_free(pool, class, 0);
    }
    /* In use: what was needed in this window or the last one stays, and enough to stay warm. */
    uint64_t keep = class->peak_bytes > class->last_peak_bytes ? class->peak_bytes
                                                               : class->last_peak_bytes;
    if (keep < warm_bytes)
        keep = warm_bytes;
    if (now_ns - class->window_since_ns >= idle_ns) {
        class->window_since_ns = now_ns;
        class->last_peak_bytes = class->peak_bytes;
        class->peak_bytes = class->used_bytes;
    }
    return class->segment_bytes > keep ? retire_free(pool, class, keep) : 0;
}

uint32_t shmring_pool_trim(struct shmring_pool *pool, uint64_t now_ns, uint64_t idle_ns)
{
    if (shmring_forked())
        return 0;
    (void)shmring_pool_collect(pool, true);
    uint32_t count = pool_foreign_trim(pool, now_ns, idle_ns);
    for (uint32_t i = 0; i < POOL_CLASSES; i++) {
        const uint64_t warm_bytes = pool_class_warm_bytes(pool, i);
        count += trim_class(pool, &pool->classes[i], now_ns, idle_ns, warm_bytes);
    }
    return count;
}

uint32_t shmring_pool_take_retired(struct shmring_pool *pool, uint32_t *numbers, uint32_t n)
{
    const uint32_t count = pool->retired_count < n ? pool->retired_count : n;
    for (uint32_t i = 0; i < count; i++)
        numbers[i] = pool->retired[i];
    if (count != 0)
        memmove(pool->retired, pool->retired + count,
                (pool->retired_count - count) * sizeof *numbers);
    pool->retired_count -= count;
    return count;
}
