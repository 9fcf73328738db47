/* test_service.c - slots that stay unwritten: indices out of service, burials, head and waiters. */
#include "ring_kit.h"

#define CAPACITY 64u
#define EIGHTH (CAPACITY / 8)

struct fixture {
    struct shmring_clock clock;
    struct kit_ring ring;
    struct kit_sender sender;
    struct shmring_producer producer, slow; /* of two lanes */
    uint64_t *slow_word;
    struct kit_inbox receiver;
    uint64_t sent, taken;
    union kit_message message;
};

static void set_up(struct fixture *f, uint32_t capacity)
{
    f->clock = kit_clock(0, 0);
    f->sent = f->taken = 0;
    kit_ring_open(&f->ring, 7, capacity, 64);
    kit_sender_open(&f->sender, 3, 2);
    kit_introduce(&f->ring, 5, &f->sender);
    f->slow_word = kit_claim_words(&f->sender, 1);
    KIT_MUST(shmring_producer_init(&f->producer, &f->ring.mapping, kit_claim_words(&f->sender, 0),
                                   5));
    KIT_MUST(shmring_producer_init(&f->slow, &f->ring.mapping, f->slow_word, 5));
    kit_inbox_open(&f->receiver, &f->clock, &f->ring, 1);
}

static void tear_down(struct fixture *f)
{
    shmring_inbox_deinit(&f->receiver.inbox);
    kit_ring_close(&f->ring);
    kit_sender_close(&f->sender);
}

/* Sends and takes `count` messages, one by one, all in order. */
static void pass(struct fixture *f, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!CHECK_EQ(kit_send(&f->producer, &f->clock, f->sent++), SHMRING_OK))
            return;
        if (!CHECK_EQ(kit_take(&f->receiver, &f->message), SHMRING_OK))
            return;
        CHECK_EQ(f->message.m.body[0], f->taken++);
    }
}

static void an_unwritten_slot_leaves_the_head_free_after_an_eighth_of_a_lap(void)
{
    struct fixture f;
    set_up(&f, CAPACITY);
    uint64_t position = kit_claim(&f.slow, f.slow_word);
    pass(&f, EIGHTH - 2);
    CHECK_EQ(f.ring.control->head, position);
    CHECK_EQ(f.ring.control->out_of_service, 0);
    pass(&f, 3);
    CHECK(f.ring.control->head > position);
    CHECK_EQ(f.ring.control->out_of_service, 1);
    CHECK_EQ(f.ring.consumer.resume[position % CAPACITY], SHMRING_RESUME_NEVER | position);
    pass(&f, 10 * CAPACITY);
    CHECK(f.receiver.inbox.counts.holes >= 9);
    /* Nobody wrote there, however often it came by. */
    CHECK_EQ(shmring_consumer_slot(&f.ring.consumer, position)->header, 0);
    tear_down(&f);
}

static void what_is_written_late_is_delivered_once_and_its_index_comes_back_a_lap_ahead(void)
{
    for (uint64_t laps = 0; laps < 4; laps++) {
        struct fixture f;
        set_up(&f, CAPACITY);
        pass(&f, 5);
        uint64_t position = kit_claim(&f.slow, f.slow_word), index = position % CAPACITY;
        pass(&f, 20 + laps * CAPACITY);
        kit_write(&f.slow, position, SHMRING_CLASS_UNICAST, shmring_clock_now(&f.clock), 99999);
        shmring_producer_finish(&f.slow, f.slow_word);
        uint64_t tail = f.ring.control->tail;
        REQUIRE(kit_take(&f.receiver, &f.message) == SHMRING_OK);
        CHECK_EQ(f.message.m.body[0], 99999);
        CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_E_EMPTY);
        uint64_t resume = f.ring.consumer.resume[index];
        CHECK_EQ(resume % CAPACITY, index);
        CHECK(resume >= tail + CAPACITY && resume < tail + 2 * CAPACITY);
        CHECK_EQ(f.ring.control->out_of_service, 1);
        uint64_t holes = f.receiver.inbox.counts.holes;
        pass(&f, 3 * CAPACITY);
        CHECK_EQ(f.receiver.inbox.counts.holes, holes + 1);
        CHECK_EQ(f.ring.control->out_of_service, 0);
        CHECK(f.receiver.inbox.only != NULL);
        CHECK_EQ(shmring_consumer_slot(&f.ring.consumer, index)->header >> SHMRING_POSITION_SHIFT,
                 (f.ring.control->tail - 1 - index) / CAPACITY * CAPACITY + index);
        tear_down(&f);
    }
}

