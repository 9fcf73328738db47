/*
 * The longer look: what shmring_inbox_take does not decide by one slot alone.
 *
 * A look begins with t0 = clock, then reads every ring up to its tail. What is pending in that look
 * is waited for; what happened before t0 is then delivered in the order of stamps. Everything else
 * carries a stamp of at least t0, or has not happened yet: it stays open and is read again by the
 * next look. (design.md section 6, "Several rings"; with one ring it is the look-ahead of a
 * multicast.)
 */
#include <errno.h>
#include <stdlib.h>

#include "inbox_private.h"

/* ---- one slot ------------------------------------------------------------------------------- */

/* Asks the commit word of a multicast. */
static void resolve(struct shmring_inbox *inbox, struct shmring_consumer *consumer,
                    struct shmring_open *open)
{
    const struct shmring_sender_view *view = &consumer->senders[open->sender];
    uint64_t index = open->commit >> 32;
    open->tie = (uint64_t)view->owner_id << 32 | index;
    uint64_t generation = open->commit & SHMRING_COMMIT_GENERATION_MASK;
    if (view->gone || view->outbox == NULL ||
        (index >= view->commit_words && !SHMRING_UNCHECKED(COMMIT_INDEX))) {
        open->state = SHMRING_OPEN_DONE;
        return;
    }
    const uint64_t *words = (const uint64_t *)(const void *)(view->outbox + 1);
    /* SYNC C2 acquire, pairs with C1 in shmring_transaction_commit. Seen committed, every slot of
     * the transaction is visible; the reads that the look makes after it stay after it. */
    uint64_t word = shmring_load_acquire(&words[index]);
    uint64_t state = word & SHMRING_COMMIT_STATE_MASK;
    bool same = (word >> 32 & SHMRING_COMMIT_GENERATION_MASK) == generation ||
                SHMRING_UNCHECKED(GENERATION);
    if (state == SHMRING_COMMIT_PENDING && same) {
        open->state = SHMRING_OPEN_PENDING;
    } else if (state == 0 && word != 0) {
        open->state = SHMRING_OPEN_HAPPENED;
        open->stamp = word;
    } else {
        /* Aborted; or a generation that no honest sender leaves here: its own message is lost. */
        open->state = SHMRING_OPEN_DONE;
        inbox->counts.aborted++;
    }
}

/* Reads an open position (again). */
static int classify(struct shmring_inbox *inbox, uint32_t r, struct shmring_open *open)
{
    struct shmring_consumer *consumer = inbox->rings[r];
    uint64_t header = shmring_consumer_header(consumer, open->position);
    open->state = SHMRING_OPEN_UNRESOLVED;
    if (header >> SHMRING_POSITION_SHIFT != open->position && !SHMRING_UNCHECKED(LAP))
        return SHMRING_OK;
    const struct shmring_slot *slot = shmring_consumer_slot(consumer, open->position);
    /* Relaxed, once each: R6 puts them behind the header. */
    uint64_t stamp = shmring_load_relaxed(&slot->stamp);
    uint32_t sender = (uint32_t)(shmring_load_relaxed(&slot->route) >> 16) & 0xffff;
    switch (header & SHMRING_CLASS_MASK) {
    case SHMRING_CLASS_UNICAST:
        open->state = SHMRING_OPEN_HAPPENED;
        open->stamp = stamp;
        open->tie = 0;
        return SHMRING_OK;
    case SHMRING_CLASS_MULTICAST:
        if (sender >= consumer->sender_count ||
            (consumer->senders[sender].outbox == NULL && !consumer->senders[sender].gone))
            return shmring_inbox_trouble(inbox, r, sender, SHMRING_E_UNKNOWN_SENDER);
        open->commit = stamp;
        open->sender = sender;
        resolve(inbox, consumer, open);
        return SHMRING_OK;
    case SHMRING_CLASS_VOID:
        open->state = SHMRING_OPEN_DONE;
        inbox->counts.voids++;
        return SHMRING_OK;
    default:
        if (SHMRING_UNCHECKED(CLASS)) {
            open->state = SHMRING_OPEN_HAPPENED;
            open->stamp = stamp;
            return SHMRING_OK;
        }
        return shmring_inbox_breach(inbox, r, sender, SHMRING_BREACH_CLASS);
    }
}

