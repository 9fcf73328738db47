/*
 * shmring_ring.h - the sending side of a ring: claim, write, commit.
 *
 * A ring carries messages of one trust domain to one receiver; any number of lanes in any number of
 * processes send into it. A struct shmring_producer is one lane's way into one ring; one thread at
 * a time uses it.
 *
 * Guarantees:
 *   1. shmring_producer_send returns SHMRING_OK only when the message is visible to every core:
 *      whoever begins a send later, anywhere, is ordered behind it.
 *   2. Any other result means that nothing was claimed and nothing will be delivered.
 *   3. Lock-free: a producer stopped or killed between any two instructions stops no other one. It
 *      leaves at most its claimed slots unwritten; the receiver passes over them.
 *   4. No system call, no allocation, unless the receiver is parked: then one or two calls to wake
 *      it.
 *
 * NOTE - the receiver may be hostile and writes head, resume and parked: they can make sends fail
 * (SHMRING_E_FULL, SHMRING_E_CORRUPT), never make them write outside the ring.
 */
#pragma once

#include <string.h>

#include "shmring_atomics.h"
#include "shmring_clock.h"
#include "shmring_faults.h"
#include "shmring_layout.h"
#include "shmring_segment.h"
#include "shmring_checks.h"
#include "shmring_switches.h"

/* What a lane has last read of one kind of its credit in a ring. The receiver writes those words
 * for each message that it gives back: they are read anew only when this copy says short. */
struct shmring_credit_seen {
    uint64_t limit, credit, credited;
};

/* Private to one lane; nobody else reads it. */
struct shmring_producer {
    struct shmring_ring_control *control;
    const uint64_t *resume;
    uint8_t *slots;
    uint64_t *claim_word;    /* of the own lane, for single sends and batches */
    uint64_t mask;           /* capacity - 1 */
    uint64_t capacity;
    uint64_t unicast_room;   /* the last eighth is kept for transactions that failed before */
    uint64_t head_seen;      /* own copy of head, less withheld; read anew only when it says full */
    uint64_t withheld;       /* the receiver's, as of then */
    uint64_t out_of_service; /* own copy, read together with head */
    uint32_t slot_shift;
    uint32_t body_bytes; /* room in a slot */
    uint32_t ring_id;
    uint32_t sender;   /* what the broker calls the own process in this ring */
    uint32_t event_fd; /* + 1: rings a receiver that sleeps on its event descriptor; 0 none yet */
    uint32_t mark;     /* for the owner's own use */
    /* Called by the owning thread when the receiver sleeps on a descriptor that is not here yet:
     * may set event_fd. NULL: somebody else will. */
    void (*fetch_event)(struct shmring_producer *producer, void *context);
    void *fetch_context;
    uint64_t unpassed; /* slots for which commit words of the own lane answer */
    struct shmring_credit_seen credit_seen[SHMRING_CREDIT_KINDS];
};

/* Fills in a producer for a checked mapping of a ring. SHMRING_E_CORRUPT: the header, though of the
 * right kind, describes another geometry than the mapping holds. */
int shmring_producer_init(struct shmring_producer *producer, const struct shmring_mapping *ring,
                          uint64_t *claim_word, uint32_t sender);

/* The datagram socket that wakes the receiver from an event loop. The caller keeps it open for as
 * long as the producer lives. Any thread. */
SHMRING_INLINE void shmring_producer_set_event(struct shmring_producer *producer, int32_t fd)
{
    /* Relaxed: a number, complete in itself; the descriptor behind it was open before. */
    shmring_store_relaxed_u32(&producer->event_fd, (uint32_t)fd + 1);
}

/* Wakes the receiver that parked under this number. The one place where a send enters the
 * kernel. */
void shmring_producer_ring(struct shmring_producer *producer, uint64_t park_number);

/* Sets a SHMRING_FLAG_... in the receiver's ring. Its receiver reads what the flag names before it
 * delivers anything sent later. Any thread. */
void shmring_producer_flag(struct shmring_producer *producer, uint64_t flag);
/* Wakes the receiver if it sleeps. After a full barrier behind what it is to see. */
void shmring_producer_wake(struct shmring_producer *producer);

/* A claim that loses its compare-and-swap this often in a row is given up as full: others of this
 * ring are honest and busy, which never lasts so long, or somebody writes tail for mischief. */
#define SHMRING_CLAIM_TRIES 65536u

