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

static struct shmring_open *open_of(struct shmring_inbox *inbox, const struct shmring_ready *one)
{
    struct shmring_consumer *consumer = inbox->rings[one->ring];
    return (one->index & READY_RETIRED) != 0 ? &consumer->retired[one->index & ~READY_RETIRED]
                                             : &consumer->open[one->index];
}

/* The message in hand is not to be delivered again; head stays where it is until the next call. */
static void drop_hand(struct shmring_inbox *inbox)
{
    if (inbox->in_hand)
        open_of(inbox, &inbox->ready[inbox->ready_first - 1])->state = SHMRING_OPEN_DONE;
    inbox->in_hand = 0;
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
    drop_hand(inbox);
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
    inbox->ready_needed -= (uint32_t)consumer->capacity + SHMRING_RETIRED_MAX;
    shmring_inbox_choose_path(inbox);
}

void shmring_inbox_hold(struct shmring_inbox *inbox, bool held)
{
    inbox->held = held;
    shmring_inbox_choose_path(inbox);
}

/* ---- one slot ------------------------------------------------------------------------------- */

static int trouble(struct shmring_inbox *inbox, uint32_t ring, uint32_t sender, int error)
{
    inbox->trouble_ring = ring;
    inbox->trouble_sender = sender;
    return error;
}

/* Asks the commit word of a multicast. */
static void resolve(struct shmring_inbox *inbox, struct shmring_consumer *consumer,
                    struct shmring_open *open)
{
    const struct shmring_sender_view *view = &consumer->senders[open->sender];
    uint64_t index = open->commit >> 32;
    open->tie = (uint64_t)view->owner_id << 32 | index;
    uint64_t generation = open->commit & SHMRING_COMMIT_GENERATION_MASK;
    if (view->gone || view->outbox == NULL || index >= view->commit_words) {
        open->state = SHMRING_OPEN_DONE;
        return;
    }
    const uint64_t *words = (const uint64_t *)(const void *)(view->outbox + 1);
    /* SYNC C2 acquire, pairs with C1 in shmring_transaction_commit. Seen committed, every slot of
     * the transaction is visible; the reads that the look makes after it stay after it. */
    uint64_t word = shmring_load_acquire(&words[index]);
    uint64_t state = word & SHMRING_COMMIT_STATE_MASK;
    bool same = (word >> 32 & SHMRING_COMMIT_GENERATION_MASK) == generation;
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
    if (header >> SHMRING_POSITION_SHIFT != open->position)
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
            return trouble(inbox, r, sender, SHMRING_E_UNKNOWN_SENDER);
        open->commit = stamp;
        open->sender = sender;
        resolve(inbox, consumer, open);
        return SHMRING_OK;
    case SHMRING_CLASS_VOID:
        open->state = SHMRING_OPEN_DONE;
        inbox->counts.voids++;
        return SHMRING_OK;
    default:
        return trouble(inbox, r, sender, SHMRING_E_CORRUPT);
    }
}

/* A stamp that the clock has not reached yet is a lie; it is read when its slot was visible. */
static int check_stamp(struct shmring_inbox *inbox, uint32_t r, struct shmring_open *open)
{
    if (open->stamp < inbox->look_t0 || open->stamp <= shmring_clock_now(&inbox->clock))
        return SHMRING_OK;
    if (inbox->rings[r]->foreign)
        return trouble(inbox, r, open->sender, SHMRING_E_CORRUPT);
    open->stamp = inbox->look_t0 - 1; /* within the domain: misplaced, as its sender wished */
    inbox->counts.clamped++;
    return SHMRING_OK;
}

/* ---- the look ------------------------------------------------------------------------------- */

static int reserve(struct shmring_consumer *consumer)
{
    if (consumer->open == NULL) {
        consumer->open = calloc(consumer->capacity, sizeof *consumer->open);
        consumer->retired = calloc(SHMRING_RETIRED_MAX, sizeof *consumer->retired);
        if (consumer->open == NULL || consumer->retired == NULL)
            return -ENOMEM;
    }
    return SHMRING_OK;
}