/* ---- all rings ------------------------------------------------------------------------------ */

int shmring_consumer_reserve(struct shmring_consumer *consumer)
{
    if (consumer->open == NULL) {
        consumer->open = calloc(consumer->capacity, sizeof *consumer->open);
        consumer->retired = calloc(SHMRING_RETIRED_MAX, sizeof *consumer->retired);
        if (consumer->open == NULL || consumer->retired == NULL)
            return -ENOMEM;
    }
    return SHMRING_OK;
}

void shmring_consumer_compact(struct shmring_consumer *consumer)
{
    uint32_t to = 0;
    for (uint32_t i = consumer->open_first; i < consumer->open_end; i++)
        if (consumer->open[i].state != SHMRING_OPEN_DONE)
            consumer->open[to++] = consumer->open[i];
    consumer->open_first = 0;
    consumer->open_end = to;
}

/* Reads one ring up to its tail. */
static int look_at_ring(struct shmring_inbox *inbox, uint32_t r)
{
    struct shmring_consumer *consumer = inbox->rings[r];
    int result = shmring_consumer_reserve(consumer);
    if (result)
        return result;
    shmring_consumer_compact(consumer);
    /* SYNC R7 acquire, pairs with R2: slots claimed by transactions that were over before t0 lie
     * below it. */
    uint64_t tail = shmring_load_acquire(&consumer->control->tail);
    uint64_t claimed = tail - consumer->head;
    if ((claimed > consumer->capacity || claimed < consumer->next - consumer->head) &&
        !SHMRING_UNCHECKED(TAIL))
        return shmring_inbox_breach(inbox, r, 0, SHMRING_BREACH_TAIL);
    /* Nobody's processes stop that often; within the domain the ring is only full. */
    if (consumer->foreign && shmring_consumer_bears_no_more(consumer))
        return shmring_inbox_breach(inbox, r, 0, SHMRING_BREACH_CLAIMS);
    SHMRING_DAWDLE(T0_AFTER_SCAN, 8, 20);
    for (uint32_t i = 0; i < consumer->open_end; i++) {
        result = classify(inbox, r, &consumer->open[i]);
        if (result)
            return result;
        if (consumer->open[i].state != SHMRING_OPEN_UNRESOLVED)
            inbox->counts.re_read++;
    }
    for (; consumer->next != tail; consumer->next++) {
        if (consumer->in_service_from != 0 || consumer->retired_count != 0) {
            if (consumer->next < /* Relaxed: this thread wrote it. */
                shmring_load_relaxed(&consumer->resume[consumer->next & consumer->mask])) {
                inbox->counts.holes++;
                continue;
            }
        }
        struct shmring_open *open = &consumer->open[consumer->open_end];
        *open = (struct shmring_open){
            .position = consumer->next,
            .unclaimed = shmring_consumer_unclaimed(consumer, consumer->next)};
        result = classify(inbox, r, open);
        if (result)
            return result;
        if (open->state == SHMRING_OPEN_DONE)
            continue;
        if (open->state == SHMRING_OPEN_UNRESOLVED)
            inbox->counts.passed_over++;
        consumer->open_end++;
    }
    shmring_consumer_note_tail(consumer, tail, inbox->look_t0);
    /* The messages of a batch share a stamp that is older than their headers, which are stored in
     * order: one found unwritten may have been written before its successor was read. Backwards, so
     * that whoever is found written now has its predecessors read after it. */
    for (uint32_t i = consumer->open_end; i-- > 0;) {
        if (consumer->open[i].state != SHMRING_OPEN_UNRESOLVED)
            continue;
        result = classify(inbox, r, &consumer->open[i]);
        if (result)
            return result;
        if (consumer->open[i].state != SHMRING_OPEN_UNRESOLVED)
            inbox->counts.re_read++;
    }
    for (uint32_t i = consumer->retired_count; i-- > 0;) {
        if (consumer->retired[i].state != SHMRING_OPEN_DONE) {
            result = classify(inbox, r, &consumer->retired[i]);
            if (result)
                return result;
        }
        if (consumer->retired[i].state == SHMRING_OPEN_DONE)
            shmring_consumer_return_to_service(consumer, i, &inbox->counts);
    }
    return SHMRING_OK;
}

