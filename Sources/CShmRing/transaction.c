#include <errno.h>
#include <stdlib.h>

#include "CShmRing.h"

/* Slots that the words of one lane may answer for at a time: enough for one transaction to
 * SHMRING_CLAIM_WORDS destinations, and for 512 to eight each. */
#define LANE_SLOTS 4096u

struct shmring_lane_slot {
    struct shmring_producer *producer; /* NULL: gone */
    uint64_t position;
};

int shmring_lane_init(struct shmring_lane *lane, const struct shmring_mapping *claims,
                      const struct shmring_mapping *outbox, uint32_t number)
{
    *lane = (struct shmring_lane){0};
    if (number >= SHMRING_LANES_MAX || shmring_claims_bytes(number + 1) > claims->byte_count ||
        shmring_outbox_bytes(number + 1) > outbox->byte_count)
        return SHMRING_E_CORRUPT;
    uint64_t *words = (uint64_t *)(void *)((uint8_t *)claims->base + SHMRING_CLAIMS_OFFSET);
    uint64_t *commits =
        (uint64_t *)(void *)((uint8_t *)outbox->base + sizeof(struct shmring_outbox));
    lane->claims = words + (size_t)number * SHMRING_CLAIM_WORDS;
    lane->commits = commits + (size_t)number * SHMRING_COMMIT_WORDS;
    lane->first_index = number * SHMRING_COMMIT_WORDS;
    return SHMRING_OK;
}

void shmring_lane_deinit(struct shmring_lane *lane)
{
    free(lane->ends);
    free(lane->words);
    free(lane->slots);
    *lane = (struct shmring_lane){0};
}

void shmring_lane_forget(struct shmring_lane *lane, const struct shmring_producer *producer)
{
    for (uint64_t i = lane->slots_done; i != lane->slots_begun; i++)
        if (lane->slots[i % LANE_SLOTS].producer == producer)
            lane->slots[i % LANE_SLOTS].producer = NULL;
}

/* True when this slot's receiver will not ask the commit word any more. */
static bool is_passed(const struct shmring_lane_slot *slot)
{
    struct shmring_producer *producer = slot->producer;
    if (producer == NULL)
        return true;
    /* Signed, since head_seen may be of a head behind or beyond it. */
    if ((int64_t)(producer->head_seen + producer->withheld - slot->position) <= 0) {
        /* Relaxed: only the head that is read with it is asked for. */
        uint64_t tail = shmring_load_relaxed(&producer->control->tail);
        (void)shmring_producer_refresh(producer, tail, 1, producer->capacity);
        if ((int64_t)(producer->head_seen + producer->withheld - slot->position) <= 0)
            return false;
    }
    if (shmring_likely(producer->out_of_service == 0))
        return true;
    /* SYNC R9 acquire, pairs with R8 in shmring_consumer_return_to_service. A slot written late is
     * below head because its index is out of service, until its message is delivered. Without it a
     * late message could be judged by a later transaction's commit. */
    return shmring_load_acquire(&producer->resume[slot->position & producer->mask]) !=
           (SHMRING_RESUME_NEVER | slot->position);
}

/* Frees the oldest word, or, if a destination has not passed its slot, makes it the youngest and
 * says whose: the words behind it may be free, and who does not drain its ring stops no other
 * one. */
static struct shmring_producer *free_oldest(struct shmring_lane *lane)
{
    uint32_t first = (uint32_t)(lane->done % SHMRING_COMMIT_WORDS);
    struct shmring_producer *held_by = NULL;
    for (uint64_t end = lane->ends[first]; lane->slots_done != end; lane->slots_done++) {
        struct shmring_lane_slot slot = lane->slots[lane->slots_done % LANE_SLOTS];
        if (is_passed(&slot)) {
            if (slot.producer != NULL)
                slot.producer->unpassed--;
            continue;
        }
        held_by = slot.producer;
        lane->slots[lane->slots_begun++ % LANE_SLOTS] = slot;
    }
    lane->done++;
    if (held_by == NULL)
        return NULL;
    uint32_t last = (uint32_t)(lane->begun++ % SHMRING_COMMIT_WORDS);
    uint16_t word = lane->words[first];
    lane->words[first] = lane->words[last];
    lane->words[last] = word;
    lane->ends[last] = lane->slots_begun;
    return held_by;
}