static int reserve_ready(struct shmring_inbox *inbox)
{
    uint32_t needed = inbox->ready_needed + inbox->watch_count;
    if (needed > inbox->ready_capacity) {
        struct shmring_ready *grown = realloc(inbox->ready, needed * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        inbox->ready = grown;
        inbox->ready_capacity = needed;
    }
    return SHMRING_OK;
}

/* Moves what is still open to the front, so that open[] never holds more than a lap. */
static void compact(struct shmring_consumer *consumer)
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
    int result = reserve(consumer);
    if (result)
        return result;
    compact(consumer);
    /* SYNC R7 acquire, pairs with R2: slots claimed by transactions that were over before t0 lie
     * below it. */
    uint64_t tail = shmring_load_acquire(&consumer->control->tail);
    uint64_t claimed = tail - consumer->head;
    if (claimed > consumer->capacity || claimed < consumer->next - consumer->head)
        return trouble(inbox, r, 0, SHMRING_E_CORRUPT);
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
        *open = (struct shmring_open){.position = consumer->next};
        result = classify(inbox, r, open);
        if (result)
            return result;
        if (open->state == SHMRING_OPEN_DONE)
            continue;
        if (open->state == SHMRING_OPEN_UNRESOLVED)
            inbox->counts.passed_over++;
        consumer->open_end++;
    }
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

/* By stamp. Equal stamps are of transactions that went on at the same time, or of one: multicasts
 * go by who sent them, the same everywhere, behind them what else that one's transaction ended, and
 * deaths last; what shares a stamp and a sender as it was claimed. */
static bool comes_after(const struct shmring_ready *a, const struct shmring_ready *b)
{
    if (a->stamp != b->stamp)
        return a->stamp > b->stamp;
    if (a->tie != b->tie)
        return a->tie > b->tie;
    if (a->ring != b->ring)
        return a->ring > b->ring;
    return a->position > b->position;
}

static void sift(struct shmring_ready *heap, uint32_t at, uint32_t count)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            return;
        if (child + 1 < count && comes_after(&heap[child + 1], &heap[child]))
            child++;
        if (!comes_after(&heap[child], &heap[at]))
            return;
        struct shmring_ready swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
        at = child;
    }
}

/* In place, no worse than n log n whatever a hostile sender stamps; nothing to do when sorted. */
static bool sort_ready(struct shmring_ready *ready, uint32_t count)
{
    uint32_t sorted = 1;
    while (sorted < count && !comes_after(&ready[sorted - 1], &ready[sorted]))
        sorted++;
    if (sorted >= count)
        return false;
    if (count <= 16) {
        for (uint32_t i = 1; i < count; i++) {
            struct shmring_ready one = ready[i];
            uint32_t j = i;
            for (; j > 0 && comes_after(&ready[j - 1], &one); j--)
                ready[j] = ready[j - 1];
            ready[j] = one;
        }
        return true;
    }
    for (uint32_t i = count / 2; i-- > 0;)
        sift(ready, i, count);
    for (uint32_t i = count; i-- > 1;) {
        struct shmring_ready swap = ready[0];
        ready[0] = ready[i];
        ready[i] = swap;
        sift(ready, 0, i);
    }
    return true;
}

/* Puts what happened before t0 in order. */
static int gather(struct shmring_inbox *inbox)
{
    inbox->ready_first = inbox->ready_end = 0;
    inbox->waiting = 0;
    int result = reserve_ready(inbox);
    if (result)
        return result;
    for (uint32_t r = 0; r < inbox->ring_count; r++) {
        struct shmring_consumer *consumer = inbox->rings[r];
        uint32_t open_count = consumer->open_end;
        for (uint32_t i = 0; i < open_count + consumer->retired_count; i++) {
            bool retired = i >= open_count;
            uint32_t index = retired ? i - open_count : i;
            struct shmring_open *open =
                retired ? &consumer->retired[index] : &consumer->open[index];
            if (open->state != SHMRING_OPEN_HAPPENED)
                continue;
            result = check_stamp(inbox, r, open);
            if (result) {
                inbox->ready_end = 0; /* half a gathering is none: the next look reads all again */
                return result;
            }
            if (open->stamp >= inbox->look_t0) {
                open->state = SHMRING_OPEN_UNRESOLVED; /* the next look's */
                continue;
            }
            inbox->ready[inbox->ready_end++] = (struct shmring_ready){
                .stamp = open->stamp,
                .tie = open->tie,
                .position = open->position,
                .ring = r,
                .index = index | (retired ? READY_RETIRED : 0)};
        }
    }
    shmring_watches_gather(inbox);
    if (SHMRING_BROKEN(NO_LOOK_AHEAD))
        return SHMRING_OK;
    if (sort_ready(inbox->ready, inbox->ready_end))
        inbox->counts.reordered++;
    return SHMRING_OK;
}

