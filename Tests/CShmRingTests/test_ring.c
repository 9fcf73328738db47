/* test_ring.c - the sending side of one ring: claim, write, commit, batches. Units, one process. */
#include <pthread.h>

#include "ring_kit.h"

#define CAPACITY 16u
#define ROOM (CAPACITY - CAPACITY / 8)

struct fixture {
    struct kit_ring ring;
    struct kit_sender sender;
    struct shmring_clock clock;
    struct shmring_producer producer;
    uint64_t *word; /* the producer's claim word */
};

static void set_up(struct fixture *f, uint32_t slot_bytes)
{
    f->clock = kit_clock(0, 0);
    kit_ring_open(&f->ring, 7, CAPACITY, slot_bytes);
    kit_sender_open(&f->sender, 3, 1);
    f->word = kit_claim_words(&f->sender, 0);
    KIT_MUST(shmring_producer_init(&f->producer, &f->ring.mapping, f->word, 5));
}

static void tear_down(struct fixture *f)
{
    kit_ring_close(&f->ring);
    kit_sender_close(&f->sender);
}

static void set_control(struct fixture *f, uint64_t head, uint64_t tail)
{
    shmring_store_relaxed(&f->ring.control->head, head);
    shmring_store_relaxed(&f->ring.control->tail, tail);
    KIT_MUST(shmring_producer_init(&f->producer, &f->ring.mapping, f->word, 5));
}

/* The consumer's word of this position's index: what is below `resume` is a hole. */
static void take_out_of_service(struct fixture *f, uint64_t position)
{
    f->ring.consumer.resume[position % CAPACITY] = SHMRING_RESUME_NEVER | position % CAPACITY;
    f->ring.control->out_of_service = 1;
    KIT_MUST(shmring_producer_init(&f->producer, &f->ring.mapping, f->word, 5));
}

static const struct shmring_slot *slot_at(const struct fixture *f, uint64_t position)
{
    return shmring_consumer_slot(&f->ring.consumer, position);
}

static bool is_written(const struct fixture *f, uint64_t position, uint64_t class)
{
    return slot_at(f, position)->header == (position << SHMRING_POSITION_SHIFT | class);
}

/* ---- claims --------------------------------------------------------------------------------- */

static void a_claim_word_names_the_position_from_claim_to_finish(void)
{
    struct fixture f;
    set_up(&f, 64);
    CHECK_EQ(*f.word, 0);
    uint64_t position = kit_claim(&f.producer, f.word);
    CHECK_EQ(position, CAPACITY);
    CHECK_EQ(f.ring.control->tail, CAPACITY + 1);
    CHECK_EQ(*f.word, SHMRING_CLAIM(1, 7, CAPACITY));
    CHECK_EQ(slot_at(&f, position)->header, 0);
    kit_write(&f.producer, position, SHMRING_CLASS_UNICAST, 1, 42);
    CHECK(is_written(&f, position, SHMRING_CLASS_UNICAST));
    CHECK_EQ(slot_at(&f, position)->route, SHMRING_ROUTE(1, 5, 8));
    CHECK_EQ(*f.word, SHMRING_CLAIM(1, 7, CAPACITY));
    shmring_producer_finish(&f.producer, f.word);
    CHECK_EQ(*f.word, 0);
    tear_down(&f);
}

static void a_claim_that_loses_the_race_claims_the_next_position(void)
{
    struct fixture f;
    set_up(&f, 64);
    struct shmring_producer other;
    uint64_t other_word = 0;
    KIT_MUST(shmring_producer_init(&other, &f.ring.mapping, &other_word, 6));
    CHECK_EQ(kit_claim(&other, &other_word), CAPACITY);
    CHECK_EQ(kit_claim(&f.producer, f.word), CAPACITY + 1);
    CHECK_EQ(*f.word, SHMRING_CLAIM(1, 7, CAPACITY + 1));
    CHECK_EQ(other_word, SHMRING_CLAIM(1, 7, CAPACITY));
    tear_down(&f);
}

