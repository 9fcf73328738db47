/* test_hostile.c - what a sender writes that no honest one does, where no other test has it. Units.
 * The whole list of attacks is in docs/trust.md. */
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "ring_kit.h"

#define CAPACITY 64u
#define ROOM (CAPACITY - CAPACITY / 8)
#define RINGS 2u

/* One receiver with two rings: the first of a hostile domain, the second of an honest one. */
struct fixture {
    struct shmring_clock clock;
    struct kit_ring rings[RINGS];
    struct kit_sender senders[RINGS];
    struct shmring_producer hostile, honest;
    uint64_t *commits; /* the hostile one's */
    struct kit_inbox receiver;
    union kit_message message;
};

static void set_up(struct fixture *f, uint32_t capacity)
{
    f->clock = kit_clock(0, 0);
    for (uint32_t r = 0; r < RINGS; r++) {
        kit_sender_open(&f->senders[r], 3 + r, 1);
        kit_ring_open(&f->rings[r], 7 + r, capacity, 64);
        kit_introduce(&f->rings[r], 5, &f->senders[r]);
        f->rings[r].consumer.foreign = true;
    }
    KIT_MUST(shmring_producer_init(&f->hostile, &f->rings[0].mapping,
                                   kit_claim_words(&f->senders[0], 0), 5));
    KIT_MUST(shmring_producer_init(&f->honest, &f->rings[1].mapping,
                                   kit_claim_words(&f->senders[1], 0), 5));
    f->commits = kit_commit_words(&f->senders[0]);
    kit_inbox_open(&f->receiver, &f->clock, f->rings, RINGS);
}

static void tear_down(struct fixture *f)
{
    shmring_inbox_deinit(&f->receiver.inbox);
    for (uint32_t r = 0; r < RINGS; r++) {
        kit_ring_close(&f->rings[r]);
        kit_sender_close(&f->senders[r]);
    }
}

/* The value of the next message, or minus what take said. */
static int64_t next_value(struct fixture *f)
{
    int result = kit_take(&f->receiver, &f->message);
    return result == SHMRING_OK ? (int64_t)f->message.m.body[0] : -result;
}