static void a_batch_over_an_index_out_of_service_is_delivered_whole(void)
{
    struct fixture f;
    set_up(&f, CAPACITY);
    (void)kit_claim(&f.slow, f.slow_word);
    pass(&f, 20);
    for (uint32_t round = 0; round < 50; round++) {
        struct shmring_batch batch;
        uint64_t put = 0;
        REQUIRE(shmring_batch_begin(&f.producer, 13, &batch) == SHMRING_OK);
        while (shmring_batch_put(&f.producer, &batch, 1, &f.sent, 8) == SHMRING_OK) {
            f.sent++;
            put++;
        }
        CHECK(put >= 12);
        (void)shmring_batch_commit(&f.producer, &f.clock, &batch);
        for (; put > 0; put--) {
            CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_OK);
            CHECK_EQ(f.message.m.body[0], f.taken++);
        }
    }
    CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_E_EMPTY);
    tear_down(&f);
}

static void a_batch_that_is_itself_out_of_service_loses_no_message(void)
{
    struct fixture f;
    struct shmring_batch batch;
    set_up(&f, CAPACITY);
    (void)kit_claim(&f.slow, f.slow_word);
    pass(&f, 2 * CAPACITY); /* something is out of service, and the batch's sender knows */
    KIT_MUST(shmring_producer_init(&f.slow, &f.ring.mapping, f.slow_word + 1, 5));
    REQUIRE(shmring_batch_begin(&f.slow, 4, &batch) == SHMRING_OK);
    uint64_t value = 70000;
    CHECK_EQ(shmring_batch_put(&f.slow, &batch, 1, &value, 8), SHMRING_OK);
    pass(&f, 2 * CAPACITY);
    CHECK(f.ring.consumer.retired_count > 4);
    for (value = 70001; value < 70004; value++)
        CHECK_EQ(shmring_batch_put(&f.slow, &batch, 1, &value, 8), SHMRING_OK);
    (void)shmring_batch_commit(&f.slow, &f.clock, &batch);
    for (value = 70000; value < 70004; value++) {
        REQUIRE(kit_take(&f.receiver, &f.message) == SHMRING_OK);
        CHECK_EQ(f.message.m.body[0], value);
    }
    CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_E_EMPTY);
    CHECK_EQ(f.ring.consumer.retired_count, 1);
    tear_down(&f);
}

/* Found by tools/fuzz: the claim word went on naming the hole. */
static void a_batch_that_finds_nothing_but_a_hole_leaves_no_claim(void)
{
    struct fixture f;
    struct shmring_batch batch;
    set_up(&f, CAPACITY);
    struct shmring_ring_control *control = f.ring.control;
    uint64_t last = control->head + f.producer.unicast_room - 1;
    shmring_store_relaxed(&control->tail, last);
    shmring_store_relaxed(&control->out_of_service, 1);
    shmring_store_relaxed(&f.ring.consumer.resume[last & f.producer.mask],
                          SHMRING_RESUME_NEVER | (last - f.producer.capacity));
    (void)shmring_producer_refresh(&f.producer, last, 1, f.producer.unicast_room);
    CHECK_EQ(shmring_batch_begin(&f.producer, 4, &batch), SHMRING_E_FULL);
    CHECK_EQ(control->tail, last + 1); /* the hole was claimed, as it must be */
    CHECK_EQ(*f.producer.claim_word, 0);
    tear_down(&f);
}

