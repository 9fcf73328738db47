/*
 * test_litmus.c - the pairs of docs/memory-order.md that a reordering would break, raced.
 *
 * Two threads, each pinned to its core, meet before each round and then run the real functions of
 * both sides at once, a random few instructions apart. What must not come out is checked after the
 * round. A test that passes proves little on x86, which reorders little; one that fails proves a
 * fault. Each runs for a fixed time: no number of rounds is asked for.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "ring_kit.h"

#define CAPACITY 16u
#define RACE_NS UINT64_C(400000000)

struct race;
struct side {
    struct race *race;
    uint64_t random;
    int core;
};

struct race {
    void (*round[2])(struct race *race);  /* at once */
    void (*check)(struct race *race);     /* after both, alone */
    struct side sides[2];
    _Atomic uint64_t arrived;
    _Atomic bool over;
    uint64_t rounds;

    struct shmring_clock clock;
    struct kit_ring ring;
    struct kit_sender sender;
    struct kit_inbox receiver;
    struct shmring_producer producer;
    struct shmring_lane lane;
    union kit_message message;
    uint64_t sent, taken;

    uint64_t position, stamp, t0, seen_header; /* of one round */
    uint32_t bell, room;
    int sender_result, receiver_result;
    uint64_t together[2]; /* how often which side came first, as far as it can be told */
};

static void meet(struct race *race, uint64_t *turn)
{
    *turn += 2;
    (void)atomic_fetch_add(&race->arrived, 1);
    for (uint32_t spins = 0; atomic_load(&race->arrived) < *turn; spins++)
        if (spins > 2000)
            (void)sched_yield();
}

static void *run_side(void *argument)
{
    struct side *side = argument;
    struct race *race = side->race;
    const int number = side == &race->sides[1];
    if (side->core >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)side->core, &set);
        (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
    const uint64_t end = check_now_ns() + RACE_NS;
    for (uint64_t turn = 0;;) {
        meet(race, &turn);
        if (atomic_load(&race->over))
            return NULL;
        for (uint64_t wait = check_random(&side->random) % 64; wait > 0; wait--)
            __asm__ volatile("" ::: "memory");
        race->round[number](race);
        meet(race, &turn);
        if (number == 0) {
            race->check(race);
            race->rounds++;
            if (check_now_ns() > end || check_failures != 0)
                atomic_store(&race->over, true);
        }
    }
}

