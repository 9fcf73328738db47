/* test_inbox.c - what an inbox does with one slot: waits, steps over, delivers, refuses. Units. */
#include "ring_kit.h"

#define CAPACITY 64u
#define RINGS 2u

/* One receiver with two rings (the second is added on demand), one sender with two lanes. */
struct fixture {
    struct shmring_clock clock;
    struct kit_ring rings[RINGS];
    struct kit_sender sender;
    struct shmring_producer producer[RINGS]; /* lane 0, into each ring */
    uint64_t *words, *other_words;           /* claim words of lane 0 and 1 */
    uint64_t *commits;
    struct kit_inbox receiver;
    union kit_message message;
};

static void set_up(struct fixture *f, uint32_t ring_count)
{
    f->clock = kit_clock(0, 0);
    kit_sender_open(&f->sender, 3, 2);
    f->words = kit_claim_words(&f->sender, 0);
    f->other_words = kit_claim_words(&f->sender, 1);
    f->commits = kit_commit_words(&f->sender);
    for (uint32_t r = 0; r < RINGS; r++) {
        kit_ring_open(&f->rings[r], 7 + r, CAPACITY, 64);
        kit_introduce(&f->rings[r], 5, &f->sender);
        KIT_MUST(shmring_producer_init(&f->producer[r], &f->rings[r].mapping, f->words, 5));
    }
    kit_inbox_open(&f->receiver, &f->clock, f->rings, ring_count);
}

static void tear_down(struct fixture *f)
{
    shmring_inbox_deinit(&f->receiver.inbox);
    for (uint32_t r = 0; r < RINGS; r++)
        kit_ring_close(&f->rings[r]);
    kit_sender_close(&f->sender);
}

static uint64_t now(const struct fixture *f)
{
    return shmring_clock_now(&f->clock);
}

/* The value of the next message, or minus what take said. */
static int64_t next_value(struct fixture *f)
{
    int result = kit_take(&f->receiver, &f->message);
    return result == SHMRING_OK ? (int64_t)f->message.m.body[0] : -result;
}

static void send(struct fixture *f, uint32_t ring, uint64_t value)
{
    CHECK_EQ(kit_send(&f->producer[ring], &f->clock, value), SHMRING_OK);
}

/* ---- unwritten ------------------------------------------------------------------------------ */

static void a_claimed_slot_is_passed_over_and_delivered_once_it_is_written(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t position = kit_claim(&f.producer[0], f.other_words);
    send(&f, 0, 1);
    send(&f, 0, 2);
    CHECK_EQ(next_value(&f), 1);
    CHECK_EQ(next_value(&f), 2);
    CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
    CHECK(f.receiver.inbox.counts.passed_over > 0);
    CHECK_EQ(f.rings[0].control->head, position);
    kit_write(&f.producer[0], position, SHMRING_CLASS_UNICAST, now(&f), 9);
    CHECK_EQ(next_value(&f), 9);
    CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
    CHECK_EQ(f.rings[0].control->head, position + 3);
    send(&f, 0, 3);
    CHECK_EQ(next_value(&f), 3);
    tear_down(&f);
}

static void a_message_behind_unwritten_slots_is_found_some_calls_later(void)
{
    for (uint32_t claims = 1; claims <= 4; claims++) {
        struct fixture f;
        set_up(&f, 1);
        for (uint32_t i = 0; i < claims; i++)
            (void)kit_claim(&f.producer[0], &f.other_words[i]);
        send(&f, 0, 7);
        uint32_t calls = 1;
        while (shmring_inbox_take(&f.receiver.inbox, &f.message.m) == SHMRING_E_EMPTY &&
               calls < 2 * SHMRING_EMPTY_LOOK)
            calls++;
        CHECK(calls <= (claims == 1 ? 1u : SHMRING_EMPTY_LOOK));
        CHECK_EQ(f.message.m.body[0], 7);
        tear_down(&f);
    }
}

