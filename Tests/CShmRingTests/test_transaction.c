/* test_transaction.c - several destinations at one instant or not at all. Units, one process. */
#include <signal.h>

#include "ring_kit.h"

#define CAPACITY 64u
#define RECEIVERS 3u

struct fixture {
    struct shmring_clock clock;
    struct kit_ring rings[RECEIVERS];
    struct kit_inbox receivers[RECEIVERS];
    struct kit_sender sender;
    struct shmring_lane lane;
    struct shmring_producer producers[RECEIVERS];
    struct shmring_leg legs[RECEIVERS];
    uint64_t value;
    union kit_message message;
};

static void set_up(struct fixture *f)
{
    f->clock = kit_clock(0, 0);
    f->value = 0;
    kit_sender_open(&f->sender, 3, 2);
    KIT_MUST(shmring_lane_init(&f->lane, &f->sender.claims, &f->sender.outbox, 1));
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        kit_ring_open(&f->rings[i], 20 + i, CAPACITY, 64);
        kit_introduce(&f->rings[i], 5, &f->sender);
        KIT_MUST(shmring_producer_init(&f->producers[i], &f->rings[i].mapping,
                                       shmring_lane_claim_word(&f->lane), 5));
        kit_inbox_open(&f->receivers[i], &f->clock, &f->rings[i], 1);
        f->legs[i] = (struct shmring_leg){
            .producer = &f->producers[i], .body = &f->value, .grant = i, .length = 8};
    }
}

static void tear_down(struct fixture *f)
{
    shmring_lane_deinit(&f->lane);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        shmring_inbox_deinit(&f->receivers[i].inbox);
        kit_ring_close(&f->rings[i]);
    }
    kit_sender_close(&f->sender);
}

static int commit(struct fixture *f, uint32_t count, uint64_t *stamp)
{
    uint32_t failed = UINT32_MAX;
    return shmring_transaction_commit(&f->lane, &f->clock, f->legs, count, false, NULL, stamp,
                                      &failed);
}

static int64_t next_value(struct fixture *f, uint32_t receiver)
{
    int result = kit_take(&f->receivers[receiver], &f->message);
    return result == SHMRING_OK ? (int64_t)f->message.m.body[0] : -result;
}

static void no_claim_is_left(const struct fixture *f)
{
    for (uint32_t i = 0; i < SHMRING_CLAIM_WORDS; i++)
        CHECK_EQ(f->lane.claims[i], 0);
}

static void a_transaction_reaches_every_destination_with_one_stamp(void)
{
    struct fixture f;
    uint64_t stamp = 0, last = 0;
    set_up(&f);
    for (f.value = 0; f.value < 3000; f.value++) {
        CHECK_EQ(commit(&f, RECEIVERS, &stamp), SHMRING_OK);
        CHECK(stamp > last);
        last = stamp;
        for (uint32_t i = 0; i < RECEIVERS; i++) {
            CHECK_EQ(next_value(&f, i), f.value);
            CHECK_EQ(f.message.m.stamp, stamp);
            CHECK_EQ(f.message.m.grant, i);
            CHECK_EQ(f.message.m.sender, 5);
        }
    }
    no_claim_is_left(&f);
    tear_down(&f);
}

/* S2: all destinations or none. */
static void a_full_destination_means_that_nothing_has_happened_anywhere(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    uint32_t failed = 0;
    set_up(&f);
    while (kit_send(&f.producers[2], &f.clock, 7) == SHMRING_OK)
        ;
    uint64_t tail = f.rings[2].control->tail;
    CHECK_EQ(shmring_transaction_commit(&f.lane, &f.clock, f.legs, 3, false, NULL, &stamp,
                                        &failed),
             SHMRING_E_FULL);
    CHECK_EQ(failed, 2);
    no_claim_is_left(&f);
    CHECK_EQ(f.rings[2].control->tail, tail);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQ(shmring_consumer_slot(&f.rings[i].consumer, CAPACITY)->header,
                 CAPACITY << SHMRING_POSITION_SHIFT | SHMRING_CLASS_VOID);
        CHECK_EQ(next_value(&f, i), -SHMRING_E_EMPTY);
    }
    /* Whoever has failed before may use the last eighth. */
    f.value = 8;
    CHECK_EQ(shmring_transaction_commit(&f.lane, &f.clock, f.legs, 3, true, NULL, &stamp,
                                        &failed),
             SHMRING_OK);
    CHECK_EQ(next_value(&f, 0), 8);
    CHECK_EQ(next_value(&f, 1), 8);
    for (uint32_t i = 0; i < CAPACITY - CAPACITY / 8; i++)
        CHECK_EQ(next_value(&f, 2), 7);
    CHECK_EQ(next_value(&f, 2), 8);
    tear_down(&f);
}