static void at_most_64_indices_are_out_of_service_and_the_next_one_fills_the_ring(void)
{
    struct fixture f;
    uint64_t positions[SHMRING_RETIRED_MAX + 1], words[SHMRING_RETIRED_MAX + 1] = {0};
    set_up(&f, 1024);
    for (uint32_t i = 0; i <= SHMRING_RETIRED_MAX; i++)
        positions[i] = kit_claim(&f.slow, &words[i]);
    int result = SHMRING_OK;
    while (result == SHMRING_OK && f.sent < 5000) {
        result = kit_send(&f.producer, &f.clock, f.sent);
        if (result == SHMRING_OK) {
            CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_OK);
            CHECK_EQ(f.message.m.body[0], f.sent++);
        }
    }
    CHECK_EQ(result, SHMRING_E_FULL);
    CHECK_EQ(f.ring.consumer.retired_count, SHMRING_RETIRED_MAX);
    CHECK_EQ(f.ring.control->head, positions[SHMRING_RETIRED_MAX]);
    /* All are written after all: everything arrives, and the ring is as new. */
    f.taken = f.sent;
    for (uint32_t i = 0; i <= SHMRING_RETIRED_MAX; i++)
        kit_write(&f.slow, positions[i], SHMRING_CLASS_UNICAST, shmring_clock_now(&f.clock), i);
    for (uint32_t i = 0; i <= SHMRING_RETIRED_MAX; i++) {
        CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_OK);
        CHECK_EQ(f.message.m.body[0], i);
    }
    CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_E_EMPTY); /* the last one is dealt with */
    pass(&f, 4096);
    CHECK_EQ(f.ring.control->out_of_service, 0);
    tear_down(&f);
}

static void a_burial_ends_what_nobody_will_write(void)
{
    for (uint32_t late = 0; late < 2; late++) {
        struct fixture f;
        uint64_t positions[8];
        uint32_t count;
        set_up(&f, CAPACITY);
        uint64_t position = kit_claim(&f.slow, f.slow_word);
        pass(&f, late ? 3 * CAPACITY : 2);
        CHECK_EQ(shmring_inbox_stuck(&f.receiver.inbox, &f.ring.consumer, positions, 8, &count), 0);
        REQUIRE(count == 1 && positions[0] == position);
        shmring_consumer_bury(&f.ring.consumer, position);
        CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_E_EMPTY);
        CHECK_EQ(f.ring.control->head, f.ring.control->tail);
        CHECK_EQ(f.receiver.inbox.counts.returned_to_service, late);
        pass(&f, 4 * CAPACITY);
        CHECK_EQ(f.ring.control->out_of_service, 0);
        CHECK_EQ(shmring_inbox_stuck(&f.receiver.inbox, &f.ring.consumer, positions, 8, &count), 0);
        CHECK_EQ(count, 0);
        tear_down(&f);
    }
}

static void a_burial_spares_what_was_written_after_all_and_what_it_does_not_know(void)
{
    struct fixture f;
    set_up(&f, CAPACITY);
    uint64_t position = kit_claim(&f.slow, f.slow_word);
    pass(&f, 3 * CAPACITY);
    kit_write(&f.slow, position, SHMRING_CLASS_UNICAST, shmring_clock_now(&f.clock), 4711);
    shmring_consumer_bury(&f.ring.consumer, position);
    shmring_consumer_bury(&f.ring.consumer, 0);
    shmring_consumer_bury(&f.ring.consumer, UINT64_MAX);
    shmring_consumer_bury(&f.ring.consumer, f.ring.control->tail);
    REQUIRE(kit_take(&f.receiver, &f.message) == SHMRING_OK);
    CHECK_EQ(f.message.m.body[0], 4711);
    pass(&f, 3 * CAPACITY);
    tear_down(&f);
}