static void positions_go_on_where_the_index_and_their_low_half_wrap(void)
{
    const uint64_t begins[] = {2 * CAPACITY - 3, (UINT64_C(1) << 32) - 3, (UINT64_C(1) << 55) - 3};
    for (size_t b = 0; b < sizeof begins / sizeof begins[0]; b++) {
        struct fixture f;
        struct kit_inbox receiver;
        union kit_message message;
        set_up(&f, 64);
        kit_ring_begin_at(&f.ring, begins[b]);
        kit_inbox_open(&receiver, &f.clock, &f.ring, 1);
        KIT_MUST(shmring_producer_init(&f.producer, &f.ring.mapping, f.word, 5));
        for (uint64_t i = 0; i < 3 * CAPACITY; i++) {
            CHECK_EQ(kit_send(&f.producer, &f.clock, i), SHMRING_OK);
            CHECK_EQ(shmring_inbox_take(&receiver.inbox, &message.m), SHMRING_OK);
            CHECK_EQ(message.m.body[0], i);
            CHECK_EQ(message.m.sequence, i + 1);
        }
        CHECK_EQ(f.ring.control->tail, begins[b] + 3 * CAPACITY);
        shmring_inbox_deinit(&receiver.inbox);
        tear_down(&f);
    }
}

static void a_full_ring_refuses_and_nothing_of_it_changes(void)
{
    struct fixture f;
    set_up(&f, 64);
    set_control(&f, 100, 100 + ROOM);
    uint64_t before[CAPACITY * 8];
    memcpy(before, f.producer.slots, sizeof before);
    CHECK_EQ(kit_send(&f.producer, &f.clock, 1), SHMRING_E_FULL);
    struct shmring_batch batch;
    CHECK_EQ(shmring_batch_begin(&f.producer, 4, &batch), SHMRING_E_FULL);
    CHECK_EQ(*f.word, 0);
    CHECK_EQ(f.ring.control->tail, 100 + ROOM);
    CHECK_EQ(memcmp(before, f.producer.slots, sizeof before), 0);
    tear_down(&f);
}

static void the_last_eighth_is_kept_for_those_who_may_use_it(void)
{
    struct fixture f;
    set_up(&f, 64);
    set_control(&f, 100, 100 + ROOM);
    uint64_t position = 0;
    for (uint64_t i = 0; i < CAPACITY / 8; i++) {
        CHECK_EQ(shmring_producer_claim(&f.producer, f.word, CAPACITY, &position), SHMRING_OK);
        CHECK_EQ(position, 100 + ROOM + i);
    }
    CHECK_EQ(shmring_producer_claim(&f.producer, f.word, CAPACITY, &position), SHMRING_E_FULL);
    CHECK_EQ(*f.word, 0);
    tear_down(&f);
}

static void head_is_read_only_when_the_own_copy_says_full(void)
{
    struct fixture f;
    set_up(&f, 64);
    for (uint64_t i = 0; i < ROOM; i++) {
        CHECK_EQ(kit_send(&f.producer, &f.clock, i), SHMRING_OK);
        f.ring.control->head = CAPACITY + i;
        CHECK_EQ(f.producer.head_seen, CAPACITY);
    }
    CHECK_EQ(kit_send(&f.producer, &f.clock, ROOM), SHMRING_OK);
    CHECK_EQ(f.producer.head_seen, CAPACITY + ROOM - 1);
    tear_down(&f);
}

static void an_impossible_tail_or_head_is_refused_and_nothing_is_written(void)
{
    const struct {
        uint64_t head, tail;
    } cases[] = {
        {100, 100 + CAPACITY + 1}, {100, UINT64_C(1) << 40}, {100, 99},
        {100, 0},                  {100, UINT64_MAX},        {UINT64_MAX, 100},
        {116, 100},                {100, 100 - CAPACITY},    {0, UINT64_C(1) << 63},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture f;
        struct shmring_batch batch;
        set_up(&f, 64);
        f.ring.control->head = cases[i].head;
        f.ring.control->tail = cases[i].tail;
        KIT_MUST(shmring_producer_init(&f.producer, &f.ring.mapping, f.word, 5));
        uint64_t before[CAPACITY * 8], position;
        memcpy(before, f.producer.slots, sizeof before);
        CHECK_EQ(kit_send(&f.producer, &f.clock, 1), SHMRING_E_CORRUPT);
        CHECK_EQ(shmring_batch_begin(&f.producer, 1, &batch), SHMRING_E_CORRUPT);
        CHECK_EQ(shmring_batch_begin(&f.producer, 8, &batch), SHMRING_E_CORRUPT);
        CHECK_EQ(shmring_producer_claim(&f.producer, f.word, CAPACITY, &position),
                 SHMRING_E_CORRUPT);
        CHECK_EQ(shmring_producer_wait(&f.producer, ROOM, 0), SHMRING_E_CORRUPT);
        CHECK_EQ(*f.word, 0);
        CHECK_EQ(f.ring.control->tail, cases[i].tail);
        CHECK_EQ(memcmp(before, f.producer.slots, sizeof before), 0);
        tear_down(&f);
    }
}

