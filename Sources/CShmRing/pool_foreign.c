/*
 * pool_foreign.c - forwarding: a chain of lends instead of a copy.
 *
 * The forwarder lends on what it holds. Its ledger has an entry for the held slice like for an own
 * one; when the last reference goes, the entry gives the slice back to where it came from. Each
 * link of the chain knows only its neighbours: the third peer sees a segment of the forwarder,
 * checks its seals itself, and when the forwarder dies the origin takes the lend back from it as
 * always.
 */
#include <errno.h>
#include <stdlib.h>

#include "pool_private.h"

static int add_foreign_segment(struct shmring_pool *pool, const struct shmring_held *held,
                               struct pool_segment **segment_out)
{
    const int fd = shmring_view_segment_fd(held->segment);
    if (fd < 0)
        return -EBADF;
    struct pool_segment *segment = calloc(1, sizeof *segment);
    if (segment == NULL)
        return -ENOMEM;
    segment->class_index = POOL_FOREIGN_CLASS;
    segment->byte_count = shmring_view_segment_bytes(held->segment);
    const int result = pool_segment_enter(pool, segment);
    if (result != 0) {
        free(segment);
        return result;
    }
    /* The reference keeps the descriptor open, and the address from naming another segment. */
    shmring_view_segment_keep(held->segment);
    segment->fd = fd;
    segment->origin = held->segment;
    segment->next = pool->foreign_segments;
    if (segment->next != NULL)
        segment->next->previous = segment;
    pool->foreign_segments = segment;
    pool->foreign_count++;
    *segment_out = segment;
    return 0;
}

int shmring_pool_adopt(struct shmring_pool *pool, struct shmring_held *held,
                       struct shmring_slice *slice_out)
{
    if (shmring_forked())
        return SHMRING_E_FORKED;
    if (held->segment == NULL)
        return -EINVAL;
    struct pool_foreign *foreign = calloc(1, sizeof *foreign);
    if (foreign == NULL)
        return -ENOMEM;
    struct pool_segment *segment = pool->foreign_segments;
    while (segment != NULL && segment->origin != held->segment)
        segment = segment->next;
    const int result = segment == NULL ? add_foreign_segment(pool, held, &segment) : 0;
    if (result != 0) {
        free(foreign);
        return result;
    }
    segment->used++;
    segment->carved++;
    foreign->held = *held;
    foreign->record.segment = segment;
    foreign->record.offset = held->offset;
    foreign->record.references = 1;
    foreign->record.next = pool->foreign_records;
    if (foreign->record.next != NULL)
        foreign->record.next->previous = &foreign->record;
    pool->foreign_records = &foreign->record;
    *slice_out = (struct shmring_slice){
        .base = (void *)(uintptr_t)held->base,
        .capacity_bytes = held->byte_count,
        .offset = held->offset,
        .segment = segment->number,
        .record = &foreign->record,
    };
    *held = (struct shmring_held){0};
    return SHMRING_OK;
}

bool shmring_pool_has_adopted(const struct shmring_pool *pool, const struct shmring_board *board)
{
    for (const struct shmring_pool_record *record = pool->foreign_records; record != NULL;
         record = record->next) {
        const struct pool_foreign *foreign = (const struct pool_foreign *)(const void *)record;
        if (foreign->held.board == board)
            return true;
    }
    return false;
}

void pool_foreign_free(struct shmring_pool *pool, struct shmring_pool_record *record)
{
    struct pool_foreign *foreign = (struct pool_foreign *)(void *)record;
    if (record->previous != NULL)
        record->previous->next = record->next;
    else
        pool->foreign_records = record->next;
    if (record->next != NULL)
        record->next->previous = record->previous;
    shmring_held_give_back(&foreign->held);
    free(foreign);
}

uint32_t pool_foreign_trim(struct shmring_pool *pool, uint64_t now_ns, uint64_t idle_ns)
{
    uint32_t count = 0;
    for (struct pool_segment *segment = pool->foreign_segments, *next; segment != NULL;
         segment = next) {
        next = segment->next;
        if (segment->used != 0 || segment->carved != 0) {
            segment->carved = 0; /* counts what was forwarded since the last trim */
            segment->idle_since_ns = now_ns;
        }
        if (segment->used != 0 || now_ns - segment->idle_since_ns < idle_ns)
            continue;
        struct pool_segment *previous = segment->previous;
        if (!pool_segment_retire(pool, segment))
            continue;
        if (previous != NULL)
            previous->next = next;
        else
            pool->foreign_segments = next;
        if (next != NULL)
            next->previous = previous;
        pool->foreign_count--;
        count++;
    }
    return count;
}