static void run(struct race *race)
{
    pthread_t other;
    cpu_set_t set;
    int found = 0;
    const uint64_t seed = check_seed();
    (void)sched_getaffinity(0, sizeof set, &set);
    for (int i = 0; i < 2; i++)
        race->sides[i] = (struct side){.race = race, .random = seed + (uint64_t)i, .core = -1};
    for (int core = 0; core < CPU_SETSIZE && found < 2; core++)
        if (CPU_ISSET((size_t)core, &set) && CPU_COUNT(&set) >= 2)
            race->sides[found++].core = core;
    kit_must(pthread_create(&other, NULL, run_side, &race->sides[1]), "pthread_create");
    (void)run_side(&race->sides[0]);
    (void)pthread_join(other, NULL);
    (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    (void)printf("  %" PRIu64 " rounds, %" PRIu64 " and %" PRIu64 " told apart (%s)\n",
                 race->rounds,
                 race->together[0], race->together[1], check_current);
}

static struct race *set_up(void)
{
    struct race *race = calloc(1, sizeof *race);
    kit_must(race == NULL ? -1 : 0, "calloc");
    race->clock = kit_clock(0, 0);
    kit_ring_open(&race->ring, 7, CAPACITY, 64);
    kit_sender_open(&race->sender, 3, 1);
    kit_introduce(&race->ring, 5, &race->sender);
    KIT_MUST(shmring_producer_init(&race->producer, &race->ring.mapping,
                                   kit_claim_words(&race->sender, 0), 5));
    KIT_MUST(shmring_lane_init(&race->lane, &race->sender.claims, &race->sender.outbox, 0));
    kit_inbox_open(&race->receiver, &race->clock, &race->ring, 1);
    return race;
}

static void tear_down(struct race *race)
{
    shmring_lane_deinit(&race->lane);
    shmring_inbox_deinit(&race->receiver.inbox);
    kit_ring_close(&race->ring);
    kit_sender_close(&race->sender);
    free(race);
}

/* ---- D1, D2: the message is found, or the receiver is rung --------------------------------- */

static void send_one(struct race *race)
{
    race->sender_result = kit_send(&race->producer, &race->clock, race->sent++);
}

/* All of parking but the sleep. */
static void park_one(struct race *race)
{
    race->receiver_result = shmring_inbox_arm(&race->receiver.inbox, &race->message.m);
}

static void check_wake(struct race *race)
{
    const uint32_t bell = shmring_load_relaxed_u32(&race->ring.control->doorbell);
    const bool found = race->receiver_result == SHMRING_OK, rung = bell != race->bell;
    CHECK_EQ(race->sender_result, SHMRING_OK);
    CHECK(found || rung);
    race->together[found && rung ? 0 : 1]++;
    race->bell = bell;
    shmring_store_relaxed(&race->ring.control->parked, 0);
    if (!found)
        CHECK_EQ(kit_take(&race->receiver, &race->message), SHMRING_OK);
}

static void a_receiver_that_parks_finds_the_message_or_is_rung(void)
{
    struct race *race = set_up();
    int fds[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds) == 0);
    race->producer.event_fd = (uint32_t)fds[1] + 1;
    race->round[0] = send_one;
    race->round[1] = park_one;
    race->check = check_wake;
    run(race);
    tear_down(race);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* ---- R3, R6, R4, R5: a body is that of its header, and not overwritten --------------------- */

static void send_some(struct race *race)
{
    uint64_t body[5], stamp;
    for (uint32_t i = 0; i < 3 * CAPACITY; i++) {
        for (uint32_t k = 0; k < 5; k++)
            body[k] = race->sent * 5 + k;
        if (shmring_producer_send(&race->producer, &race->clock, 1, 0, body, sizeof body, &stamp) ==
            SHMRING_OK)
            race->sent++;
    }
}

static void take_some(struct race *race)
{
    for (uint32_t i = 0; i < 3 * CAPACITY; i++) {
        if (shmring_inbox_take(&race->receiver.inbox, &race->message.m) != SHMRING_OK)
            continue;
        for (uint32_t k = 0; k < 5; k++)
            CHECK_EQ(race->message.m.body[k], race->taken * 5 + k);
        race->taken++;
    }
}

static void check_bodies(struct race *race)
{
    race->together[race->taken == race->sent]++;
    CHECK(race->taken <= race->sent);
    CHECK(race->sent - race->taken <= CAPACITY);
}

static void a_body_is_never_older_or_newer_than_its_header(void)
{
    struct race *race = set_up();
    race->round[0] = send_some;
    race->round[1] = take_some;
    race->check = check_bodies;
    run(race);
    CHECK(race->taken != 0);
    tear_down(race);
}

/* ---- C3, T3: a look later than a stamp finds the slot -------------------------------------- */

static void commit_one(struct race *race)
{
    const uint64_t body = race->sent++;
    struct shmring_leg leg = {
        .producer = &race->producer, .body = &body, .grant = 1, .length = sizeof body};
    uint32_t failed;
    race->sender_result = shmring_transaction_commit(&race->lane, &race->clock, &leg, 1, false,
                                                     NULL, &race->stamp, &failed);
    race->position = leg.position;
}

static void look_once(struct race *race)
{
    const uint64_t next = race->ring.consumer.next;
    race->t0 = shmring_clock_now_then_loads(&race->clock);
    race->seen_header = shmring_consumer_header(&race->ring.consumer, next);
}

static void check_look(struct race *race)
{
    CHECK_EQ(race->sender_result, SHMRING_OK);
    CHECK_EQ(race->position, race->ring.consumer.next);
    const bool seen = race->seen_header >> SHMRING_POSITION_SHIFT == race->position;
    if (race->stamp < race->t0)
        CHECK(seen);
    race->together[race->stamp < race->t0]++;
    CHECK_EQ(kit_take(&race->receiver, &race->message), SHMRING_OK);
    CHECK_EQ(race->message.m.stamp, race->stamp);
}

static void a_look_that_begins_after_a_stamp_finds_the_slot(void)
{
    struct race *race = set_up();
    race->round[0] = commit_one;
    race->round[1] = look_once;
    race->check = check_look;
    run(race);
    tear_down(race);
}

static void a_look_on_the_slow_clock_finds_the_slot(void)
{
    struct race *race = set_up();
    race->clock = kit_clock(SHMRING_CLOCK_MONOTONIC, 0);
    race->receiver.inbox.clock = race->clock;
    race->round[0] = commit_one;
    race->round[1] = look_once;
    race->check = check_look;
    run(race);
    tear_down(race);
}

/* ---- W1, W2: room is found, or the waiter is woken ----------------------------------------- */

/* Waits without the sleep: the deadline has passed. */
static void wait_for_room(struct race *race)
{
    race->sender_result = shmring_producer_wait(&race->producer, race->producer.unicast_room, 0);
}

static void make_room(struct race *race)
{
    race->receiver_result = kit_take(&race->receiver, &race->message);
    shmring_consumer_publish_head(&race->ring.consumer, true);
}

static void check_room(struct race *race)
{
    const uint32_t room = shmring_load_relaxed_u32(&race->ring.control->room);
    const bool woken = room != race->room;
    CHECK(race->sender_result == SHMRING_OK || race->sender_result == SHMRING_E_FULL);
    if (race->rounds != 0) {
        CHECK_EQ(race->receiver_result, SHMRING_OK);
        CHECK(race->sender_result == SHMRING_OK || woken);
        race->together[woken]++;
    }
    race->room = room;
    shmring_store_relaxed_u32(&race->ring.control->waiters, 0);
    while (kit_send(&race->producer, &race->clock, race->sent) == SHMRING_OK)
        race->sent++;
}

static void a_sender_that_waits_finds_room_or_is_woken(void)
{
    struct race *race = set_up();
    race->round[0] = wait_for_room;
    race->round[1] = make_room;
    race->check = check_room;
    run(race);
    tear_down(race);
}

CHECK_MAIN(RUN(a_receiver_that_parks_finds_the_message_or_is_rung),
           RUN(a_body_is_never_older_or_newer_than_its_header),
           RUN(a_look_that_begins_after_a_stamp_finds_the_slot),
           RUN(a_look_on_the_slow_clock_finds_the_slot),
           RUN(a_sender_that_waits_finds_room_or_is_woken))