/* The careful answer to "is there room": from a tail and a head that belong together. *tail: what
 * it was. SHMRING_OK, SHMRING_E_FULL, SHMRING_E_CORRUPT. */
int shmring_producer_room(struct shmring_producer *producer, uint64_t count, uint64_t room,
                          uint64_t *tail);

/* Claims one position that is in service, where the plain claim met an index out of service. */
int shmring_producer_claim_slow(struct shmring_producer *producer, uint64_t *claim_word,
                                uint64_t room, uint64_t *position);

/* Waits until head has gone on, as shmring_producer_wait: for who was refused though there is room
 * in the ring. */
int shmring_producer_wait_for_head(struct shmring_producer *producer, uint64_t deadline_ns);

/* Waits for room, up to deadline_ns (CLOCK_MONOTONIC) and some ms at a time. SHMRING_OK: there was
 * room, try again. SHMRING_E_FULL: not yet. SHMRING_E_CORRUPT. */
int shmring_producer_wait(struct shmring_producer *producer, uint64_t room, uint64_t deadline_ns);
/* The first half of it, for who sleeps elsewhere: on SHMRING_E_FULL until *word changes, or some
 * ms, and then tries again. */
struct shmring_word;
int shmring_producer_announce(struct shmring_producer *producer, uint64_t room,
                              struct shmring_word *word);

SHMRING_INLINE struct shmring_slot *shmring_producer_slot(const struct shmring_producer *producer,
                                                          uint64_t position)
{
    uint64_t index = position & producer->mask;
    return (struct shmring_slot *)(void *)(producer->slots + (index << producer->slot_shift));
}

/* Copies n bytes to shared memory, without a call for the sizes that fit a slot. Reads no byte
 * twice that matters: source is private. */
SHMRING_INLINE void shmring_copy(void *to, const void *from, uint64_t n)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    if (n >= 16) {
        uint64_t i = 0;
        for (; i + 16 <= n; i += 16)
            __builtin_memcpy(t + i, f + i, 16);
        if (i < n)
            __builtin_memcpy(t + n - 16, f + n - 16, 16);
    } else if (n >= 8) {
        uint64_t low, high;
        __builtin_memcpy(&low, f, 8);
        __builtin_memcpy(&high, f + n - 8, 8);
        __builtin_memcpy(t, &low, 8);
        __builtin_memcpy(t + n - 8, &high, 8);
    } else if (n >= 4) {
        uint32_t low, high;
        __builtin_memcpy(&low, f, 4);
        __builtin_memcpy(&high, f + n - 4, 4);
        __builtin_memcpy(t, &low, 4);
        __builtin_memcpy(t + n - 4, &high, 4);
    } else {
        for (uint64_t i = 0; i < n; i++)
            t[i] = f[i];
    }
}

/* Reads head anew. SHMRING_OK when `count` more positions from `tail` on now fit into `room`. The
 * other results are true only if tail was what the caller says when head was read; who does not
 * know that asks shmring_producer_room. */
SHMRING_INLINE int shmring_producer_refresh(struct shmring_producer *producer, uint64_t tail,
                                            uint64_t count, uint64_t room)
{
    /* SYNC R4 acquire, pairs with R5 in shmring_consumer_publish_head. The consumer has finished
     * with every slot below head: without it a body could be overwritten while it is copied. */
    uint64_t head = shmring_load_acquire(&producer->control->head);
    /* Relaxed: R5a stored it before the head just read, so it is not older than that head. It may
     * be newer: a one is harmless, and a zero was stored when the consumer had seen tail (R7, R6)
     * pass every position that resume[] takes out, so that R2 of this claim, which comes later than
     * this load, cannot get one of them. */
    producer->out_of_service = shmring_load_relaxed(&producer->control->out_of_service);
    /* Relaxed: a limit that a receiver sets, seen late it holds from the next reading on. */
    uint64_t withheld = shmring_load_relaxed(&producer->control->withheld);
    if (shmring_unlikely(withheld >= producer->unicast_room))
        withheld = producer->unicast_room - 1;
    producer->withheld = withheld;
    producer->head_seen = head - withheld;
    uint64_t used = tail - head;
    if (shmring_likely(used <= producer->capacity) || SHMRING_UNCHECKED(HEAD))
        return used + withheld + count <= room ? SHMRING_OK : SHMRING_E_FULL;
    return SHMRING_E_CORRUPT;
}