/* True when nothing that the look found is pending any more. */
static bool settle(struct shmring_inbox *inbox)
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
    int result = collect(inbox, r, consumer->flags_taken);
    if (result)
        inbox->unsettled |= UNSETTLED_LOOK;
    else
        consumer->flags_taken = 0;
    return result;
}

static int look(struct shmring_inbox *inbox)
{
    inbox->counts.looks++;
    shmring_watches_compact(inbox);
    inbox->look_t0 = shmring_clock_now_then_loads(&inbox->clock);
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
    if (!settle(inbox)) {
        inbox->waiting = 1;
        inbox->counts.look_waits++;
        inbox->counts.rings_waits += inbox->ring_count > 1;
        inbox->counts.notice_waits += shmring_watches_pending(inbox);
        return SHMRING_OK;
    }
    return gather(inbox);
}

/* ---- delivery ------------------------------------------------------------------------------- */

static void tell(struct shmring_inbox *inbox, uint32_t r, uint64_t stamp, bool multicast,
                 struct shmring_message *message)
{
    /* A multicast reports the one stamp that it has everywhere, also behind a unicast that reports
     * more; a unicast's place is where its ring put it. */
    if (stamp > inbox->last_stamp)
        inbox->last_stamp = stamp;
    message->stamp = multicast ? stamp : inbox->last_stamp;
    message->sequence = ++inbox->sequence;
    message->ring = r;
}

static int deliver_notice(struct shmring_inbox *inbox, const struct shmring_ready *one,
                          struct shmring_message *message)
{
    struct shmring_watch *watch = &inbox->watches[one->index & ~READY_WATCH];
    watch->state = WATCH_DONE;
    inbox->notice_kind = watch->kind;
    inbox->notice_cookie = watch->cookie;
    message->bits = 0;
    message->grant = message->sender = message->length = 0;
    tell(inbox, 0, one->stamp, true, message);
    inbox->counts.notices++;
    return SHMRING_NOTICE;
}

static int deliver_message(struct shmring_inbox *inbox, const struct shmring_ready *one,
                           struct shmring_message *message)
{
    struct shmring_consumer *consumer = inbox->rings[one->ring];
    struct shmring_open *open = open_of(inbox, one);
    uint64_t position = open->position;
    uint64_t header = shmring_consumer_header(consumer, position);
    int result = header >> SHMRING_POSITION_SHIFT == position
                     ? shmring_consumer_copy(consumer, position, header, message)
                     : SHMRING_E_CORRUPT; /* rewritten after it was read as written */
    if (result) {
        open->state = SHMRING_OPEN_DONE;
        return trouble(inbox, one->ring, 0, result);
    }
    bool multicast = (header & SHMRING_CLASS_MASK) == SHMRING_CLASS_MULTICAST;
    tell(inbox, one->ring, one->stamp, multicast, message);
    inbox->in_hand = 1;
    return SHMRING_OK;
}

static int deliver_ready(struct shmring_inbox *inbox, struct shmring_message *message)
{
    const struct shmring_ready *one = &inbox->ready[inbox->ready_first++];
    int result = (one->index & READY_WATCH) != 0 && one->ring == UINT32_MAX
                     ? deliver_notice(inbox, one, message)
                     : deliver_message(inbox, one, message);
    const struct shmring_ready *next = one + 1;
    if ((result == SHMRING_OK || result == SHMRING_NOTICE) &&
        inbox->ready_first != inbox->ready_end && next->ring == UINT32_MAX &&
        next->stamp == one->stamp && one->tie >> 32 == next->tie >> 32 && next->tie != UINT64_MAX)
        message->bits |= SHMRING_HEADER_MORE; /* of the same transaction */
    return result;
}