bool shmring_inbox_settle(struct shmring_inbox *inbox)
{
    bool settled = true;
    for (uint32_t r = 0; r < inbox->ring_count; r++) {
        struct shmring_consumer *consumer = inbox->rings[r];
        for (uint32_t i = 0; i < consumer->open_end; i++) {
            if (consumer->open[i].state == SHMRING_OPEN_PENDING)
                resolve(inbox, consumer, &consumer->open[i]);
            settled &= consumer->open[i].state != SHMRING_OPEN_PENDING;
        }
        for (uint32_t i = 0; i < consumer->retired_count; i++) {
            if (consumer->retired[i].state == SHMRING_OPEN_PENDING)
                resolve(inbox, consumer, &consumer->retired[i]);
            settled &= consumer->retired[i].state != SHMRING_OPEN_PENDING;
        }
    }
    if (SHMRING_BROKEN(PAST_PENDING))
        return true;
    return shmring_watches_settle(inbox) && settled;
}

static int collect(struct shmring_inbox *inbox, uint32_t ring, uint64_t flags)
{
    return inbox->collect != NULL ? inbox->collect(inbox, ring, flags, inbox->collect_context)
                                  : SHMRING_OK;
}

/* What has been said to have ended is watched from here on. What `collect` fails to take in, it is
 * asked to take in again. */
static int look_at_flags(struct shmring_inbox *inbox, uint32_t r)
{
    struct shmring_consumer *consumer = inbox->rings[r];
    uint64_t *flags = &consumer->control->flags;
    /* SYNC N2 acquire, then exchange acq_rel, pairs with N8: after t0, as N1. The flag is taken
     * first, then the words are read: the other way round what is set in between is lost. */
    if (shmring_load_acquire(flags) != 0)
        consumer->flags_taken |= shmring_exchange_acq_rel(flags, 0);
    if (consumer->flags_taken == 0)
        return SHMRING_OK;
    SHMRING_FAULT(TAKE_FLAGS);
    int result = collect(inbox, r, consumer->flags_taken);
    if (result)
        inbox->unsettled |= UNSETTLED_LOOK;
    else
        consumer->flags_taken = 0;
    return result;
}

int shmring_inbox_look(struct shmring_inbox *inbox)
{
    inbox->counts.looks++;
    shmring_watches_compact(inbox);
    inbox->look_t0 = shmring_clock_now_then_loads(&inbox->clock);
    SHMRING_FAULT(TAKE_LOOKED);
    /* SYNC N1 acquire, pairs with B5 and B8 in shmring_bus_announce: read after t0 (T3), so that a
     * death with a lower stamp is found pending or later. */
    uint64_t death = shmring_load_acquire(inbox->death);
    /* Pending, it is taken in by every look: the name beside it may have been the former one's. */
    if (death != inbox->death_seen ||
        (death & SHMRING_COMMIT_STATE_MASK) == SHMRING_COMMIT_PENDING) {
        int result = collect(inbox, UINT32_MAX, death);
        if (result)
            return result;
        inbox->death_seen = death;
    }
    for (uint32_t r = 0; r < inbox->ring_count; r++) {
        int result = look_at_flags(inbox, r);
        if (result == SHMRING_OK)
            result = look_at_ring(inbox, r);
        if (result)
            return result;
    }
    shmring_watches_read(inbox);
    if (SHMRING_BROKEN(T0_AFTER_SCAN))
        inbox->look_t0 = shmring_clock_now_then_loads(&inbox->clock);
    if (!shmring_inbox_settle(inbox)) {
        inbox->waiting = 1;
        shmring_inbox_begin_to_wait(inbox);
        inbox->counts.look_waits++;
        SHMRING_FAULT(TAKE_WAITS);
        inbox->counts.rings_waits += inbox->ring_count > 1;
        inbox->counts.notice_waits += shmring_watches_pending(inbox);
        return SHMRING_OK;
    }
    return shmring_inbox_gather(inbox);
}