/*
 * Claims `count` consecutive positions; the claim word names them from before they are taken until
 * shmring_producer_clear. SHMRING_E_FULL, SHMRING_E_CORRUPT: nothing is claimed, the word is clear.
 * Some of the positions may be holes: only the callers below deal with that.
 */
SHMRING_INLINE int shmring_producer_claim_range(struct shmring_producer *producer,
                                                uint64_t *claim_word, uint64_t count,
                                                uint64_t room, uint64_t *position)
{
    struct shmring_ring_control *control = producer->control;
    uint64_t tail = shmring_load_relaxed(&control->tail); /* Relaxed: a guess; R2 decides. */
    for (uint32_t tries = 0; tries < SHMRING_CLAIM_TRIES; tries++) {
        /* Both sides small, so that a tail behind head is refused as well. */
        if (shmring_unlikely(tail - producer->head_seen > room - count) &&
            shmring_unlikely(shmring_producer_refresh(producer, tail, count, room))) {
            int full = shmring_producer_room(producer, count, room, &tail);
            if (shmring_unlikely(full)) {
                /* SYNC R10 release, pairs with B9: the word of an attempt that ended names
                 * nothing. */
                shmring_store_release(claim_word, 0);
                return full;
            }
        }
        /* SYNC R1 relaxed (released by R2), pairs with B9 in shmring_claims_copy: whoever sees the
         * position claimed finds who claimed it. Without it the claim of a dead process could never
         * be told from that of a living one. */
        shmring_store_relaxed(claim_word, SHMRING_CLAIM(count, producer->ring_id, tail));
        SHMRING_FAULT(CLAIM_NAMED);
        /* SYNC R2 acq_rel, pairs with itself in other producers and with R7 in look_at_ring: one of
         * them gets the position; who reads a tail beyond it sees its claim word. */
        if (shmring_likely(shmring_cas_acq_rel(&control->tail, &tail, tail + count))) {
            *position = tail;
            SHMRING_FAULT(CLAIM_MOVED);
            return SHMRING_OK;
        }
    }
    /* SYNC R10 release, as above. */
    shmring_store_release(claim_word, 0);
    return SHMRING_E_FULL;
}

/* Claims one position that is in service. */
SHMRING_INLINE int shmring_producer_claim(struct shmring_producer *producer, uint64_t *claim_word,
                                          uint64_t room, uint64_t *position)
{
    int result = shmring_producer_claim_range(producer, claim_word, 1, room, position);
    if (shmring_unlikely(result))
        return result;
    /* resume[] of this index was published before the head that made room for this position, and
     * out_of_service with it: the own copy decides, no shared line is read. */
    if (shmring_unlikely(producer->out_of_service != 0))
        return shmring_producer_claim_slow(producer, claim_word, room, position);
    return SHMRING_OK;
}

/* Makes a slot written. From here on its message exists. */
SHMRING_INLINE void shmring_slot_publish(struct shmring_slot *slot, uint64_t position,
                                         uint64_t bits, uint64_t stamp, uint64_t route)
{
    slot->stamp = stamp;
    slot->route = route;
    /* SYNC R3 release, pairs with R6 in shmring_consumer_header: body, stamp and route come before
     * the header. Without it the receiver could deliver what an earlier lap left in the slot. */
    shmring_store_release(&slot->header, position << SHMRING_POSITION_SHIFT | bits);
}

/* Ends an attempt: the claim word names nothing any more, everything written is visible, and
 * whether the receiver sleeps is read after that. */
SHMRING_INLINE void shmring_producer_finish(struct shmring_producer *producer, uint64_t *claim_word)
{
    /* SYNC D1 full barrier, pairs with D2 in announce: either the receiver's second look finds the
     * message, or the load below finds it parked. It also makes send's return mean visible (promise
     * 3), and its release half keeps the header before the cleared claim word (B9). */
    (void)shmring_exchange_full(claim_word, 0);
    SHMRING_FAULT(CLAIM_CLEARED);
    /* Relaxed: D1 puts it behind the header. */
    uint64_t parked = shmring_load_relaxed(&producer->control->parked);
    if (shmring_unlikely(parked != 0))
        shmring_producer_ring(producer, parked);
}

/*
 * Sends one message: `length` bytes of body, at most producer->body_bytes (the caller has checked).
 * bits: of SHMRING_HEADER_MARKS. Returns SHMRING_OK and the stamp, SHMRING_E_FULL or
 * SHMRING_E_CORRUPT. Never blocks.
 */