/* O1: a message that was sent before another one was begun comes before it. */
static void what_was_written_meanwhile_goes_before_what_was_sent_after_it(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t first = kit_claim(&f.producer[0], f.other_words);
    uint64_t second = kit_claim(&f.producer[0], f.other_words + 1);
    CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
    kit_write(&f.producer[0], second, SHMRING_CLASS_UNICAST, now(&f), 2);
    send(&f, 0, 3); /* begun after `second` was visible */
    CHECK_EQ(next_value(&f), 2);
    CHECK_EQ(next_value(&f), 3);
    kit_write(&f.producer[0], first, SHMRING_CLASS_UNICAST, now(&f), 1);
    send(&f, 0, 4);
    CHECK_EQ(next_value(&f), 1);
    CHECK_EQ(next_value(&f), 4);
    CHECK(f.receiver.inbox.counts.re_read >= 2);
    tear_down(&f);
}

static void void_slots_are_stepped_over(void)
{
    struct fixture f;
    set_up(&f, 1);
    for (uint64_t i = 0; i < 3 * CAPACITY; i++) {
        uint64_t position = kit_claim(&f.producer[0], f.words);
        kit_write(&f.producer[0], position, SHMRING_CLASS_VOID, 0, 0);
        if (i % 3 == 0)
            send(&f, 0, i);
        CHECK_EQ(next_value(&f), i % 3 == 0 ? (int64_t)i : -SHMRING_E_EMPTY);
    }
    CHECK_EQ(f.receiver.inbox.counts.voids, 3 * CAPACITY);
    CHECK_EQ(f.rings[0].control->head, f.rings[0].control->tail);
    tear_down(&f);
}

/* ---- what no honest process writes ---------------------------------------------------------- */

static void the_multicast_of_a_stranger_waits_for_its_introduction_or_is_dropped(void)
{
    for (uint32_t dropped = 0; dropped < 2; dropped++) {
        struct fixture f;
        struct shmring_producer stranger;
        set_up(&f, 1);
        KIT_MUST(shmring_producer_init(&stranger, &f.rings[0].mapping, f.other_words, 900));
        send(&f, 0, 1);
        uint64_t position = kit_claim(&stranger, f.other_words);
        f.commits[4] = now(&f);
        kit_write(&stranger, position, SHMRING_CLASS_MULTICAST, SHMRING_COMMIT_REF(4, 1), 2);
        send(&f, 0, 3);
        CHECK_EQ(next_value(&f), 1);
        for (uint32_t again = 0; again < 3; again++) {
            CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), SHMRING_E_UNKNOWN_SENDER);
            CHECK_EQ(f.receiver.inbox.trouble_ring, 0);
            CHECK_EQ(f.receiver.inbox.trouble_sender, 900);
        }
        if (dropped)
            CHECK_EQ(shmring_consumer_drop_sender(&f.rings[0].consumer, 900), SHMRING_OK);
        else
            kit_introduce(&f.rings[0], 900, &f.sender);
        if (!dropped)
            CHECK_EQ(next_value(&f), 2);
        CHECK_EQ(next_value(&f), 3);
        CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