static void a_header_of_another_geometry_is_refused(void)
{
    struct fixture f;
    set_up(&f, 64);
    const uint32_t capacities[] = {0, 1, 15, 32, 64, 1u << 20, UINT32_MAX};
    for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; i++) {
        struct shmring_producer producer;
        struct shmring_consumer consumer;
        f.ring.control->header.param_a = capacities[i];
        /* 32 and 64 slots of 64 bytes fill the same pages as 16: a wrong geometry that stays within
         * the mapping harms only its domain. */
        bool fits = shmring_ring_bytes(capacities[i], 64) == f.ring.mapping.byte_count;
        CHECK_EQ(shmring_producer_init(&producer, &f.ring.mapping, f.word, 5) == SHMRING_OK, fits);
        CHECK_EQ(shmring_consumer_init(&consumer, &f.ring.mapping, false) == SHMRING_OK, fits);
    }
    f.ring.control->header.param_a = CAPACITY;
    f.ring.control->header.id = SHMRING_RINGS_MAX;
    CHECK_EQ(shmring_producer_init(&f.producer, &f.ring.mapping, f.word, 5), SHMRING_E_CORRUPT);
    f.ring.control->header.id = 7;
    CHECK_EQ(shmring_producer_init(&f.producer, &f.ring.mapping, f.word, SHMRING_SENDERS_MAX),
             SHMRING_E_CORRUPT);
    tear_down(&f);
}

/* A ring between two pages that nobody may touch. */
static uint8_t *map_guarded(int fd, uint64_t byte_count)
{
    uint8_t *base = mmap(NULL, byte_count + 2 * SHMRING_PAGE_BYTES, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED ||
        mmap(base + SHMRING_PAGE_BYTES, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
             fd, 0) == MAP_FAILED)
        kit_must(-1, "mmap");
    return base;
}

static void random_control_words_never_lead_a_sender_outside_the_ring(void)
{
    struct fixture f;
    set_up(&f, 1024);
    uint64_t seed = check_seed();
    uint64_t byte_count = f.ring.mapping.byte_count;
    uint8_t *guarded = map_guarded(f.ring.fd, byte_count);
    struct shmring_mapping mapping = {guarded + SHMRING_PAGE_BYTES, byte_count};
    struct shmring_ring_control *control = mapping.base;
    uint8_t body[KIT_BODY_BYTES_MAX] = {0};
    uint64_t stamp, sent = 0;
    for (uint32_t i = 0; i < 20000; i++) {
        uint64_t r = check_random(&seed);
        uint64_t base = r & 1 ? check_random(&seed) : CAPACITY;
        control->head = base + (r >> 1 & 31) - 8;
        control->tail = r >> 8 & 3 ? base + (r >> 16 & 15) : check_random(&seed);
        control->out_of_service = r >> 10 & 1;
        for (uint32_t k = 0; k < CAPACITY; k++)
            f.ring.consumer.resume[k] = r >> (32 + k) & 1 ? check_random(&seed) : 0;
        KIT_MUST(shmring_producer_init(&f.producer, &mapping, f.word, 5));
        sent += shmring_producer_send(&f.producer, &f.clock, 1, 0, body, f.producer.body_bytes,
                                      &stamp) == SHMRING_OK;
        struct shmring_batch batch;
        if (shmring_batch_begin(&f.producer, 1 + (r >> 12 & 15), &batch) == SHMRING_OK) {
            (void)shmring_batch_put(&f.producer, &batch, 1, body, f.producer.body_bytes);
            (void)shmring_batch_commit(&f.producer, &f.clock, &batch);
        }
    }
    CHECK(sent > 0);
    CHECK_EQ(control->header.magic, SHMRING_MAGIC);
    CHECK_EQ(control->header.param_a, CAPACITY);
    (void)munmap(guarded, byte_count + 2 * SHMRING_PAGE_BYTES);
    tear_down(&f);
}