SHMRING_INLINE int shmring_producer_send(struct shmring_producer *producer,
                                         const struct shmring_clock *clock, uint32_t grant,
                                         uint64_t bits, const void *body, uint64_t length,
                                         uint64_t *stamp_out)
{
    uint64_t position;
    int result = shmring_producer_claim(producer, producer->claim_word, producer->unicast_room,
                                        &position);
    if (shmring_unlikely(result))
        return result;
    SHMRING_DAWDLE(NO_RE_READ, 64, 20);
    struct shmring_slot *slot = shmring_producer_slot(producer, position);
    shmring_copy(slot->body, body, length);
    SHMRING_FAULT(WRITE_BODY);
    /* After the body, so that the fenced clock hides behind the miss that the body waits for. */
    uint64_t stamp = shmring_clock_now(clock);
    shmring_clock_wait_past(clock, stamp);
    SHMRING_FAULT(STAMP_READ);
    shmring_slot_publish(slot, position, SHMRING_CLASS_UNICAST | bits, stamp,
                         SHMRING_ROUTE(grant, producer->sender, length));
    SHMRING_FAULT(WRITE_HEADER);
    shmring_producer_finish(producer, producer->claim_word);
    *stamp_out = stamp;
    return SHMRING_OK;
}

/* True when the position fell on an index that was out of service: nothing may be written there. */
SHMRING_INLINE bool shmring_producer_is_hole(const struct shmring_producer *producer,
                                             uint64_t position)
{
    if (shmring_likely(producer->out_of_service == 0))
        return false;
    /* Relaxed: R5a stored it before the head that made room for the position. That the index has
     * gone back into service meanwhile changes no answer: it does so a lap beyond every claim. */
    uint64_t resume = shmring_load_relaxed(&producer->resume[position & producer->mask]);
    /* Out of service because of this very position, whose sender was slow: no hole. Taken for one,
     * its message would be lost, and the index with it. */
    return position < resume && resume != (SHMRING_RESUME_NEVER | position);
}

/* ---- batches -------------------------------------------------------------------------------- */

/* Up to n messages by one compare-and-swap and one stamp: begin, put each, commit (or abort). The
 * receiver sees none before the commit. */
struct shmring_batch {
    uint64_t position; /* first claimed */
    uint64_t count;    /* claimed, holes included */
    uint64_t put;      /* how many of them have been dealt with */
};

/*
 * Claims room for up to `wanted` messages (at least 1, at most SHMRING_CLAIM_COUNT_MAX): as many as
 * there is room for. SHMRING_E_FULL when there is none. To be ended by commit.
 */
int shmring_batch_begin(struct shmring_producer *producer, uint64_t wanted,
                        struct shmring_batch *batch);

/* Writes the next message's body. SHMRING_E_FULL when the batch has no position left. */
SHMRING_INLINE int shmring_batch_put(struct shmring_producer *producer, struct shmring_batch *batch,
                                     uint32_t grant, const void *body, uint64_t length)
{
    while (batch->put < batch->count) {
        uint64_t position = batch->position + batch->put++;
        if (shmring_unlikely(shmring_producer_is_hole(producer, position)))
            continue;
        struct shmring_slot *slot = shmring_producer_slot(producer, position);
        shmring_copy(slot->body, body, length);
        slot->route = SHMRING_ROUTE(grant, producer->sender, length);
        return SHMRING_OK;
    }
    return SHMRING_E_FULL;
}

/* Stamps and publishes what was put; what was claimed and not put becomes void. */
SHMRING_INLINE uint64_t shmring_batch_commit(struct shmring_producer *producer,
                                             const struct shmring_clock *clock,
                                             struct shmring_batch *batch)
{
    uint64_t stamp = shmring_clock_now(clock);
    shmring_clock_wait_past(clock, stamp);
    for (uint64_t i = 0; i < batch->count; i++) {
        uint64_t position = batch->position + i;
        if (shmring_unlikely(shmring_producer_is_hole(producer, position)))
            continue;
        struct shmring_slot *slot = shmring_producer_slot(producer, position);
        uint64_t class = i < batch->put ? SHMRING_CLASS_UNICAST : SHMRING_CLASS_VOID;
        slot->stamp = stamp;
        /* SYNC R3 release, as in shmring_slot_publish. */
        shmring_store_release(&slot->header, position << SHMRING_POSITION_SHIFT | class);
    }
    shmring_producer_finish(producer, producer->claim_word);
    return stamp;
}
