/* An inbox and its rings: which are read, and by which path. */
#include <errno.h>
#include <stdlib.h>

#include "inbox_private.h"

void shmring_inbox_init(struct shmring_inbox *inbox, const struct shmring_clock *clock,
                        const uint64_t *death, const uint32_t *attention)
{
    *inbox = (struct shmring_inbox){.clock = *clock, .death = death, .attention = attention};
    /* Relaxed: only to be compared; what a change means is read by a look. */
    inbox->death_seen = shmring_load_relaxed(death);
    inbox->attention_seen = shmring_load_relaxed_u32(attention);
}

void shmring_inbox_deinit(struct shmring_inbox *inbox)
{
    free(inbox->ready);
    free(inbox->rings);
    free(inbox->watches);
    inbox->ready = NULL;
    inbox->rings = NULL;
    inbox->watches = NULL;
    inbox->ring_count = inbox->ring_capacity = 0;
    inbox->watch_count = inbox->watch_capacity = 0;
}

void shmring_inbox_choose_path(struct shmring_inbox *inbox)
{
    inbox->only = NULL;
    if (inbox->ring_count != 1 || inbox->waiting || inbox->ready_end != 0 || inbox->held ||
        inbox->unsettled)
        return;
    struct shmring_consumer *ring = inbox->rings[0];
    if (ring->open_first == ring->open_end && ring->retired_count == 0 &&
        ring->in_service_from == 0)
        inbox->only = ring;
}

int shmring_inbox_add(struct shmring_inbox *inbox, struct shmring_consumer *consumer)
{
    if (inbox->ring_count == SHMRING_INBOX_RINGS_MAX)
        return SHMRING_E_TOO_LARGE;
    if (inbox->ring_count == inbox->ring_capacity) {
        uint32_t capacity = inbox->ring_capacity == 0 ? 8 : 2 * inbox->ring_capacity;
        void *grown = realloc(inbox->rings, capacity * sizeof *inbox->rings);
        if (grown == NULL)
            return -ENOMEM;
        inbox->rings = grown;
        inbox->ring_capacity = capacity;
    }
    inbox->rings[inbox->ring_count++] = consumer;
    consumer->retirements = &inbox->counts.retired;
    inbox->ready_needed += (uint32_t)consumer->capacity + SHMRING_RETIRED_MAX;
    if (consumer->body_bytes > inbox->body_bytes_max)
        inbox->body_bytes_max = consumer->body_bytes;
    shmring_inbox_choose_path(inbox);
    return SHMRING_OK;
}

void shmring_inbox_remove(struct shmring_inbox *inbox, struct shmring_consumer *consumer)
{
    uint32_t at = 0;
    while (at < inbox->ring_count && inbox->rings[at] != consumer)
        at++;
    if (at == inbox->ring_count)
        return;
    shmring_inbox_drop_hand(inbox);
    /* What a look had put in order refers to rings by index: forget the look, its slots stay
     * open. */
    for (uint32_t r = 0; r < inbox->ring_count; r++)
        for (uint32_t i = inbox->rings[r]->open_first; i < inbox->rings[r]->open_end; i++)
            if (inbox->rings[r]->open[i].state != SHMRING_OPEN_DONE)
                inbox->rings[r]->open[i].state = SHMRING_OPEN_UNRESOLVED;
    inbox->ready_first = inbox->ready_end = 0;
    inbox->waiting = 0;
    shmring_watches_reset(inbox);
    inbox->rings[at] = inbox->rings[--inbox->ring_count];
    consumer->retirements = NULL;
    inbox->ready_needed -= (uint32_t)consumer->capacity + SHMRING_RETIRED_MAX;
    shmring_inbox_choose_path(inbox);
}

void shmring_inbox_hold(struct shmring_inbox *inbox, bool held)
{
    inbox->held = held;
    shmring_inbox_choose_path(inbox);
}

int shmring_inbox_stuck(struct shmring_inbox *inbox, struct shmring_consumer *consumer,
                        uint64_t *positions, uint32_t room, uint32_t *count)
{
    *count = 0;
    if (inbox->waiting || inbox->ready_first != inbox->ready_end)
        return SHMRING_E_FULL; /* a look is under way: its entries must not move */
    int result = shmring_consumer_reserve(consumer);
    if (result)
        return result;
    shmring_inbox_drop_hand(inbox);
    inbox->ready_first = inbox->ready_end = 0;
    shmring_consumer_compact(consumer);
    /* SYNC R7 acquire, as in look_at_ring. */
    uint64_t tail = shmring_load_acquire(&consumer->control->tail);
    uint64_t claimed = tail - consumer->head;
    if (claimed > consumer->capacity || claimed < consumer->next - consumer->head)
        return SHMRING_E_CORRUPT;
    /* Everything claimed becomes open: to be read again, whatever it is now. */
    for (; consumer->next != tail; consumer->next++) {
        if ((consumer->in_service_from != 0 || consumer->retired_count != 0) && /* Relaxed: own. */
            consumer->next <
                shmring_load_relaxed(&consumer->resume[consumer->next & consumer->mask]))
            continue;
        consumer->open[consumer->open_end++] = (struct shmring_open){
            .position = consumer->next,
            .unclaimed = shmring_consumer_unclaimed(consumer, consumer->next)};
    }
    for (uint32_t i = 0; i < consumer->open_end + consumer->retired_count; i++) {
        uint64_t position = i < consumer->open_end
                                ? consumer->open[i].position
                                : consumer->retired[i - consumer->open_end].position;
        if (shmring_consumer_header(consumer, position) >> SHMRING_POSITION_SHIFT != position &&
            *count < room)
            positions[(*count)++] = position;
    }
    shmring_inbox_choose_path(inbox);
    return SHMRING_OK;
}