/* Retired indices whose message is delivered go back, once no ready entry refers to them. */
static void end_look(struct shmring_inbox *inbox)
{
    inbox->ready_first = inbox->ready_end = 0;
    for (uint32_t r = 0; r < inbox->ring_count; r++) {
        struct shmring_consumer *consumer = inbox->rings[r];
        for (uint32_t i = consumer->retired_count; i-- > 0;)
            if (consumer->retired[i].state == SHMRING_OPEN_DONE)
                shmring_consumer_return_to_service(consumer, i, &inbox->counts);
        shmring_consumer_publish_head(consumer, false);
    }
    shmring_inbox_choose_path(inbox);
}

/* What was delivered by the call before is dealt with now. */
static void deal_with_hand(struct shmring_inbox *inbox)
{
    if (inbox->in_hand) {
        const struct shmring_ready *one = &inbox->ready[inbox->ready_first - 1];
        struct shmring_consumer *consumer = inbox->rings[one->ring];
        uint64_t position = open_of(inbox, one)->position;
        drop_hand(inbox);
        if (position + 1 - consumer->head >= consumer->publish_every)
            shmring_consumer_publish_head(consumer, true);
    }
    if (inbox->ready_end != 0 && inbox->ready_first == inbox->ready_end)
        end_look(inbox);
}

/* What is not watched any more is not told. */
static void skip_unwatched(struct shmring_inbox *inbox)
{
    while (inbox->ready_first != inbox->ready_end) {
        const struct shmring_ready *one = &inbox->ready[inbox->ready_first];
        if (one->ring != UINT32_MAX ||
            inbox->watches[one->index & ~READY_WATCH].state != WATCH_DONE)
            return;
        inbox->ready_first++;
    }
}

/* With one ring: a unicast at the front may go at once, if nothing that was passed over has been
 * written meanwhile. */
static int take_in_place(struct shmring_inbox *inbox, struct shmring_message *message)
{
    struct shmring_consumer *consumer = inbox->rings[0];
    uint64_t next = consumer->next;
    uint64_t header = shmring_consumer_header(consumer, next);
    if ((header & ~SHMRING_HEADER_MARKS) !=
        (next << SHMRING_POSITION_SHIFT | SHMRING_CLASS_UNICAST))
        return SHMRING_E_EMPTY;
    for (uint32_t i = consumer->open_first; i < consumer->open_end; i++) {
        uint64_t position = consumer->open[i].position;
        if (!SHMRING_BROKEN(NO_RE_READ) && consumer->open[i].state != SHMRING_OPEN_DONE &&
            shmring_consumer_header(consumer, position) >> SHMRING_POSITION_SHIFT == position)
            return SHMRING_E_EMPTY;
    }
    for (uint32_t i = 0; i < consumer->retired_count; i++) {
        uint64_t position = consumer->retired[i].position;
        if (shmring_consumer_header(consumer, position) >> SHMRING_POSITION_SHIFT == position)
            return SHMRING_E_EMPTY;
    }
    if (inbox->unsettled)
        return SHMRING_E_EMPTY;
    if (consumer->in_service_from != 0 && /* Relaxed: this thread wrote it. */
        next < shmring_load_relaxed(&consumer->resume[next & consumer->mask]))
        return SHMRING_E_EMPTY;
    /* Relaxed: R6 keeps both later than the header, which is all that matters (N3). */
    if (shmring_load_relaxed(&consumer->control->flags) != 0 ||
        shmring_load_relaxed(inbox->death) != inbox->death_seen)
        return SHMRING_E_EMPTY;
    /* What lies before it has been dealt with, it itself has not. */
    if (next - consumer->head >= consumer->publish_every) {
        shmring_consumer_publish_head(consumer, true);
        shmring_inbox_choose_path(inbox); /* the last index may have gone back into service */
    }
    if (shmring_consumer_copy(consumer, next, header, message))
        return trouble(inbox, 0, message->sender, SHMRING_E_CORRUPT);
    if (consumer->foreign && message->stamp > inbox->look_t0) {
        inbox->look_t0 = shmring_clock_now(&inbox->clock);
        if (message->stamp > inbox->look_t0)
            return trouble(inbox, 0, message->sender, SHMRING_E_CORRUPT);
    }
    tell(inbox, 0, message->stamp, false, message);
    consumer->next = next + 1;
    return SHMRING_OK;
}