static void a_corrupt_destination_is_named_and_nothing_has_happened(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    uint32_t failed = 0;
    set_up(&f);
    f.rings[1].control->tail += 1000;
    CHECK_EQ(shmring_transaction_commit(&f.lane, &f.clock, f.legs, 3, false, NULL, &stamp,
                                        &failed),
             SHMRING_E_CORRUPT);
    CHECK_EQ(failed, 1);
    no_claim_is_left(&f);
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
    CHECK_EQ(f.rings[2].control->tail, CAPACITY);
    tear_down(&f);
}

/* A sender is stopped in mid-commit, after its claims and before its first slot is written: it
 * reads a body from a page that faults, and the handler does what happens meanwhile. */
static struct {
    void *page;
    void (*meanwhile)(struct fixture *f);
    struct fixture *fixture;
    uint32_t faults;
} stop;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    if ((uintptr_t)info->si_addr / SHMRING_PAGE_BYTES != (uintptr_t)stop.page / SHMRING_PAGE_BYTES)
        _exit(4);
    stop.faults++;
    (void)mprotect(stop.page, SHMRING_PAGE_BYTES, PROT_READ | PROT_WRITE);
    stop.meanwhile(stop.fixture);
}

static int commit_while(struct fixture *f, uint32_t count, void (*meanwhile)(struct fixture *),
                        uint64_t *stamp)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct sigaction before;
    stop.page = kit_shared(SHMRING_PAGE_BYTES);
    memcpy(stop.page, &f->value, sizeof f->value);
    stop.meanwhile = meanwhile;
    stop.fixture = f;
    stop.faults = 0;
    (void)sigaction(SIGSEGV, &action, &before);
    (void)mprotect(stop.page, SHMRING_PAGE_BYTES, PROT_NONE);
    f->legs[0].body = stop.page;
    int result = commit(f, count, stamp);
    f->legs[0].body = &f->value;
    (void)sigaction(SIGSEGV, &before, NULL);
    (void)munmap(stop.page, SHMRING_PAGE_BYTES);
    CHECK_EQ(stop.faults, 1);
    return result;
}

static void abort_what_is_pending(struct fixture *f)
{
    uint32_t pending = 0;
    for (uint32_t i = 0; i < SHMRING_COMMIT_WORDS; i++) {
        uint64_t word = shmring_load_acquire(&f->lane.commits[i]);
        if ((word & SHMRING_COMMIT_STATE_MASK) != SHMRING_COMMIT_PENDING)
            continue;
        uint64_t aborted = SHMRING_COMMIT_ABORTED | (word & ~SHMRING_COMMIT_STATE_MASK);
        CHECK(shmring_cas_acq_rel(&f->lane.commits[i], &word, aborted));
        pending++;
    }
    CHECK_EQ(pending, 1);
    for (uint32_t i = 0; i < RECEIVERS; i++)
        CHECK_EQ(f->lane.claims[i], SHMRING_CLAIM(1, 20 + i, CAPACITY));
}

static void what_another_aborts_is_told_and_never_delivered(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    set_up(&f);
    f.value = 1;
    CHECK_EQ(commit_while(&f, 3, abort_what_is_pending, &stamp), SHMRING_E_ABORTED);
    no_claim_is_left(&f);
    for (uint32_t i = 0; i < RECEIVERS; i++)
        CHECK_EQ(next_value(&f, i), -SHMRING_E_EMPTY);
    f.value = 2;
    CHECK_EQ(commit(&f, 3, &stamp), SHMRING_OK);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        CHECK_EQ(next_value(&f, i), 2);
        CHECK_EQ(next_value(&f, i), -SHMRING_E_EMPTY);
    }
    tear_down(&f);
}

/* ---- commit words --------------------------------------------------------------------------- */