static int allocate(struct shmring_lane *lane)
{
    lane->ends = calloc(SHMRING_COMMIT_WORDS, sizeof *lane->ends);
    lane->words = calloc(SHMRING_COMMIT_WORDS, sizeof *lane->words);
    lane->slots = calloc(LANE_SLOTS, sizeof *lane->slots);
    if (lane->ends == NULL || lane->words == NULL || lane->slots == NULL) {
        free(lane->ends);
        free(lane->words);
        free(lane->slots);
        lane->ends = NULL;
        lane->words = NULL;
        lane->slots = NULL;
        return -ENOMEM;
    }
    /* Neighbours in time are not neighbours in memory, so that receivers who read one do not slow
     * down the commit of the next. */
    const uint32_t lines = SHMRING_COMMIT_WORDS / 8;
    for (uint32_t k = 0; k < SHMRING_COMMIT_WORDS; k++)
        lane->words[k] = (uint16_t)(k % lines * 8 + k / lines);
    return SHMRING_OK;
}

/* Whether so many words answer for slots of this destination that it gets no more: half as many as
 * are left to all others. Who drains nothing is refused, and each further such one sooner, so that
 * those who drain find a word. */
static bool has_its_share(const struct shmring_lane *lane, const struct shmring_producer *producer)
{
    uint64_t left = SHMRING_COMMIT_WORDS - (lane->begun - lane->done);
    return producer->unpassed != 0 && producer->unpassed > left / 2;
}

/* Frees words, oldest first, until a destination has less than its share. False: it has not. */
static bool reduce_share(struct shmring_lane *lane, const struct shmring_producer *producer)
{
    for (uint64_t left = lane->begun - lane->done; has_its_share(lane, producer); left--) {
        if (left == 0)
            return false;
        (void)free_oldest(lane);
    }
    return true;
}

/* Finds a commit word that nobody can still read for an earlier transaction. */
static int take_word(struct shmring_lane *lane, const struct shmring_leg *legs, uint32_t count,
                     uint32_t *failed_leg)
{
    if (lane->slots == NULL) {
        int result = allocate(lane);
        if (result)
            return result;
    }
    uint64_t held = 0;
    while (lane->begun - lane->done == SHMRING_COMMIT_WORDS ||
           lane->slots_begun - lane->slots_done + count > LANE_SLOTS) {
        struct shmring_producer *held_by = free_oldest(lane);
        if (held_by == NULL || ++held < lane->begun - lane->done)
            continue;
        *failed_leg = 0;
        for (uint32_t i = 0; i < count; i++)
            if (legs[i].producer == held_by)
                *failed_leg = i;
        return SHMRING_E_FULL;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (shmring_unlikely(has_its_share(lane, legs[i].producer)) &&
            !reduce_share(lane, legs[i].producer)) {
            *failed_leg = i;
            return SHMRING_E_FULL;
        }
    }
    return SHMRING_OK;
}

/* Gives back what was claimed: void slots, which receivers step over, then the words. */
static void give_up(struct shmring_lane *lane, const struct shmring_leg *legs, uint32_t claimed)
{
    for (uint32_t i = 0; i < claimed; i++) {
        shmring_slot_publish(shmring_producer_slot(legs[i].producer, legs[i].position),
                             legs[i].position, SHMRING_CLASS_VOID, 0,
                             SHMRING_ROUTE(0, legs[i].producer->sender, 0));
        SHMRING_FAULT(COMMIT_VOID);
    }
    for (uint32_t i = 0; i < claimed; i++)
        shmring_producer_finish(legs[i].producer, &lane->claims[i]);
}