/* True when some front slot is written: only then is a look worth its clock and its tails. */
static bool something_to_see(struct shmring_inbox *inbox)
{
    if (inbox->unsettled)
        return true;
    for (uint32_t r = 0; r < inbox->ring_count; r++) {
        struct shmring_consumer *ring = inbox->rings[r];
        for (uint64_t i = 0; i < 2; i++)
            if (shmring_consumer_header(ring, ring->next + i) >> SHMRING_POSITION_SHIFT ==
                ring->next + i)
                return true;
        /* Something is known to stand open: tail is read each time until it is settled. */
        if (ring->open_first != ring->open_end || ring->retired_count != 0)
            return true;
        if (shmring_load_relaxed(&ring->control->flags) != 0) /* Relaxed: a hint. */
            return true;
    }
    /* Relaxed: a hint, what it means is for the look. */
    return shmring_load_relaxed(inbox->death) != inbox->death_seen;
}

int shmring_inbox_stuck(struct shmring_inbox *inbox, struct shmring_consumer *consumer,
                        uint64_t *positions, uint32_t room, uint32_t *count)
{
    *count = 0;
    if (inbox->waiting || inbox->ready_first != inbox->ready_end)
        return SHMRING_E_FULL; /* a look is under way: its entries must not move */
    int result = reserve(consumer);
    if (result)
        return result;
    drop_hand(inbox);
    inbox->ready_first = inbox->ready_end = 0;
    compact(consumer);
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
        consumer->open[consumer->open_end++] = (struct shmring_open){.position = consumer->next};
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

int shmring_inbox_take_slow(struct shmring_inbox *inbox, struct shmring_message *message,
                            bool exact)
{
    if (shmring_unlikely(inbox->ring_count == 0) && shmring_forked())
        return SHMRING_E_FORKED; /* the caller keeps the inbox where a fork wipes it */
    if (shmring_unlikely(inbox->held))
        return SHMRING_E_HELD;
    deal_with_hand(inbox);
    for (int looked = 0;; looked++) {
        if (inbox->unsettled & UNSETTLED_ANEW) {
            inbox->unsettled = UNSETTLED_LOOK;
            inbox->waiting = 0;
            end_look(inbox); /* what it had put in order stays open, and what it waited for */
        }
        skip_unwatched(inbox);
        if (inbox->ready_first != inbox->ready_end)
            return deliver_ready(inbox, message);
        if (inbox->waiting) {
            if (!settle(inbox))
                return SHMRING_E_EMPTY;
            int result = gather(inbox);
            if (result)
                return result;
            if (inbox->ready_end == 0)
                end_look(inbox);
            continue;
        }
        if (inbox->ready_end != 0)
            end_look(inbox); /* nothing of it is watched any more */
        if (inbox->ring_count == 1) {
            int result = take_in_place(inbox, message);
            if (result != SHMRING_E_EMPTY)
                return result;
        }
        if (looked >= 2 || (inbox->ring_count == 0 && !something_to_see(inbox)))
            return SHMRING_E_EMPTY;
        /* With one plain ring take has counted this call already. */
        uint64_t calls = inbox->only != NULL ? inbox->empty_count : ++inbox->empty_count;
        if (!exact && calls % SHMRING_EMPTY_LOOK != 0 && !something_to_see(inbox))
            return SHMRING_E_EMPTY;
        int result = look(inbox);
        if (result) {
            shmring_inbox_choose_path(inbox); /* what it has found stands open */
            return result;
        }
        if (!inbox->waiting && inbox->ready_end == 0) {
            end_look(inbox);
            /* Once more: what was stamped while the look went on is delivered by the next one. */
            if (looked == 1 || !something_to_see(inbox))
                return SHMRING_E_EMPTY;
        }
        shmring_inbox_choose_path(inbox);
    }
}