static void a_commit_word_waits_until_every_destination_has_passed_it(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    uint32_t failed = 0, sent = 0;
    set_up(&f);
    for (uint32_t i = 0; i < 3; i++) /* larger rings: the words run out before the slots */
        kit_ring_close(&f.rings[i]);
    for (uint32_t i = 0; i < 3; i++) {
        kit_ring_open(&f.rings[i], 20 + i, 4096, 64);
        kit_introduce(&f.rings[i], 5, &f.sender);
        KIT_MUST(shmring_producer_init(&f.producers[i], &f.rings[i].mapping, f.lane.claims, 5));
        shmring_inbox_deinit(&f.receivers[i].inbox);
        kit_inbox_open(&f.receivers[i], &f.clock, &f.rings[i], 1);
    }
    while (sent < 5000 &&
           shmring_transaction_commit(&f.lane, &f.clock, f.legs, 3, false, NULL, &stamp,
                                      &failed) == 0)
        sent++;
    /* Each has its share: half as many as are left. */
    CHECK_EQ(sent, SHMRING_COMMIT_WORDS / 3 + 1);
    no_claim_is_left(&f);
    /* As long as one of three has not gone on, none is free, and that one is named. */
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQ(shmring_transaction_commit(&f.lane, &f.clock, f.legs, 3, false, NULL, &stamp,
                                        &failed),
                 SHMRING_E_FULL);
        CHECK_EQ(failed, i);
        for (uint32_t k = 0; k < sent; k++)
            CHECK_EQ(next_value(&f, i), 0);
        CHECK_EQ(next_value(&f, i), -SHMRING_E_EMPTY);
    }
    CHECK_EQ(commit(&f, 3, &stamp), SHMRING_OK);
    tear_down(&f);
}

static void a_destination_that_is_gone_is_not_waited_for(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    set_up(&f);
    for (uint32_t i = 0; i < CAPACITY - CAPACITY / 8; i++) {
        CHECK_EQ(commit(&f, 3, &stamp), SHMRING_OK);
        for (uint32_t r = 1; r < 3; r++)
            CHECK_EQ(next_value(&f, r), 0);
    }
    shmring_lane_forget(&f.lane, &f.producers[0]);
    f.legs[0] = f.legs[1];
    for (uint32_t i = 0; i < 3 * SHMRING_COMMIT_WORDS; i++) {
        CHECK_EQ(shmring_transaction_commit(&f.lane, &f.clock, f.legs + 1, 2, false, NULL, &stamp,
                                            &(uint32_t){0}),
                 SHMRING_OK);
        for (uint32_t r = 1; r < 3; r++)
            CHECK_EQ(next_value(&f, r), 0);
    }
    tear_down(&f);
}

static void one_that_does_not_drain_its_ring_holds_up_no_transactions_to_others(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    set_up(&f);
    for (uint32_t i = 0; i < 20; i++)
        CHECK_EQ(commit(&f, 3, &stamp), SHMRING_OK); /* receiver 0 takes none of these */
    f.legs[0] = f.legs[2];
    for (f.value = 1; f.value < 5000; f.value++) {
        REQUIRE(commit(&f, 2, &stamp) == SHMRING_OK);
        for (uint32_t r = 1; r < 3; r++) {
            for (uint32_t i = 0; f.value == 1 && i < 20; i++)
                CHECK_EQ(next_value(&f, r), 0);
            CHECK_EQ(next_value(&f, r), f.value);
            CHECK_EQ(f.message.m.stamp, stamp);
        }
    }
    uint64_t last = 0;
    for (uint32_t i = 0; i < 20; i++) {
        CHECK_EQ(next_value(&f, 0), 0);
        CHECK(f.message.m.stamp > last && f.message.m.stamp < stamp);
        last = f.message.m.stamp;
    }
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
    tear_down(&f);
}

