#include <errno.h>
#include <linux/futex.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "CShmRing.h"

int shmring_producer_init(struct shmring_producer *producer, const struct shmring_mapping *ring,
                          uint64_t *claim_word, uint32_t sender)
{
    struct shmring_ring_control *control = ring->base;
    /* Copied once: another process may write it. Relaxed: its maker wrote it before it was sent. */
    uint32_t capacity = shmring_load_relaxed_u32(&control->header.param_a);
    uint32_t slot_bytes = shmring_load_relaxed_u32(&control->header.param_b);
    uint32_t ring_id = shmring_load_relaxed_u32(&control->header.id);
    uint64_t byte_count = shmring_ring_bytes(capacity, slot_bytes);
    if ((byte_count == 0 || byte_count != ring->byte_count || ring_id >= SHMRING_RINGS_MAX ||
         sender >= SHMRING_SENDERS_MAX) &&
        !SHMRING_UNCHECKED(GEOMETRY))
        return SHMRING_E_CORRUPT;
    *producer = (struct shmring_producer){
        .control = control,
        .resume = (const uint64_t *)(void *)((uint8_t *)ring->base + SHMRING_RESUME_OFFSET),
        .slots = (uint8_t *)ring->base + shmring_ring_slots_offset(capacity),
        .claim_word = claim_word,
        .mask = capacity - 1,
        .capacity = capacity,
        .unicast_room = capacity - capacity / 8,
        .slot_shift = (uint32_t)__builtin_ctz(slot_bytes),
        .body_bytes = slot_bytes - SHMRING_SLOT_HEADER_BYTES,
        .ring_id = ring_id,
        .sender = sender,
    };
    /* Whoever joins late must know what is out of service before its first claim. */
    uint64_t tail;
    (void)shmring_producer_room(producer, 1, producer->unicast_room, &tail);
    return SHMRING_OK;
}

int shmring_producer_room(struct shmring_producer *producer, uint64_t count, uint64_t room,
                          uint64_t *tail)
{
    for (uint32_t tries = 0; tries < SHMRING_CLAIM_TRIES; tries++) {
        /* SYNC R11 acquire, pairs with R2: head is read after it, the second reading below after
         * head (R4). If both agree, tail was this when head was read. An old tail against a new
         * head, or the other way round, differs by more than a lap and would be taken for
         * corruption. */
        uint64_t before = shmring_load_acquire(&producer->control->tail);
        int result = shmring_producer_refresh(producer, before, count, room);
        *tail = before;
        /* Relaxed: R4 keeps it behind head. */
        if (result == SHMRING_OK || shmring_load_relaxed(&producer->control->tail) == before)
            return result;
    }
    return SHMRING_E_FULL;
}

int shmring_producer_claim_slow(struct shmring_producer *producer, uint64_t *claim_word,
                                uint64_t room, uint64_t *position)
{
    /* No more than a lap: where every index is out of service, or a hostile receiver says so, each
     * further one would be a hole, too. */
    for (uint64_t holes = 0; shmring_producer_is_hole(producer, *position); holes++) {
        SHMRING_FAULT(CLAIM_HOLE);
        if (holes == producer->capacity) {
            /* SYNC R10 release, as in shmring_producer_claim_range. */
            shmring_store_release(claim_word, 0);
            return SHMRING_E_FULL;
        }
        int result = shmring_producer_claim_range(producer, claim_word, 1, room, position);
        if (result)
            return result;
    }
    return SHMRING_OK;
}

int shmring_batch_begin(struct shmring_producer *producer, uint64_t wanted,
                        struct shmring_batch *batch)
{
    *batch = (struct shmring_batch){0};
    if (wanted > SHMRING_CLAIM_COUNT_MAX)
        wanted = SHMRING_CLAIM_COUNT_MAX;
    if (wanted == 0)
        wanted = 1;
    const uint64_t room = producer->unicast_room;
    /* Bounded like a single claim: see SHMRING_CLAIM_TRIES, and shmring_producer_claim_slow. */
    uint64_t holes = 0;
    for (uint32_t tries = 0; tries < SHMRING_CLAIM_TRIES && holes < producer->capacity; tries++) {
        uint64_t tail = shmring_load_relaxed(&producer->control->tail); /* Relaxed: a guess. */
        if (wanted > room || tail - producer->head_seen > room - wanted) {
            int full = shmring_producer_room(producer, 1, room, &tail);
            if (full) {
                /* It names holes that were claimed before.
                 * SYNC R10 release, as in shmring_producer_claim_range. */
                shmring_store_release(producer->claim_word, 0);
                return full;
            }
        }
        uint64_t used = tail - producer->head_seen; /* a guess: the claim decides */
        uint64_t count = used >= room ? 1 : wanted < room - used ? wanted : room - used;
        int result = shmring_producer_claim_range(producer, producer->claim_word, count, room,
                                                  &batch->position);
        if (result == SHMRING_E_FULL && count > 1)
            continue; /* another producer took part of it: count anew */
        if (result)
            return result;
        batch->count = count;
        bool usable = false;
        for (uint64_t i = 0; i < count && !usable; i++)
            usable = !shmring_producer_is_hole(producer, batch->position + i);
        if (usable)
            return SHMRING_OK;
        holes += count;
    }
    batch->count = 0;
    /* SYNC R10 release, as in shmring_producer_claim_range. */
    shmring_store_release(producer->claim_word, 0);
    return SHMRING_E_FULL;
}