static void set_words(const struct shmring_releases *releases, uint64_t value)
{
    for (uint32_t i = 0; i < releases->count; i++) {
        /* SYNC N4 release, pairs with N5 in read_word. A reference: the commit word is pending
         * before anybody is sent to it. A stamp, or 0: it stands there before the commit word is
         * used again (C4), so that who finds another generation there finds it here. */
        shmring_store_release(releases->words[i], value);
        if ((value & SHMRING_COMMIT_STATE_MASK) == SHMRING_RELEASE_REFERS)
            SHMRING_FAULT(RELEASE_REFERS);
        else
            SHMRING_FAULT(RELEASE_SETTLED);
    }
}

/* Makes the words refer to the pending commit word, and tells those who must read them. */
static int announce_releases(const struct shmring_releases *releases, uint64_t reference)
{
    set_words(releases, reference);
    if (releases->counter != NULL) {
        /* Relaxed: the owner counts, one transaction with releases at a time. */
        uint64_t count = shmring_load_relaxed(releases->counter);
        /* SYNC N6 release, pairs with the acquire of those who compare the counter with what they
         * have dealt with: the words refer before it has changed. */
        shmring_store_release(releases->counter, count + 1);
        SHMRING_FAULT(RELEASE_COUNTED);
    }
    /* SYNC N7 full barrier, pairs with R3 and N5: the words are pending before the own rings are
     * looked through. Who hands one of them on in a slot that is not found there sees them. */
    shmring_fence_full();
    int result = releases->flag != NULL ? releases->flag(releases->context) : SHMRING_OK;
    SHMRING_FAULT(RELEASE_FLAGGED);
    return result;
}

/* Ends the transaction's hold on the words, and wakes those who may have slept because of it. */
static void settle_releases(const struct shmring_releases *releases, uint64_t stamp)
{
    set_words(releases, stamp);
    if (releases->wake == NULL)
        return;
    /* SYNC D1 full barrier, as in shmring_producer_finish: the commit before `parked`. */
    shmring_fence_full();
    releases->wake(releases->context);
}

/* Nobody else made it final meanwhile, or somebody did: it is aborted in both cases. */
static void abort_own(uint64_t *word, uint64_t pending)
{
    uint64_t aborted = SHMRING_COMMIT_ABORTED | (pending & SHMRING_COMMIT_GENERATION_MASK << 32);
    /* SYNC B1 acq_rel, as in abort_word. */
    (void)shmring_cas_acq_rel(word, &pending, aborted);
}

static void write_legs(struct shmring_lane *lane, const struct shmring_leg *legs, uint32_t count,
                       uint64_t reference)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct shmring_leg *leg = &legs[i];
        struct shmring_slot *slot = shmring_producer_slot(leg->producer, leg->position);
        shmring_copy(slot->body, leg->body, leg->length);
        shmring_slot_publish(slot, leg->position, SHMRING_CLASS_MULTICAST | leg->bits, reference,
                             SHMRING_ROUTE(leg->grant, leg->producer->sender, leg->length));
        lane->slots[lane->slots_begun++ % LANE_SLOTS] =
            (struct shmring_lane_slot){.producer = leg->producer, .position = leg->position};
        leg->producer->unpassed++;
        SHMRING_FAULT(COMMIT_WRITTEN);
    }
    lane->ends[lane->begun++ % SHMRING_COMMIT_WORDS] = lane->slots_begun;
}

static void finish_legs(struct shmring_lane *lane, const struct shmring_leg *legs, uint32_t count)
{
    if (count == 0)
        return;
    for (uint32_t i = 1; i < count; i++)
        shmring_store_release(&lane->claims[i], 0); /* SYNC R10 release: written, or to be void. */
    /* SYNC D1 full barrier, as in shmring_producer_finish: the commit before `parked`. */
    (void)shmring_exchange_full(&lane->claims[0], 0);
    SHMRING_FAULT(COMMIT_CLEARED);
    for (uint32_t i = 0; i < count; i++) {
        /* Relaxed: D1 puts it behind the commit. */
        uint64_t parked = shmring_load_relaxed(&legs[i].producer->control->parked);
        if (shmring_unlikely(parked != 0))
            shmring_producer_ring(legs[i].producer, parked);
    }
}