static void an_unknown_class_is_corrupt_and_the_ring_can_be_removed(void)
{
    for (uint64_t class = 0; class < 16; class++) {
        if (class >= SHMRING_CLASS_UNICAST && class <= SHMRING_CLASS_VOID)
            continue;
        struct fixture f;
        set_up(&f, 2);
        send(&f, 1, 1);
        uint64_t position = kit_claim(&f.producer[0], f.words);
        kit_write(&f.producer[0], position, class, now(&f), 6);
        send(&f, 1, 2);
        CHECK_EQ(next_value(&f), -SHMRING_E_CORRUPT);
        CHECK_EQ(f.receiver.inbox.trouble_ring, 0);
        CHECK_EQ(next_value(&f), -SHMRING_E_CORRUPT);
        shmring_inbox_remove(&f.receiver.inbox, &f.rings[0].consumer);
        CHECK_EQ(next_value(&f), 1);
        CHECK_EQ(next_value(&f), 2);
        CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

static void a_length_beyond_the_slot_is_corrupt_on_every_path(void)
{
    const uint64_t lengths[] = {41, 64, 1000, 65535};
    for (uint32_t i = 0; i < 8; i++) {
        struct fixture f;
        set_up(&f, 1 + i / 4);
        uint64_t position = kit_claim(&f.producer[0], f.words);
        struct shmring_slot *slot = shmring_producer_slot(&f.producer[0], position);
        shmring_slot_publish(slot, position, SHMRING_CLASS_UNICAST, now(&f),
                             SHMRING_ROUTE(1, 5, lengths[i % 4]));
        CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), SHMRING_E_CORRUPT);
        CHECK_EQ(f.receiver.inbox.trouble_ring, 0);
        shmring_inbox_remove(&f.receiver.inbox, &f.rings[0].consumer);
        CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

static void an_impossible_tail_is_corrupt(void)
{
    for (uint32_t i = 0; i < 12; i++) {
        struct fixture f;
        uint64_t positions[CAPACITY];
        uint32_t count = 99;
        set_up(&f, 1 + i % 2);
        for (uint64_t value = 0; value < 2; value++)
            send(&f, 0, value);
        CHECK_EQ(next_value(&f), 0);
        CHECK_EQ(next_value(&f), 1);
        (void)kit_claim(&f.producer[0], f.words);
        send(&f, 0, 2);
        CHECK_EQ(next_value(&f), 2);
        CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY); /* what was in hand is dealt with */
        uint64_t head = f.rings[0].control->head, tail = f.rings[0].control->tail;
        const uint64_t tails[] = {head, tail - 1, head - 1, head + CAPACITY + 1, 0, UINT64_MAX};
        f.rings[0].control->tail = tails[i / 2];
        CHECK_EQ(next_value(&f), -SHMRING_E_CORRUPT);
        CHECK_EQ(f.receiver.inbox.trouble_ring, 0);
        CHECK_EQ(shmring_inbox_stuck(&f.receiver.inbox, &f.rings[0].consumer, positions, CAPACITY,
                                     &count),
                 SHMRING_E_CORRUPT);
        CHECK_EQ(count, 0);
        tear_down(&f);
    }
}

static void random_bytes_in_a_ring_never_lead_outside_it(void)
{
    uint64_t seed = check_seed();
    uint64_t taken = 0, corrupt = 0;
    for (uint32_t round = 0; round < 400; round++) {
        struct fixture f;
        set_up(&f, 2);
        f.rings[0].consumer.foreign = round % 3 == 0;
        for (uint32_t turn = 0; turn < 40; turn++) {
            uint64_t r = check_random(&seed);
            struct kit_ring *ring = &f.rings[r & 1];
            uint64_t position = ring->control->head + (r >> 1 & 31);
            struct shmring_slot *slot = shmring_producer_slot(&f.producer[r & 1], position);
            slot->header = position << 8 | (r >> 8 & 3 ? r >> 10 & 3 : r >> 10 & 255);
            slot->stamp = r >> 18 & 3 ? SHMRING_COMMIT_REF(r >> 20 & 2047, 1) : check_random(&seed);
            slot->route = r >> 31 & 7 ? SHMRING_ROUTE(1, 5, r >> 34 & 31) : check_random(&seed);
            f.commits[r >> 20 & 511] = r >> 40 & 3 ? r >> 44 : check_random(&seed);
            if ((r >> 42 & 1) != 0)
                ring->control->tail = ring->control->head + (r >> 43 & 15);
            if ((r >> 48 & 31) == 0)
                ring->control->tail = check_random(&seed);
            if ((r >> 53 & 7) == 0)
                ring->control->flags = r;
            uint64_t positions[4];
            uint32_t count;
            if ((r >> 56 & 7) == 0 && shmring_inbox_stuck(&f.receiver.inbox, &ring->consumer,
                                                          positions, 4, &count) == SHMRING_OK)
                for (uint32_t i = 0; i < count; i++)
                    shmring_consumer_bury(&ring->consumer, positions[i]);
            int result = kit_take(&f.receiver, &f.message);
            taken += result == SHMRING_OK;
            corrupt += result == SHMRING_E_CORRUPT;
            if (result == SHMRING_OK)
                CHECK(f.message.m.length <= 40);
        }
        tear_down(&f);
    }
    CHECK(taken > 100);
    CHECK(corrupt > 100);
}

static void a_stamp_of_the_future_is_a_lie(void)
{
    for (uint32_t i = 0; i < 8; i++) {
        bool foreign = i % 2, look = i / 2 % 2, multicast = i / 4;
        struct fixture f;
        set_up(&f, 1);
        f.rings[0].consumer.foreign = foreign;
        uint64_t lie = now(&f) + (UINT64_C(1) << 50);
        if (look)
            (void)kit_claim(&f.producer[0], f.other_words);
        uint64_t position = kit_claim(&f.producer[0], f.words);
        f.commits[4] = lie;
        kit_write(&f.producer[0], position,
                  multicast ? SHMRING_CLASS_MULTICAST : SHMRING_CLASS_UNICAST,
                  multicast ? SHMRING_COMMIT_REF(4, 1) : lie, 1);
        CHECK_EQ(next_value(&f), foreign ? -SHMRING_E_CORRUPT : 1);
        if (!foreign && (look || multicast)) {
            CHECK_EQ(f.receiver.inbox.counts.clamped, 1);
            CHECK(f.message.m.stamp < lie);
        }
        tear_down(&f);
    }
}

/* Claimed before or behind the second of two looks, written then with a stamp of before the first,
 * of between the two, or of after both. */
static void a_stamp_of_before_its_slot_was_claimed_is_a_lie(void)
{
    for (uint32_t i = 0; i < 48; i++) {
        bool foreign = i % 2, multicast = i / 2 % 2, several = i / 4 % 2, late = i / 8 % 2;
        uint32_t when = i / 16;
        struct fixture f;
        uint64_t stamps[3], position = 0;
        set_up(&f, several ? 2 : 1);
        f.rings[0].consumer.foreign = foreign;
        f.rings[1].consumer.foreign = foreign;
        stamps[0] = now(&f);
        CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
        stamps[1] = now(&f);
        if (!late)
            position = kit_claim(&f.producer[0], f.words);
        CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
        if (late)
            position = kit_claim(&f.producer[0], f.words);
        stamps[2] = now(&f);
        f.commits[4] = stamps[when];
        kit_write(&f.producer[0], position,
                  multicast ? SHMRING_CLASS_MULTICAST : SHMRING_CLASS_UNICAST,
                  multicast ? SHMRING_COMMIT_REF(4, 1) : stamps[when], 1);
        bool lie = when == 0 || (when == 1 && late);
        CHECK_EQ(next_value(&f), foreign && lie ? -SHMRING_E_CORRUPT : 1);
        tear_down(&f);
    }
}

/* Nobody looks while a stream goes on; head is published, and tail read, each eighth of a lap. */
static void a_stream_of_another_domain_can_not_stamp_further_back_than_some_eighths_of_a_lap(void)
{
    for (uint32_t foreign = 0; foreign <= 1; foreign++) {
        struct fixture f;
        set_up(&f, 1);
        f.rings[0].consumer.foreign = foreign;
        uint64_t looks = 0, lie = 0;
        for (uint64_t i = 0; i < 4 * CAPACITY; i++) {
            send(&f, 0, i);
            CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), SHMRING_OK);
            CHECK_EQ(f.message.m.body[0], i);
            if (i == CAPACITY) {
                looks = f.receiver.inbox.counts.looks;
                lie = now(&f);
            }
        }
        CHECK_EQ(f.receiver.inbox.counts.looks, looks);
        kit_write(&f.producer[0], kit_claim(&f.producer[0], f.words), SHMRING_CLASS_UNICAST, lie,
                  77);
        CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m),
                 foreign ? SHMRING_E_CORRUPT : SHMRING_OK);
        tear_down(&f);
    }
}