/* ---- bodies and stamps ---------------------------------------------------------------------- */

static void bodies_of_every_size_arrive_byte_for_byte(void)
{
    uint64_t seed = check_seed();
    for (uint32_t slot_bytes = 64; slot_bytes <= 1024; slot_bytes *= 2) {
        struct fixture f;
        struct kit_inbox receiver;
        union kit_message message;
        set_up(&f, slot_bytes);
        kit_inbox_open(&receiver, &f.clock, &f.ring, 1);
        CHECK_EQ(f.producer.body_bytes, slot_bytes - 24);
        CHECK_EQ(receiver.inbox.body_bytes_max, slot_bytes - 24);
        for (uint32_t length = 0; length <= f.producer.body_bytes; length++) {
            uint8_t body[KIT_BODY_BYTES_MAX], next[1024];
            for (uint32_t i = 0; i < length; i++)
                body[i] = (uint8_t)check_random(&seed);
            uint64_t stamp = 0, position = f.ring.control->tail;
            memcpy(next, slot_at(&f, position + 1), slot_bytes);
            memset(&message, 0xee, sizeof message);
            CHECK_EQ(shmring_producer_send(&f.producer, &f.clock, length, 0, body, length, &stamp),
                     SHMRING_OK);
            CHECK_EQ(memcmp(next, slot_at(&f, position + 1), slot_bytes), 0);
            CHECK_EQ(shmring_inbox_take(&receiver.inbox, &message.m), SHMRING_OK);
            CHECK_EQ(message.m.length, length);
            CHECK_EQ(message.m.grant, length);
            CHECK_EQ(message.m.sender, 5);
            CHECK_EQ(message.m.stamp, stamp);
            CHECK(memcmp(message.m.body, body, length) == 0);
            /* Not a byte more than the length: the next one is still as it was. */
            CHECK_EQ(((const uint8_t *)message.m.body)[length], 0xee);
        }
        shmring_inbox_deinit(&receiver.inbox);
        tear_down(&f);
    }
}

static void stamps_of_one_sender_grow_with_every_clock(void)
{
    struct fixture f;
    set_up(&f, 64);
    const struct shmring_clock clocks[] = {f.clock, kit_clock(SHMRING_CLOCK_MONOTONIC, 0),
                                           kit_clock(SHMRING_CLOCK_MONOTONIC, 20000)};
    for (size_t c = 0; c < sizeof clocks / sizeof clocks[0]; c++) {
        uint64_t last = 0, stamp = 0, value = 0;
        for (uint32_t i = 0; i < 50; i++) {
            f.ring.control->head = f.ring.control->tail;
            CHECK_EQ(shmring_producer_send(&f.producer, &clocks[c], 1, 0, &value, 8, &stamp), 0);
            CHECK(stamp > last);
            last = stamp;
        }
    }
    tear_down(&f);
}

/* ---- holes ---------------------------------------------------------------------------------- */

static void a_claim_that_meets_a_hole_claims_again_and_leaves_it_alone(void)
{
    struct fixture f;
    set_up(&f, 64);
    take_out_of_service(&f, CAPACITY);
    take_out_of_service(&f, CAPACITY + 1);
    CHECK_EQ(kit_claim(&f.producer, f.word), CAPACITY + 2);
    CHECK_EQ(*f.word, SHMRING_CLAIM(1, 7, CAPACITY + 2));
    CHECK_EQ(slot_at(&f, CAPACITY)->header, 0);
    CHECK_EQ(slot_at(&f, CAPACITY + 1)->header, 0);
    /* A lap on, the first is back in service, the second not yet. */
    f.ring.consumer.resume[0] = 2 * CAPACITY;
    f.ring.consumer.resume[1] = 3 * CAPACITY;
    f.ring.control->head = f.ring.control->tail = 2 * CAPACITY;
    CHECK_EQ(kit_claim(&f.producer, f.word), 2 * CAPACITY);
    CHECK_EQ(kit_claim(&f.producer, f.word), 2 * CAPACITY + 2);
    tear_down(&f);
}