static void a_random_mix_of_slow_and_dead_claimers_loses_and_doubles_nothing(void)
{
    uint64_t seed = check_seed();
    enum { STALLED = 40 };
    for (uint32_t round = 0; round < 60; round++) {
        struct fixture f;
        uint64_t positions[STALLED], words[STALLED] = {0};
        uint32_t stalled = 0;
        uint64_t written = 0, got = 0, late_sum = 0, late_got = 0;
        set_up(&f, 16u << round % 5);
        for (uint32_t turn = 0; turn < 2000; turn++) {
            uint64_t r = check_random(&seed);
            uint32_t one = stalled ? (uint32_t)(r >> 40) % stalled : 0;
            if (r % 16 == 0 && stalled < STALLED) {
                if (shmring_producer_claim(&f.slow, &words[stalled], f.slow.unicast_room,
                                           &positions[stalled]) == SHMRING_OK)
                    stalled++;
            } else if (r % 16 == 1 && stalled > 0) {
                uint64_t value = UINT64_C(1) << 40 | turn;
                kit_write(&f.slow, positions[one], SHMRING_CLASS_UNICAST,
                          shmring_clock_now(&f.clock), value);
                late_sum += value;
                positions[one] = positions[--stalled];
            } else if (r % 16 == 2 && stalled > 0) {
                uint64_t ignored[1];
                uint32_t count;
                if (shmring_inbox_stuck(&f.receiver.inbox, &f.ring.consumer, ignored, 1, &count))
                    continue;
                shmring_consumer_bury(&f.ring.consumer, positions[one]);
                positions[one] = positions[--stalled];
            } else if (r % 16 < 10) {
                written += kit_send(&f.producer, &f.clock, written) == SHMRING_OK;
            } else if (shmring_inbox_take(&f.receiver.inbox, &f.message.m) == SHMRING_OK) {
                uint64_t value = f.message.m.body[0];
                if (value >> 40)
                    late_got += value;
                else
                    CHECK_EQ(value, got++);
            }
        }
        while (kit_take(&f.receiver, &f.message) == SHMRING_OK) {
            uint64_t value = f.message.m.body[0];
            if (value >> 40)
                late_got += value;
            else
                CHECK_EQ(value, got++);
        }
        CHECK_EQ(got, written);
        CHECK_EQ(late_got, late_sum);
        tear_down(&f);
    }
}

/* ---- head ----------------------------------------------------------------------------------- */

static void head_is_published_each_eighth_of_a_lap_and_waiters_are_told(void)
{
    struct fixture f;
    set_up(&f, CAPACITY);
    f.ring.control->waiters = 1;
    for (uint64_t i = 0; i < CAPACITY - EIGHTH; i++)
        CHECK_EQ(kit_send(&f.producer, &f.clock, i), SHMRING_OK);
    for (uint64_t i = 1; i <= CAPACITY - EIGHTH; i++) {
        CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), SHMRING_OK);
        /* The message in hand is not dealt with yet. */
        CHECK_EQ(f.ring.control->head, CAPACITY + (i - 1) / EIGHTH * EIGHTH);
        CHECK_EQ(f.ring.control->waiters, i <= EIGHTH);
        CHECK_EQ(f.ring.control->room, i > EIGHTH);
    }
    tear_down(&f);
}

static void head_is_published_before_the_receiver_sleeps(void)
{
    struct fixture f;
    set_up(&f, CAPACITY);
    pass(&f, 3);
    CHECK_EQ(f.ring.control->head, CAPACITY);
    CHECK_EQ(shmring_inbox_wait(&f.receiver.inbox, &f.message.m, 0, check_now_ns() + 1000000),
             SHMRING_E_EMPTY);
    CHECK_EQ(f.ring.control->head, CAPACITY + 3);
    tear_down(&f);
}

CHECK_MAIN(RUN(an_unwritten_slot_leaves_the_head_free_after_an_eighth_of_a_lap),
           RUN(what_is_written_late_is_delivered_once_and_its_index_comes_back_a_lap_ahead),
           RUN(a_batch_over_an_index_out_of_service_is_delivered_whole),
           RUN(a_batch_that_is_itself_out_of_service_loses_no_message),
           RUN(a_batch_that_finds_nothing_but_a_hole_leaves_no_claim),
           RUN(at_most_64_indices_are_out_of_service_and_the_next_one_fills_the_ring),
           RUN(a_burial_ends_what_nobody_will_write),
           RUN(a_burial_spares_what_was_written_after_all_and_what_it_does_not_know),
           RUN(a_random_mix_of_slow_and_dead_claimers_loses_and_doubles_nothing),
           RUN(head_is_published_each_eighth_of_a_lap_and_waiters_are_told),
           RUN(head_is_published_before_the_receiver_sleeps))