/* ---- commit words --------------------------------------------------------------------------- */

#define GENERATION UINT64_C(77)
#define PENDING (SHMRING_COMMIT_PENDING | GENERATION << 32)
#define REFERENCE SHMRING_COMMIT_REF(4, GENERATION)

static void a_pending_multicast_holds_back_what_stands_behind_it(void)
{
    struct fixture f;
    set_up(&f, 1);
    f.commits[4] = PENDING;
    send(&f, 0, 1);
    kit_write(&f.producer[0], kit_claim(&f.producer[0], f.words), SHMRING_CLASS_MULTICAST,
              REFERENCE, 2);
    send(&f, 0, 3);
    CHECK_EQ(next_value(&f), 1);
    for (uint32_t i = 0; i < 200; i++)
        CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), SHMRING_E_EMPTY);
    CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
    uint64_t stamp = now(&f);
    f.commits[4] = stamp;
    CHECK_EQ(next_value(&f), 3); /* stamped before the commit */
    CHECK_EQ(next_value(&f), 2);
    CHECK_EQ(f.message.m.stamp, stamp);
    CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
    CHECK(f.receiver.inbox.counts.look_waits > 0);
    tear_down(&f);
}

static void what_was_aborted_or_points_nowhere_is_dropped(void)
{
    const struct {
        uint64_t word, reference;
    } cases[] = {
        {SHMRING_COMMIT_ABORTED | GENERATION << 32, REFERENCE},
        {SHMRING_COMMIT_PENDING | (GENERATION + 1) << 32, REFERENCE},
        {0, REFERENCE},
        {PENDING, SHMRING_COMMIT_REF(2 * SHMRING_COMMIT_WORDS, GENERATION)},
        {PENDING, SHMRING_COMMIT_REF(UINT32_MAX, GENERATION)},
        {UINT64_MAX, REFERENCE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture f;
        set_up(&f, 1);
        f.commits[4] = cases[i].word;
        kit_write(&f.producer[0], kit_claim(&f.producer[0], f.words), SHMRING_CLASS_MULTICAST,
                  cases[i].reference, 1);
        send(&f, 0, 2);
        CHECK_EQ(next_value(&f), 2);
        CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
        CHECK_EQ(f.rings[0].control->head, CAPACITY + 2);
        tear_down(&f);
    }
}

static void a_pending_multicast_that_is_aborted_lets_the_rest_go(void)
{
    struct fixture f;
    set_up(&f, 1);
    f.commits[4] = PENDING;
    kit_write(&f.producer[0], kit_claim(&f.producer[0], f.words), SHMRING_CLASS_MULTICAST,
              REFERENCE, 1);
    send(&f, 0, 2);
    CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
    f.commits[4] = SHMRING_COMMIT_ABORTED | GENERATION << 32;
    CHECK_EQ(next_value(&f), 2);
    CHECK_EQ(f.receiver.inbox.counts.aborted, 1);
    tear_down(&f);
}

/* ---- the flag, the death word, stuck claims ------------------------------------------------- */

static void a_changed_flag_or_death_word_makes_a_look_and_loses_nothing(void)
{
    struct fixture f;
    set_up(&f, 1);
    for (uint64_t i = 0; i < 40; i++) {
        uint64_t looks = f.receiver.inbox.counts.looks;
        send(&f, 0, i);
        if (i % 4 == 1)
            f.receiver.death = i;
        if (i % 4 == 3)
            f.rings[0].control->flags ^= SHMRING_FLAG_RELEASES;
        CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), SHMRING_OK);
        CHECK_EQ(f.message.m.body[0], i);
        CHECK_EQ(f.receiver.inbox.counts.looks - looks, i % 2);
    }
    tear_down(&f);
}