/* S2: who drains nothing is refused, by name, and stops nobody else. */
static void those_who_drain_nothing_leave_words_for_those_who_do(void)
{
    enum { STOPPED = 6 }; /* each takes a third of what is left: 45 words are */
    struct fixture f;
    struct kit_ring rings[STOPPED];
    struct shmring_producer producers[STOPPED];
    uint64_t stamp = 0;
    set_up(&f);
    struct shmring_leg good = f.legs[2];
    for (uint32_t i = 0; i < STOPPED; i++) {
        uint32_t failed = UINT32_MAX, sent = 0;
        kit_ring_open(&rings[i], 40 + i, 4096, 64);
        kit_introduce(&rings[i], 5, &f.sender);
        KIT_MUST(shmring_producer_init(&producers[i], &rings[i].mapping, f.lane.claims, 5));
        f.legs[0] = good;
        f.legs[1] = good;
        f.legs[1].producer = &producers[i];
        int result;
        while ((result = shmring_transaction_commit(&f.lane, &f.clock, f.legs, 2, false, NULL,
                                                    &stamp, &failed)) == SHMRING_OK) {
            sent++;
            CHECK_EQ(next_value(&f, 2), 0);
        }
        CHECK_EQ(result, SHMRING_E_FULL);
        CHECK_EQ(failed, 1);
        CHECK(sent >= 1);
        no_claim_is_left(&f);
    }
    f.legs[0] = good;
    f.legs[1] = good;
    f.legs[1].producer = &f.producers[1];
    for (f.value = 1; f.value < 2000; f.value++) {
        REQUIRE(commit(&f, 2, &stamp) == SHMRING_OK);
        for (uint32_t r = 1; r < 3; r++)
            CHECK_EQ(next_value(&f, r), f.value);
    }
    for (uint32_t i = 0; i < STOPPED; i++)
        kit_ring_close(&rings[i]);
    tear_down(&f);
}

static void pass_a_lap_in_the_first_ring(struct fixture *f)
{
    struct shmring_producer other;
    uint64_t word = 0;
    KIT_MUST(shmring_producer_init(&other, &f->rings[0].mapping, &word, 6));
    for (uint64_t i = 0; i < CAPACITY; i++) {
        CHECK_EQ(kit_send(&other, &f->clock, i), SHMRING_OK);
        CHECK_EQ(next_value(f, 0), i);
    }
    CHECK_EQ(f->rings[0].consumer.resume[0], SHMRING_RESUME_NEVER | CAPACITY);
}