static void a_ring_full_of_holes_is_full(void)
{
    struct fixture f;
    set_up(&f, 64);
    for (uint64_t i = 0; i < CAPACITY; i++)
        take_out_of_service(&f, i);
    CHECK_EQ(kit_send(&f.producer, &f.clock, 1), SHMRING_E_FULL);
    CHECK_EQ(*f.word, 0);
    struct shmring_batch batch;
    CHECK_EQ(shmring_batch_begin(&f.producer, 3, &batch), SHMRING_E_FULL);
    CHECK_EQ(*f.word, 0);
    tear_down(&f);
}

/* ---- batches -------------------------------------------------------------------------------- */

static void a_batch_takes_as_many_as_there_is_room_for(void)
{
    struct fixture f;
    struct shmring_batch batch;
    set_up(&f, 64);
    set_control(&f, 100, 110);
    CHECK_EQ(shmring_batch_begin(&f.producer, 9, &batch), SHMRING_OK);
    CHECK_EQ(batch.count, ROOM - 10);
    CHECK_EQ(batch.position, 110);
    CHECK_EQ(*f.word, SHMRING_CLAIM(ROOM - 10, 7, 110));
    CHECK_EQ(f.ring.control->tail, 100 + ROOM);
    tear_down(&f);
    set_up(&f, 64);
    CHECK_EQ(shmring_batch_begin(&f.producer, UINT64_MAX / 2, &batch), SHMRING_OK);
    CHECK_EQ(batch.count, ROOM);
    tear_down(&f);
}

static void a_batch_appears_at_commit_with_one_stamp_and_void_for_what_was_not_put(void)
{
    struct fixture f;
    struct shmring_batch batch;
    struct kit_inbox receiver;
    union kit_message message;
    set_up(&f, 64);
    kit_inbox_open(&receiver, &f.clock, &f.ring, 1);
    REQUIRE(shmring_batch_begin(&f.producer, 5, &batch) == SHMRING_OK);
    for (uint64_t i = 0; i < 3; i++)
        CHECK_EQ(shmring_batch_put(&f.producer, &batch, 9, &i, sizeof i), SHMRING_OK);
    CHECK_EQ(kit_take(&receiver, &message), SHMRING_E_EMPTY);
    CHECK_EQ(*f.word, SHMRING_CLAIM(5, 7, CAPACITY));
    uint64_t stamp = shmring_batch_commit(&f.producer, &f.clock, &batch);
    CHECK_EQ(*f.word, 0);
    CHECK(is_written(&f, CAPACITY + 2, SHMRING_CLASS_UNICAST));
    CHECK(is_written(&f, CAPACITY + 3, SHMRING_CLASS_VOID));
    CHECK(is_written(&f, CAPACITY + 4, SHMRING_CLASS_VOID));
    for (uint64_t i = 0; i < 3; i++) {
        REQUIRE(kit_take(&receiver, &message) == SHMRING_OK);
        CHECK_EQ(message.m.body[0], i);
        CHECK_EQ(message.m.grant, 9);
        CHECK_EQ(message.m.stamp, stamp);
    }
    CHECK_EQ(kit_take(&receiver, &message), SHMRING_E_EMPTY);
    CHECK_EQ(f.ring.control->head, CAPACITY + 5);
    shmring_inbox_deinit(&receiver.inbox);
    tear_down(&f);
}

static void a_batch_steps_over_holes_and_never_writes_them(void)
{
    struct fixture f;
    struct shmring_batch batch;
    set_up(&f, 64);
    take_out_of_service(&f, CAPACITY + 1);
    REQUIRE(shmring_batch_begin(&f.producer, 4, &batch) == SHMRING_OK);
    for (uint64_t i = 0; i < 3; i++)
        CHECK_EQ(shmring_batch_put(&f.producer, &batch, 1, &i, sizeof i), SHMRING_OK);
    CHECK_EQ(shmring_batch_put(&f.producer, &batch, 1, NULL, 0), SHMRING_E_FULL);
    (void)shmring_batch_commit(&f.producer, &f.clock, &batch);
    CHECK(is_written(&f, CAPACITY, SHMRING_CLASS_UNICAST));
    CHECK_EQ(slot_at(&f, CAPACITY + 1)->header, 0);
    CHECK_EQ(slot_at(&f, CAPACITY + 1)->body[0], 0);
    CHECK_EQ(slot_at(&f, CAPACITY + 2)->body[0], 1);
    CHECK_EQ(slot_at(&f, CAPACITY + 3)->body[0], 2);
    tear_down(&f);
}