static void stuck_names_the_unwritten_claims_and_loses_none_of_the_others(void)
{
    struct fixture f;
    uint64_t positions[CAPACITY];
    uint32_t count = 0;
    set_up(&f, 1);
    uint64_t a = kit_claim(&f.producer[0], f.other_words);
    send(&f, 0, 1);
    uint64_t b = kit_claim(&f.producer[0], f.other_words + 1);
    send(&f, 0, 2);
    CHECK_EQ(shmring_inbox_stuck(&f.receiver.inbox, &f.rings[0].consumer, positions, CAPACITY,
                                 &count),
             SHMRING_OK);
    REQUIRE(count == 2);
    CHECK_EQ(positions[0], a);
    CHECK_EQ(positions[1], b);
    CHECK_EQ(shmring_inbox_stuck(&f.receiver.inbox, &f.rings[0].consumer, positions, 1, &count),
             SHMRING_OK);
    CHECK_EQ(count, 1);
    kit_write(&f.producer[0], b, SHMRING_CLASS_UNICAST, now(&f), 3);
    shmring_consumer_bury(&f.rings[0].consumer, a);
    shmring_consumer_bury(&f.rings[0].consumer, b); /* written after all: not buried */
    CHECK_EQ(next_value(&f), 1);
    CHECK_EQ(next_value(&f), 2);
    CHECK_EQ(next_value(&f), 3);
    CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
    CHECK_EQ(f.rings[0].control->head, f.rings[0].control->tail);
    tear_down(&f);
}

/* ---- held ----------------------------------------------------------------------------------- */