/* Wakes whoever sleeps on the doorbell, and strikes out the parking that was seen. */
static void ring_doorbell(struct shmring_ring_control *control, uint64_t park_number)
{
    /* SYNC D3 acq_rel, pairs with D4 in shmring_inbox_park: the futex compares this word, so a
     * receiver that is about to sleep does not. Also with an event descriptor: the receiver may
     * have changed its way of sleeping since it wrote the park number. */
    (void)shmring_fetch_add_acq_rel_u32(&control->doorbell, 1);
    SHMRING_FAULT(WAKE_RUNG);
    (void)syscall(SYS_futex, &control->doorbell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    SHMRING_FAULT(WAKE_WOKEN);
    /* SYNC D5 acq_rel, pairs with D2 in announce: strikes out this parking and no later one, whose
     * number differs. Only now, after the ringing: the other way round a sender killed in between
     * would leave everybody asleep, since those who come later see 0. Failing is fine: the receiver
     * has woken and parked anew. */
    (void)shmring_cas_acq_rel(&control->parked, &park_number, 0);
}

void shmring_producer_ring(struct shmring_producer *producer, uint64_t park_number)
{
    if ((park_number & SHMRING_PARKED_ON_EVENT) != 0) {
        const char one = 1;
        /* Relaxed: a number, complete in itself. */
        if (shmring_load_relaxed_u32(&producer->event_fd) == 0 && producer->fetch_event != NULL)
            producer->fetch_event(producer, producer->fetch_context);
        uint32_t event = shmring_load_relaxed_u32(&producer->event_fd);
        /* Not here yet: the number stays, so that the next send tries again; the receiver's timer
         * bounds the delay. */
        if (event == 0)
            return;
        /* Not write(2): strangers share the descriptor and could make it block. A full queue
         * (EAGAIN) is as good: the other end is readable. The receiver bounds its wait. */
        const int waits = SHMRING_UNCHECKED(BELL) ? 0 : MSG_DONTWAIT;
        (void)!send((int)(event - 1), &one, sizeof one, waits | MSG_NOSIGNAL);
    }
    ring_doorbell(producer->control, park_number);
}

void shmring_producer_flag(struct shmring_producer *producer, uint64_t flag)
{
    /* SYNC N8 acq_rel, pairs with N2 in look: who takes the flag finds the words that were set
     * before it. */
    (void)shmring_fetch_or_acq_rel(&producer->control->flags, flag);
}

void shmring_producer_wake(struct shmring_producer *producer)
{
    /* Relaxed: the caller's full barrier puts it behind what the receiver is to see (D1). */
    uint64_t parked = shmring_load_relaxed(&producer->control->parked);
    if (shmring_unlikely(parked != 0))
        shmring_producer_ring(producer, parked);
}

void shmring_consumer_flag(const struct shmring_consumer *consumer, uint64_t flag)
{
    (void)shmring_fetch_or_acq_rel(&consumer->control->flags, flag); /* SYNC N8 acq_rel, as above */
}

void shmring_consumer_wake(const struct shmring_consumer *consumer, int32_t event_fd)
{
    uint64_t one = 1;
    uint64_t parked = shmring_load_relaxed(&consumer->control->parked); /* Relaxed, as above. */
    if (parked == 0)
        return;
    if ((parked & SHMRING_PARKED_ON_EVENT) != 0 && event_fd >= 0)
        (void)send(event_fd, &one, sizeof one, MSG_DONTWAIT | MSG_NOSIGNAL); /* Full is as good. */
    ring_doorbell(consumer->control, parked);
}
