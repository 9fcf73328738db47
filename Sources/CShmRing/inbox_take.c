/* Delivery: what looks have put in order, and what one ring alone allows at once. */
#include "inbox_private.h"

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
    struct shmring_open *open = shmring_inbox_open_of(inbox, one);
    uint64_t position = open->position;
    uint64_t header = shmring_consumer_header(consumer, position);
    bool rewritten = header >> SHMRING_POSITION_SHIFT != position && !SHMRING_UNCHECKED(LAP);
    if (rewritten || shmring_consumer_copy(consumer, position, header, message)) {
        open->state = SHMRING_OPEN_DONE;
        return shmring_inbox_breach(inbox, one->ring, 0,
                                    rewritten ? SHMRING_BREACH_REWRITTEN : SHMRING_BREACH_LENGTH);
    }
    bool multicast = (header & SHMRING_CLASS_MASK) == SHMRING_CLASS_MULTICAST;
    uint64_t stamp = one->stamp;
    if (SHMRING_UNCHECKED(COMMIT_KEPT) && multicast)
        stamp = ((const uint64_t *)(const void *)(consumer->senders[open->sender].outbox +
                                                  1))[open->commit >> 32];
    tell(inbox, one->ring, stamp, multicast, message);
    inbox->in_hand = 1;
    return SHMRING_OK;
}

static int deliver_ready(struct shmring_inbox *inbox, struct shmring_message *message)
{
    SHMRING_FAULT(TAKE_ORDERED);
    const struct shmring_ready *one = &inbox->ready[inbox->ready_first++];
    inbox->told_stamp = one->stamp;
    inbox->told_tie = one->tie;
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
        uint64_t position = shmring_inbox_open_of(inbox, one)->position;
        shmring_inbox_drop_hand(inbox);
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

/* An eighth of a foreign ring's lap: the stamps of what is claimed from here on are later. */
static void note_tail(struct shmring_inbox *inbox, struct shmring_consumer *consumer)
{
    uint64_t at = shmring_clock_now_then_loads(&inbox->clock);
    /* SYNC R7 acquire, as in look_at_ring, and like there behind the clock (T3). */
    uint64_t tail = shmring_load_acquire(&consumer->control->tail);
    if (tail - consumer->next <= consumer->capacity)
        shmring_consumer_note_tail(consumer, tail, at);
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
        if (consumer->foreign)
            note_tail(inbox, consumer);
    }
    if (shmring_consumer_copy(consumer, next, header, message))
        return shmring_inbox_breach(inbox, 0, message->sender, SHMRING_BREACH_LENGTH);
    if (consumer->foreign) {
        if (message->stamp > inbox->look_t0)
            inbox->look_t0 = shmring_clock_now(&inbox->clock);
        if ((message->stamp > inbox->look_t0 && !SHMRING_UNCHECKED(FUTURE_STAMP)) ||
            (message->stamp < shmring_consumer_unclaimed(consumer, next) &&
             !SHMRING_UNCHECKED(PAST_STAMP)))
            return shmring_inbox_breach(inbox, 0, message->sender, SHMRING_BREACH_STAMP);
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
            if (!shmring_inbox_settle(inbox)) {
                shmring_inbox_goes_on_waiting(inbox, exact);
                return SHMRING_E_EMPTY;
            }
            int result = shmring_inbox_gather(inbox);
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
        int result = shmring_inbox_look(inbox);
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