static void a_commit_word_answers_for_a_slot_written_late_until_that_is_delivered(void)
{
    for (uint32_t aborted = 0; aborted < 2; aborted++) {
        struct fixture f;
        uint64_t late = 0, stamp = 0;
        set_up(&f);
        CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY); /* allocates, which no handler may */
        f.value = 99;
        CHECK_EQ(commit_while(&f, 2, pass_a_lap_in_the_first_ring, &late), SHMRING_OK);
        if (aborted) /* as if the broker had been faster */
            for (uint32_t i = 0; i < SHMRING_COMMIT_WORDS; i++)
                if (f.lane.commits[i] == late)
                    f.lane.commits[i] = SHMRING_COMMIT_ABORTED | UINT64_C(1) << 32;
        CHECK_EQ(next_value(&f, 1), aborted ? -SHMRING_E_EMPTY : 99);
        /* The head of ring 0 is beyond the slot, which was not looked at: the words of this lane
         * come round, and that one must not be among them. */
        f.legs[0] = f.legs[1];
        for (f.value = 100; f.value < 2000; f.value++) {
            REQUIRE(commit(&f, 1, &stamp) == SHMRING_OK);
            CHECK_EQ(next_value(&f, 1), f.value);
        }
        CHECK_EQ(next_value(&f, 0), aborted ? -SHMRING_E_EMPTY : 99);
        if (!aborted)
            CHECK_EQ(f.message.m.stamp, late);
        CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

/* ---- sizes ---------------------------------------------------------------------------------- */

static void a_transaction_may_have_256_destinations_and_no_more(void)
{
    static struct kit_ring rings[SHMRING_CLAIM_WORDS];
    static struct kit_inbox receivers[SHMRING_CLAIM_WORDS];
    static struct shmring_producer producers[SHMRING_CLAIM_WORDS];
    static struct shmring_leg legs[SHMRING_CLAIM_WORDS + 1];
    struct fixture f;
    uint64_t stamp = 0;
    uint32_t failed = 0;
    set_up(&f);
    for (uint32_t i = 0; i < SHMRING_CLAIM_WORDS; i++) {
        kit_ring_open(&rings[i], 100 + i, 16, 64);
        kit_introduce(&rings[i], 5, &f.sender);
        KIT_MUST(shmring_producer_init(&producers[i], &rings[i].mapping, f.lane.claims, 5));
        kit_inbox_open(&receivers[i], &f.clock, &rings[i], 1);
        legs[i] = f.legs[0];
        legs[i].producer = &producers[i];
    }
    CHECK_EQ(shmring_transaction_commit(&f.lane, &f.clock, legs, SHMRING_CLAIM_WORDS + 1, false,
                                        NULL, &stamp, &failed),
             SHMRING_E_TOO_LARGE);
    /* Often enough that the words' slots come round. */
    for (f.value = 0; f.value < 40; f.value++) {
        CHECK_EQ(shmring_transaction_commit(&f.lane, &f.clock, legs, SHMRING_CLAIM_WORDS, false,
                                            NULL, &stamp, &failed),
                 SHMRING_OK);
        for (uint32_t i = 0; i < SHMRING_CLAIM_WORDS; i++) {
            CHECK_EQ(kit_take(&receivers[i], &f.message), SHMRING_OK);
            CHECK_EQ(f.message.m.body[0], f.value);
            CHECK_EQ(f.message.m.stamp, stamp);
            CHECK_EQ(kit_take(&receivers[i], &f.message), SHMRING_E_EMPTY);
        }
    }
    for (uint32_t i = 0; i < SHMRING_CLAIM_WORDS; i++) {
        shmring_inbox_deinit(&receivers[i].inbox);
        kit_ring_close(&rings[i]);
    }
    no_claim_is_left(&f);
    tear_down(&f);
}

static void a_transaction_may_reach_one_ring_many_times_in_its_own_order(void)
{
    struct fixture f;
    struct shmring_leg legs[40];
    uint64_t values[40], stamp = 0;
    uint32_t failed = 0;
    set_up(&f);
    for (uint32_t i = 0; i < 40; i++) {
        values[i] = i;
        legs[i] = f.legs[0];
        legs[i].body = &values[i];
        legs[i].bits = i < 39 ? SHMRING_HEADER_MORE : 0;
    }
    CHECK_EQ(kit_send(&f.producers[0], &f.clock, 1000), SHMRING_OK);
    CHECK_EQ(shmring_transaction_commit(&f.lane, &f.clock, legs, 40, false, NULL, &stamp, &failed),
             0);
    CHECK_EQ(next_value(&f, 0), 1000);
    for (uint32_t i = 0; i < 40; i++) {
        CHECK_EQ(next_value(&f, 0), i);
        CHECK_EQ(f.message.m.stamp, stamp);
        CHECK_EQ(shmring_message_has_more(&f.message.m), i < 39);
    }
    CHECK_EQ(shmring_transaction_commit(&f.lane, &f.clock, legs, 0, false, NULL, &stamp, &failed),
             0);
    tear_down(&f);
}

static void a_lane_beyond_the_segments_is_refused(void)
{
    struct fixture f;
    struct shmring_lane lane;
    set_up(&f);
    CHECK_EQ(shmring_lane_init(&lane, &f.sender.claims, &f.sender.outbox, 2), SHMRING_E_CORRUPT);
    CHECK_EQ(shmring_lane_init(&lane, &f.sender.claims, &f.sender.outbox, SHMRING_LANES_MAX),
             SHMRING_E_CORRUPT);
    CHECK_EQ(shmring_lane_init(&lane, &f.sender.claims, &f.sender.outbox, UINT32_MAX),
             SHMRING_E_CORRUPT);
    tear_down(&f);
}

CHECK_MAIN(RUN(a_transaction_reaches_every_destination_with_one_stamp),
           RUN(a_full_destination_means_that_nothing_has_happened_anywhere),
           RUN(a_corrupt_destination_is_named_and_nothing_has_happened),
           RUN(what_another_aborts_is_told_and_never_delivered),
           RUN(a_commit_word_waits_until_every_destination_has_passed_it),
           RUN(a_destination_that_is_gone_is_not_waited_for),
           RUN(those_who_drain_nothing_leave_words_for_those_who_do),
    RUN(one_that_does_not_drain_its_ring_holds_up_no_transactions_to_others),
           RUN(a_commit_word_answers_for_a_slot_written_late_until_that_is_delivered),
           RUN(a_transaction_may_have_256_destinations_and_no_more),
           RUN(a_transaction_may_reach_one_ring_many_times_in_its_own_order),
           RUN(a_lane_beyond_the_segments_is_refused))