int shmring_transaction_commit(struct shmring_lane *lane, const struct shmring_clock *clock,
                               struct shmring_leg *legs, uint32_t count, bool may_use_reserve,
                               const struct shmring_releases *releases, uint64_t *stamp_out,
                               uint32_t *failed_leg)
{
    if (count > SHMRING_CLAIM_WORDS)
        return SHMRING_E_TOO_LARGE;
    if (releases != NULL && releases->count == 0)
        releases = NULL;
    if (count == 0 && releases == NULL)
        return SHMRING_OK;
    int result = take_word(lane, legs, count, failed_leg);
    if (result)
        return result;
    uint32_t index = lane->words[lane->begun % SHMRING_COMMIT_WORDS];
    if (SHMRING_BROKEN(WORD_REUSED_EARLY))
        index = lane->words[lane->begun % 4];
    uint64_t *word = &lane->commits[index];
    lane->generation = (lane->generation + 1) & (uint32_t)SHMRING_COMMIT_GENERATION_MASK;
    uint64_t begun = shmring_clock_now(clock) >> 10 & UINT32_MAX;
    uint64_t pending = SHMRING_COMMIT_PENDING | (uint64_t)lane->generation << 32 | begun;
    uint32_t of_outbox = lane->first_index + index;
    /* SYNC C4 release, pairs with C2 and N5: whoever finds this generation here finds the stamp of
     * the one before in the words that had referred to it (N4). The release stores of the headers
     * publish it anyway before any slot refers to it. */
    shmring_store_release(word, pending);
    SHMRING_FAULT(COMMIT_PENDING);

    for (uint32_t i = 0; i < count; i++) {
        struct shmring_producer *producer = legs[i].producer;
        uint64_t room = may_use_reserve ? producer->capacity : producer->unicast_room;
        result = shmring_producer_claim(producer, &lane->claims[i], room, &legs[i].position);
        if (result) {
            give_up(lane, legs, i);
            /* No slot refers to the word: it is free for the next attempt. Pending, it would be a
             * second one of this lane to whoever looks. */
            abort_own(word, pending);
            *failed_leg = i;
            return result;
        }
        SHMRING_FAULT(COMMIT_CLAIMED);
        SHMRING_DAWDLE(NO_LOOK_AHEAD, 16, 20);
    }
    SHMRING_DAWDLE(T0_AFTER_SCAN, 8, 20);
    if (releases != NULL) {
        result = announce_releases(releases, SHMRING_RELEASE_REF(of_outbox, lane->generation));
        if (result) {
            abort_own(word, pending);
            give_up(lane, legs, count);
            settle_releases(releases, 0);
            return result;
        }
    }
    uint64_t too_early = SHMRING_BROKEN(STAMP_BEFORE_BARRIER) ? shmring_clock_now(clock) : 0;
    SHMRING_DAWDLE(STAMP_BEFORE_BARRIER, 8, 20);
    write_legs(lane, legs, count, SHMRING_COMMIT_REF(of_outbox, lane->generation));

    /* SYNC C3 full barrier, pairs with R7 and R6 of every receiver's look: the stamp is younger
     * than the visibility of every slot, and of every flag. Read before it, two transactions and a
     * look can form a cycle. */
    shmring_fence_full();
    uint64_t stamp = too_early != 0 ? too_early : shmring_clock_now(clock);
    SHMRING_DAWDLE(PAST_PENDING, 8, 20);
    shmring_clock_wait_past(clock, stamp);
    SHMRING_FAULT(COMMIT_STAMPED);
    /* SYNC C1 acq_rel, pairs with C2 in resolve: the instant at which everything happens. */
    bool committed = shmring_cas_acq_rel(word, &pending, stamp);
    SHMRING_FAULT(COMMIT_DONE);

    finish_legs(lane, legs, count);
    if (releases != NULL)
        settle_releases(releases, committed ? stamp : 0);
    if (!committed)
        return SHMRING_E_ABORTED;
    *stamp_out = stamp;
    return SHMRING_OK;
}