static void a_batch_that_meets_only_holes_claims_again(void)
{
    struct fixture f;
    struct shmring_batch batch;
    set_up(&f, 64);
    take_out_of_service(&f, CAPACITY);
    take_out_of_service(&f, CAPACITY + 1);
    REQUIRE(shmring_batch_begin(&f.producer, 2, &batch) == SHMRING_OK);
    CHECK_EQ(batch.position, CAPACITY + 2);
    CHECK_EQ(batch.count, 2);
    tear_down(&f);
}

/* ---- room ----------------------------------------------------------------------------------- */

static void waiting_for_room_ends_at_its_deadline(void)
{
    struct fixture f;
    set_up(&f, 64);
    set_control(&f, 100, 100 + ROOM);
    uint64_t deadline = check_now_ns() + 30000000;
    int result;
    do
        result = shmring_producer_wait(&f.producer, ROOM, deadline);
    while (result == SHMRING_E_FULL && check_now_ns() < deadline);
    CHECK_EQ(result, SHMRING_E_FULL);
    CHECK(check_now_ns() >= deadline);
    f.ring.control->head = 101;
    CHECK_EQ(shmring_producer_wait(&f.producer, ROOM, 0), SHMRING_OK);
    tear_down(&f);
}

/* And the message that shows, by being taken, that the ones before it are dealt with. */
static void *take_one_eighth(void *context)
{
    struct kit_inbox *receiver = context;
    union kit_message message;
    for (uint32_t taken = 0; taken < CAPACITY / 8 + 1;)
        taken += shmring_inbox_take(&receiver->inbox, &message.m) == SHMRING_OK;
    return NULL;
}

static void a_sender_that_waits_for_room_gets_it_when_the_head_moves(void)
{
    struct fixture f;
    struct kit_inbox receiver;
    set_up(&f, 64);
    kit_inbox_open(&receiver, &f.clock, &f.ring, 1);
    for (uint32_t round = 0; round < 200; round++) {
        while (kit_send(&f.producer, &f.clock, round) == SHMRING_OK)
            ;
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, take_one_eighth, &receiver) == 0);
        while (shmring_producer_wait(&f.producer, ROOM, UINT64_MAX) != SHMRING_OK)
            ;
        CHECK_EQ(kit_send(&f.producer, &f.clock, round), SHMRING_OK);
        (void)pthread_join(thread, NULL);
    }
    shmring_inbox_deinit(&receiver.inbox);
    tear_down(&f);
}

CHECK_MAIN(RUN(a_claim_word_names_the_position_from_claim_to_finish),
           RUN(a_claim_that_loses_the_race_claims_the_next_position),
           RUN(positions_go_on_where_the_index_and_their_low_half_wrap),
           RUN(a_full_ring_refuses_and_nothing_of_it_changes),
           RUN(the_last_eighth_is_kept_for_those_who_may_use_it),
           RUN(head_is_read_only_when_the_own_copy_says_full),
           RUN(an_impossible_tail_or_head_is_refused_and_nothing_is_written),
           RUN(a_header_of_another_geometry_is_refused),
           RUN(random_control_words_never_lead_a_sender_outside_the_ring),
           RUN(bodies_of_every_size_arrive_byte_for_byte),
           RUN(stamps_of_one_sender_grow_with_every_clock),
           RUN(a_claim_that_meets_a_hole_claims_again_and_leaves_it_alone),
           RUN(a_ring_full_of_holes_is_full),
           RUN(a_batch_takes_as_many_as_there_is_room_for),
           RUN(a_batch_appears_at_commit_with_one_stamp_and_void_for_what_was_not_put),
           RUN(a_batch_steps_over_holes_and_never_writes_them),
           RUN(a_batch_that_meets_only_holes_claims_again),
           RUN(waiting_for_room_ends_at_its_deadline),
           RUN(a_sender_that_waits_for_room_gets_it_when_the_head_moves))