static void a_held_inbox_gives_nothing_and_loses_nothing(void)
{
    struct fixture f;
    set_up(&f, 1);
    send(&f, 0, 1);
    CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), SHMRING_OK);
    send(&f, 0, 2);
    shmring_inbox_hold(&f.receiver.inbox, true);
    CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), SHMRING_E_HELD);
    CHECK_EQ(shmring_inbox_spin(&f.receiver.inbox, &f.message.m, 64), SHMRING_E_HELD);
    CHECK_EQ(shmring_inbox_wait(&f.receiver.inbox, &f.message.m, 0, UINT64_MAX), SHMRING_E_HELD);
    CHECK_EQ(shmring_inbox_arm(&f.receiver.inbox, &f.message.m), SHMRING_E_HELD);
    CHECK_EQ(next_value(&f), -SHMRING_E_HELD);
    shmring_inbox_hold(&f.receiver.inbox, false);
    CHECK(f.receiver.inbox.only != NULL);
    CHECK_EQ(next_value(&f), 2);
    tear_down(&f);
}

static void an_inbox_grows_to_its_limit_and_delivers_from_the_last_ring(void)
{
    struct fixture f;
    set_up(&f, 0);
    struct kit_inbox *receiver = &f.receiver;
    static struct kit_ring rings[300];
    for (uint32_t r = 0; r < 300; r++) {
        kit_ring_open(&rings[r], r, 16, 64);
        REQUIRE(shmring_inbox_add(&receiver->inbox, &rings[r].consumer) == SHMRING_OK);
    }
    struct shmring_producer producer;
    KIT_MUST(shmring_producer_init(&producer, &rings[299].mapping, f.words, 5));
    CHECK_EQ(kit_send(&producer, &f.clock, 4), SHMRING_OK);
    CHECK_EQ(next_value(&f), 4);
    CHECK_EQ(f.message.m.ring, 299);
    /* The refusal needs no rings of its own. */
    for (uint32_t r = 300; r < SHMRING_INBOX_RINGS_MAX; r++)
        REQUIRE(shmring_inbox_add(&receiver->inbox, &f.rings[0].consumer) == SHMRING_OK);
    CHECK_EQ(shmring_inbox_add(&receiver->inbox, &f.rings[0].consumer), SHMRING_E_TOO_LARGE);
    for (uint32_t r = 300; r < SHMRING_INBOX_RINGS_MAX; r++)
        shmring_inbox_remove(&receiver->inbox, &f.rings[0].consumer);
    CHECK_EQ(receiver->inbox.ready_needed, 300 * (16 + SHMRING_RETIRED_MAX));
    for (uint32_t r = 0; r < 300; r++) {
        shmring_inbox_remove(&receiver->inbox, &rings[r].consumer);
        kit_ring_close(&rings[r]);
    }
    tear_down(&f);
}

CHECK_MAIN(RUN(an_inbox_grows_to_its_limit_and_delivers_from_the_last_ring),
           RUN(a_claimed_slot_is_passed_over_and_delivered_once_it_is_written),
           RUN(a_message_behind_unwritten_slots_is_found_some_calls_later),
           RUN(what_was_written_meanwhile_goes_before_what_was_sent_after_it),
           RUN(void_slots_are_stepped_over),
           RUN(the_multicast_of_a_stranger_waits_for_its_introduction_or_is_dropped),
           RUN(an_unknown_class_is_corrupt_and_the_ring_can_be_removed),
           RUN(a_length_beyond_the_slot_is_corrupt_on_every_path),
           RUN(an_impossible_tail_is_corrupt), RUN(random_bytes_in_a_ring_never_lead_outside_it),
           RUN(a_stamp_of_the_future_is_a_lie),
           RUN(a_stamp_of_before_its_slot_was_claimed_is_a_lie),
           RUN(a_stream_of_another_domain_can_not_stamp_further_back_than_some_eighths_of_a_lap),
           RUN(a_pending_multicast_holds_back_what_stands_behind_it),
           RUN(what_was_aborted_or_points_nowhere_is_dropped),
           RUN(a_pending_multicast_that_is_aborted_lets_the_rest_go),
           RUN(a_changed_flag_or_death_word_makes_a_look_and_loses_nothing),
           RUN(stuck_names_the_unwritten_claims_and_loses_none_of_the_others),
           RUN(a_held_inbox_gives_nothing_and_loses_nothing))