/* Everything but the header, or with that of another lap: nothing has been written there. */
static void a_slot_half_written_or_of_another_lap_is_passed_over(void)
{
    const int64_t laps[] = {-1, 1, 1 << 20, -2};
    for (uint32_t i = 0; i < 4; i++) {
        struct fixture f;
        set_up(&f, CAPACITY);
        /* What is replayed. */
        CHECK_EQ(kit_send(&f.hostile, &f.clock, 66), SHMRING_OK);
        CHECK_EQ(next_value(&f), 66);
        uint64_t replayed = kit_claim(&f.hostile, f.hostile.claim_word);
        uint64_t of_lap = replayed + (uint64_t)laps[i] * CAPACITY;
        kit_write(&f.hostile, replayed, SHMRING_CLASS_UNICAST, shmring_clock_now(&f.clock), 66);
        shmring_producer_slot(&f.hostile, replayed)->header =
            of_lap << SHMRING_POSITION_SHIFT | SHMRING_CLASS_UNICAST;
        uint64_t half = kit_claim(&f.hostile, f.hostile.claim_word);
        kit_write(&f.hostile, half, SHMRING_CLASS_UNICAST, shmring_clock_now(&f.clock), 67);
        shmring_producer_slot(&f.hostile, half)->header = 0;
        for (uint64_t value = 0; value < ROOM; value++) {
            CHECK_EQ(kit_send(&f.honest, &f.clock, value), SHMRING_OK);
            CHECK_EQ(next_value(&f), (int64_t)value);
        }
        CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

/* A whole slot, as it was, at the next position: its header says where it belongs. */
static void a_message_that_is_written_again_is_not_delivered_again(void)
{
    struct fixture f;
    set_up(&f, CAPACITY);
    f.rings[0].consumer.foreign = false; /* or its stamp gives it away, later */
    CHECK_EQ(kit_send(&f.hostile, &f.clock, 66), SHMRING_OK);
    uint64_t again = kit_claim(&f.hostile, f.hostile.claim_word);
    const struct shmring_slot *slot = shmring_producer_slot(&f.hostile, again - 1);
    memcpy(shmring_producer_slot(&f.hostile, again), slot, 64);
    CHECK_EQ(next_value(&f), 66);
    for (uint64_t value = 0; value < ROOM; value++) {
        CHECK_EQ(kit_send(&f.honest, &f.clock, value), SHMRING_OK);
        CHECK_EQ(next_value(&f), (int64_t)value);
    }
    CHECK_EQ(next_value(&f), -SHMRING_E_EMPTY);
    tear_down(&f);
}

/* A stamp is taken once; what the word says afterwards is not asked for. */
static void a_commit_word_rewritten_after_it_was_read_changes_nothing(void)
{
    struct fixture f;
    set_up(&f, CAPACITY);
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t position = kit_claim(&f.hostile, f.hostile.claim_word);
        kit_write(&f.hostile, position, SHMRING_CLASS_MULTICAST, SHMRING_COMMIT_REF(i, 1), i);
    }
    uint64_t first = shmring_clock_now(&f.clock), second = shmring_clock_now(&f.clock) + 1;
    f.commits[0] = first;
    f.commits[1] = second;
    while (shmring_clock_now(&f.clock) <= second)
        ;
    CHECK_EQ(next_value(&f), 0);
    CHECK_EQ(f.message.m.stamp, first);
    f.commits[1] = first - 1000; /* before what came before it */
    CHECK_EQ(next_value(&f), 1);
    CHECK_EQ(f.message.m.stamp, second);
    CHECK_EQ(kit_send(&f.honest, &f.clock, 9), SHMRING_OK);
    CHECK_EQ(next_value(&f), 9);
    CHECK(f.message.m.stamp >= second);
    tear_down(&f);
}

/* A whole ring of claims, again and again: its own domain has no room any more, and everybody else
 * goes on. More indices out of service than a ring bears: it is cut off. */
static void positions_claimed_by_the_thousand_and_never_written_stop_nobody_else(void)
{
    for (uint32_t capacity = 64; capacity <= 1024; capacity *= 4) {
        struct fixture f;
        set_up(&f, capacity);
        struct shmring_ring_control *control = f.rings[0].control;
        uint32_t severed = 0;
        for (uint64_t value = 0; value < 4096; value++) {
            if (severed == 0)
                control->tail = control->head + capacity;
            CHECK_EQ(kit_send(&f.honest, &f.clock, value), SHMRING_OK);
            int64_t next = next_value(&f);
            if (next == -SHMRING_E_CORRUPT) {
                CHECK_EQ(f.receiver.inbox.trouble_ring, 0);
                CHECK_EQ(f.receiver.inbox.trouble_breach, SHMRING_BREACH_CLAIMS);
                severed++;
                shmring_inbox_remove(&f.receiver.inbox, &f.rings[0].consumer);
                next = next_value(&f);
            }
            CHECK_EQ(next, (int64_t)value);
            CHECK(f.rings[0].consumer.retired_count <= SHMRING_RETIRED_MAX);
        }
        CHECK_EQ(severed, capacity > SHMRING_RETIRED_MAX);
        tear_down(&f);
    }
}

/* Somebody of the sender's domain strikes out the park number, so that its sender does not ring. */
static void *silence(void *context)
{
    struct fixture *f = context;
    while (shmring_exchange_acq_rel(&f->rings[0].control->parked, 0) == 0)
        ;
    CHECK_EQ(kit_send(&f->hostile, &f->clock, 5), SHMRING_OK);
    return NULL;
}

static void a_receiver_whose_bell_is_silenced_wakes_by_itself(void)
{
    struct fixture f;
    pthread_t thread;
    set_up(&f, CAPACITY);
    REQUIRE(pthread_create(&thread, NULL, silence, &f) == 0);
    CHECK_EQ(shmring_inbox_wait(&f.receiver.inbox, &f.message.m, 0, UINT64_MAX), SHMRING_OK);
    CHECK_EQ(f.message.m.body[0], 5);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    tear_down(&f);
}

struct storm {
    struct fixture *f;
    uint32_t over;
};

static void *storm_the_bell(void *context)
{
    struct storm *storm = context;
    while (shmring_load_acquire_u32(&storm->over) == 0)
        shmring_producer_ring(&storm->f->hostile,
                              shmring_load_relaxed(&storm->f->rings[0].control->parked));
    return NULL;
}

/* Somebody rings all the time and sends nothing. */
static void a_storm_of_rings_ends_no_wait_before_its_time(void)
{
    struct fixture f;
    struct storm storm = {.f = &f};
    pthread_t thread;
    set_up(&f, CAPACITY);
    REQUIRE(pthread_create(&thread, NULL, storm_the_bell, &storm) == 0);
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t deadline =
        (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + 100000000u;
    CHECK_EQ(shmring_inbox_wait(&f.receiver.inbox, &f.message.m, 0, deadline), SHMRING_E_EMPTY);
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    CHECK((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec >= deadline);
    CHECK(f.receiver.inbox.counts.parked > 1);
    shmring_store_release_u32(&storm.over, 1);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    tear_down(&f);
}

CHECK_MAIN(RUN(a_slot_half_written_or_of_another_lap_is_passed_over),
           RUN(a_message_that_is_written_again_is_not_delivered_again),
           RUN(a_storm_of_rings_ends_no_wait_before_its_time),
           RUN(a_commit_word_rewritten_after_it_was_read_changes_nothing),
           RUN(positions_claimed_by_the_thousand_and_never_written_stop_nobody_else),
           RUN(a_receiver_whose_bell_is_silenced_wakes_by_itself))
