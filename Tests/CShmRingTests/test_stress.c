/*
 * test_stress.c - many senders at once, in threads and in processes: every message once, each
 * sender's in its order, multicasts in one order everywhere and in agreement with real time.
 *
 * Threads share one mapping, so that a thread sanitizer sees the same addresses.
 */
#include <pthread.h>
#include <sched.h>

#include "ring_kit.h"

#define SENDERS 4u
#define RECEIVERS 3u
#define MESSAGES (CHECK_SLOW > 1 ? 4000u : 40000u)
#define MULTICASTS (CHECK_SLOW > 1 ? 1500u : 6000u)

/* What a message says. One counter for all is read before a send begins and after it returned. */
struct note {
    uint64_t sender, number, begun;
};

/* ---- many to one ---------------------------------------------------------------------------- */

struct sending {
    struct kit_ring *ring;
    struct kit_sender *sender;
    struct shmring_clock clock;
    uint32_t lane, count;
    bool batches;
};

/* Both have to be on a core for the other to go on. */
static void give_way(uint32_t *turns)
{
    if (++*turns % 64 == 0)
        (void)sched_yield();
}

static void send_many(const struct sending *s, const struct shmring_mapping *ring,
                      const struct shmring_mapping *claims)
{
    struct shmring_producer producer;
    uint64_t *words = (uint64_t *)(void *)((uint8_t *)claims->base + SHMRING_CLAIMS_OFFSET);
    KIT_MUST(shmring_producer_init(&producer, ring, words + s->lane * SHMRING_CLAIM_WORDS,
                                   s->lane));
    uint64_t last = 0, stamp = 0;
    uint32_t turns = 0;
    for (uint32_t i = 0; i < s->count;) {
        struct note note = {.sender = s->lane, .number = i};
        struct shmring_batch batch;
        int result;
        if (s->batches && i % 7 == 0) {
            result = shmring_batch_begin(&producer, 1 + i % 11, &batch);
            if (result == SHMRING_OK) {
                while (note.number < s->count &&
                       shmring_batch_put(&producer, &batch, 1, &note, sizeof note) == SHMRING_OK)
                    note.number++;
                stamp = shmring_batch_commit(&producer, &s->clock, &batch);
                i = (uint32_t)note.number;
            }
        } else {
            result = shmring_producer_send(&producer, &s->clock, 1, 0, &note, sizeof note, &stamp);
            i += result == SHMRING_OK;
        }
        if (result == SHMRING_OK) {
            CHECK(stamp > last);
            last = stamp;
        } else if (!CHECK_EQ(result, SHMRING_E_FULL)) {
            return;
        } else if (i % 3 == 0) {
            CHECK(shmring_producer_wait(&producer, producer.unicast_room, UINT64_MAX) !=
                  SHMRING_E_CORRUPT);
        } else {
            give_way(&turns);
        }
    }
}

static void *send_many_in_a_thread(void *context)
{
    const struct sending *s = context;
    send_many(s, &s->ring->mapping, &s->sender->claims);
    return NULL;
}

static void receive_many(struct kit_inbox *receiver, uint32_t senders, uint32_t each, bool parks)
{
    union kit_message message;
    uint64_t next[SENDERS] = {0}, last = 0;
    uint32_t turns = 0;
    for (uint64_t got = 0; got < (uint64_t)senders * each;) {
        int result = parks ? shmring_inbox_wait(&receiver->inbox, &message.m, 1000, UINT64_MAX)
                           : shmring_inbox_take(&receiver->inbox, &message.m);
        if (result == SHMRING_E_EMPTY) {
            give_way(&turns);
            continue;
        }
        if (!CHECK_EQ(result, SHMRING_OK))
            return;
        got++;
        struct note note;
        memcpy(&note, message.m.body, sizeof note);
        if (!CHECK(note.sender < senders && note.number == next[note.sender]))
            return;
        CHECK_EQ(message.m.sender, note.sender);
        CHECK(message.m.stamp >= last);
        CHECK_EQ(message.m.sequence, got);
        last = message.m.stamp;
        next[note.sender]++;
    }
    CHECK_EQ(kit_take(receiver, &message), SHMRING_E_EMPTY);
}

static void many_to_one(uint32_t capacity, bool processes, bool parks, bool batches)
{
    struct kit_ring ring;
    struct kit_sender sender;
    struct kit_inbox receiver;
    struct sending sendings[SENDERS];
    pthread_t threads[SENDERS];
    pid_t children[SENDERS];
    const uint32_t each = parks || capacity < 64 ? MESSAGES / 8 : MESSAGES / 2;
    kit_ring_open(&ring, 7, capacity, 64);
    kit_sender_open(&sender, 3, SENDERS);
    struct shmring_clock clock = kit_clock(0, 0);
    kit_inbox_open(&receiver, &clock, &ring, 1);
    for (uint32_t i = 0; i < SENDERS; i++) {
        sendings[i] = (struct sending){.ring = &ring, .sender = &sender, .clock = clock, .lane = i,
                                       .count = each, .batches = batches};
        if (!processes) {
            REQUIRE(pthread_create(&threads[i], NULL, send_many_in_a_thread, &sendings[i]) == 0);
            continue;
        }
        children[i] = kit_fork();
        if (children[i] == 0) {
            struct shmring_mapping r = kit_map(ring.fd, SHMRING_SEGMENT_RING);
            struct shmring_mapping c = kit_map(sender.claims_fd, SHMRING_SEGMENT_CLAIMS);
            send_many(&sendings[i], &r, &c);
            _exit(check_failures != 0);
        }
    }
    receive_many(&receiver, SENDERS, each, parks);
    for (uint32_t i = 0; i < SENDERS; i++) {
        if (processes)
            CHECK_EQ(kit_join(children[i]), 0);
        else
            (void)pthread_join(threads[i], NULL);
        CHECK_EQ(*kit_claim_words(&sender, i), 0);
    }
    shmring_inbox_deinit(&receiver.inbox);
    kit_ring_close(&ring);
    kit_sender_close(&sender);
}

static void four_threads_reach_one_inbox_once_and_in_order(void)
{
    many_to_one(1024, false, false, false);
    many_to_one(64, false, false, true);
}

static void four_threads_press_into_the_smallest_ring(void)
{
    many_to_one(16, false, false, false);
    many_to_one(16, false, false, true);
}

static void four_threads_wake_a_receiver_that_parks(void)
{
    many_to_one(64, false, true, true);
}

static void four_processes_reach_one_inbox_once_and_in_order(void)
{
    many_to_one(1024, true, false, true);
    many_to_one(16, true, false, false);
    many_to_one(64, true, true, false);
}

/* ---- storms --------------------------------------------------------------------------------- */

struct storm {
    struct kit_ring rings[RECEIVERS];
    struct kit_sender senders[SENDERS];
    struct kit_inbox receivers[RECEIVERS];
    struct shmring_clock clock;
    uint64_t counter;           /* one for all */
    uint64_t *ended[SENDERS];   /* by number: the counter after that send had returned */
    uint64_t *began[SENDERS];
    uint64_t *order[RECEIVERS]; /* multicasts: sender << 32 | number, as delivered */
    uint64_t *stamps[RECEIVERS];
    uint64_t delivered[RECEIVERS], seen[RECEIVERS];
    uint64_t unicasts_sent[RECEIVERS];
    uint32_t sending;
    uint64_t seed;
};

struct part {
    struct storm *storm;
    uint32_t number;
};

static uint64_t tick(struct storm *s)
{
    return __atomic_add_fetch(&s->counter, 1, __ATOMIC_SEQ_CST);
}

static void *storm_sender(void *context)
{
    const struct part *part = context;
    struct storm *s = part->storm;
    uint32_t me = part->number, turns = 0, failures = 0;
    uint64_t seed = s->seed + me;
    struct shmring_lane lane;
    struct shmring_producer producers[RECEIVERS];
    KIT_MUST(shmring_lane_init(&lane, &s->senders[me].claims, &s->senders[me].outbox, 0));
    for (uint32_t r = 0; r < RECEIVERS; r++)
        KIT_MUST(shmring_producer_init(&producers[r], &s->rings[r].mapping, lane.claims,
                                       (me + r) % 3));
    for (uint64_t number = 0; number < MULTICASTS;) {
        uint64_t r = check_random(&seed), stamp;
        uint32_t failed, first = (uint32_t)(r >> 8) % RECEIVERS;
        struct note note = {.sender = me, .number = number, .begun = tick(s)};
        int result;
        if (r % 4 == 0) {
            note.number = UINT64_MAX;
            result = shmring_producer_send(&producers[first], &s->clock, 1, 0, &note, sizeof note,
                                           &stamp);
            if (result == SHMRING_OK)
                (void)__atomic_add_fetch(&s->unicasts_sent[first], 1, __ATOMIC_RELAXED);
        } else {
            struct shmring_leg legs[RECEIVERS];
            for (uint32_t i = 0; i < RECEIVERS; i++) /* each claims in its own order */
                legs[i] = (struct shmring_leg){.producer = &producers[(first + i) % RECEIVERS],
                                               .body = &note, .grant = 2, .length = sizeof note};
            result = shmring_transaction_commit(&lane, &s->clock, legs, RECEIVERS, failures > 3,
                                                NULL, &stamp, &failed);
            if (result == SHMRING_OK) {
                s->began[me][number] = note.begun;
                s->ended[me][number] = tick(s);
                number++;
            }
        }
        failures = result == SHMRING_OK ? 0 : failures + 1;
        if (result == SHMRING_E_FULL)
            give_way(&turns);
        else
            CHECK_EQ(result, SHMRING_OK);
    }
    shmring_lane_deinit(&lane);
    (void)__atomic_sub_fetch(&s->sending, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void *storm_receiver(void *context)
{
    const struct part *part = context;
    struct storm *s = part->storm;
    uint32_t me = part->number, turns = 0;
    union kit_message message;
    uint64_t last = 0;
    for (;;) {
        bool over = __atomic_load_n(&s->sending, __ATOMIC_ACQUIRE) == 0;
        int result = over ? kit_take(&s->receivers[me], &message)
                          : shmring_inbox_take(&s->receivers[me].inbox, &message.m);
        if (result == SHMRING_E_EMPTY) {
            if (over)
                return NULL;
            give_way(&turns);
            continue;
        }
        if (!CHECK_EQ(result, SHMRING_OK))
            return NULL;
        struct note note;
        memcpy(&note, message.m.body, sizeof note);
        if (note.number == UINT64_MAX) {
            s->seen[me]++;
            continue;
        }
        if (!CHECK(s->delivered[me] < (uint64_t)3 * MULTICASTS))
            return NULL;
        CHECK(message.m.stamp >= last);
        last = message.m.stamp;
        s->stamps[me][s->delivered[me]] = message.m.stamp;
        s->order[me][s->delivered[me]++] = note.sender << 32 | note.number;
    }
}

static void check_storm(const struct storm *s)
{
    for (uint32_t r = 0; r < RECEIVERS; r++) {
        CHECK_EQ(s->delivered[r], (uint64_t)3 * MULTICASTS);
        CHECK_EQ(s->seen[r], s->unicasts_sent[r]);
        CHECK_EQ(memcmp(s->order[0], s->order[r], s->delivered[0] * 8), 0);
        CHECK_EQ(memcmp(s->stamps[0], s->stamps[r], s->delivered[0] * 8), 0);
    }
    /* Real time: nothing stands before what had returned when it began. */
    uint64_t latest_begin = 0, next[SENDERS] = {0};
    for (uint64_t i = 0; i < s->delivered[0]; i++) {
        uint64_t sender = s->order[0][i] >> 32, number = s->order[0][i] & UINT32_MAX;
        if (!CHECK_EQ(number, next[sender]++))
            return;
        if (!CHECK(s->ended[sender][number] > latest_begin))
            return;
        if (s->began[sender][number] > latest_begin)
            latest_begin = s->began[sender][number];
    }
}

/* Signals stop a thread at any instruction, for as long as the others take: what a scheduler does,
 * but more often. */
static void yield_in_signal(int number)
{
    (void)number;
    for (uint32_t i = 0; i < 3; i++)
        (void)sched_yield();
}

static void disturb(const pthread_t *threads, uint32_t count, const uint32_t *running,
                    uint64_t seed)
{
    while (__atomic_load_n(running, __ATOMIC_ACQUIRE) != 0) {
        struct timespec pause = {.tv_nsec = (long)(check_random(&seed) % 20000)};
        (void)pthread_kill(threads[check_random(&seed) % count], SIGUSR1);
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
}

static void storm_with(uint32_t source, uint32_t coarse_ns, uint32_t capacity)
{
    static struct storm s;
    struct part parts[2 * SENDERS];
    pthread_t threads[2 * SENDERS];
    memset(&s, 0, sizeof s);
    s.seed = check_seed();
    (void)signal(SIGUSR1, yield_in_signal);
    s.clock = kit_clock(source, coarse_ns);
    s.sending = 3;
    for (uint32_t i = 0; i < 3; i++)
        kit_sender_open(&s.senders[i], 30 + i, 1);
    for (uint32_t r = 0; r < RECEIVERS; r++) {
        kit_ring_open(&s.rings[r], 7 + r, capacity, 64);
        for (uint32_t i = 0; i < 3; i++)
            kit_introduce(&s.rings[r], (i + r) % 3, &s.senders[i]);
        kit_inbox_open(&s.receivers[r], &s.clock, &s.rings[r], 1);
        s.order[r] = calloc((size_t)3 * MULTICASTS, 8);
        s.stamps[r] = calloc((size_t)3 * MULTICASTS, 8);
        s.ended[r] = calloc(MULTICASTS, 8);
        s.began[r] = calloc(MULTICASTS, 8);
    }
    for (uint32_t i = 0; i < 6; i++) {
        parts[i] = (struct part){.storm = &s, .number = i % 3};
        REQUIRE(pthread_create(&threads[i], NULL, i < 3 ? storm_receiver : storm_sender,
                               &parts[i]) == 0);
    }
    disturb(threads, 6, &s.sending, s.seed);
    for (uint32_t i = 0; i < 6; i++)
        (void)pthread_join(threads[i], NULL);
    check_storm(&s);
    uint64_t reordered = 0, waits = 0;
    for (uint32_t r = 0; r < RECEIVERS; r++) {
        reordered += s.receivers[r].inbox.counts.reordered;
        waits += s.receivers[r].inbox.counts.look_waits;
        shmring_inbox_deinit(&s.receivers[r].inbox);
        kit_ring_close(&s.rings[r]);
        kit_sender_close(&s.senders[r]);
        free(s.order[r]);
        free(s.stamps[r]);
        free(s.ended[r]);
        free(s.began[r]);
    }
    (void)printf("  %" PRIu64 " looks reordered, %" PRIu64 " waited\n", reordered, waits);
}

static void multicasts_of_three_to_three_stand_in_one_order(void)
{
    storm_with(0, 0, 256);
}

static void multicasts_through_the_smallest_rings_stand_in_one_order(void)
{
    storm_with(0, 0, 16);
}

/* O6: equal clock readings and a coarse clock leave one order. */
static void multicasts_stamped_by_coarse_ticks_stand_in_one_order(void)
{
    storm_with(SHMRING_CLOCK_MONOTONIC, 2000, 256);
    storm_with(SHMRING_CLOCK_MONOTONIC, 20000, 64);
}

CHECK_MAIN(RUN(four_threads_reach_one_inbox_once_and_in_order),
           RUN(four_threads_press_into_the_smallest_ring),
           RUN(four_threads_wake_a_receiver_that_parks),
           RUN(four_processes_reach_one_inbox_once_and_in_order),
           RUN(multicasts_of_three_to_three_stand_in_one_order),
           RUN(multicasts_through_the_smallest_rings_stand_in_one_order),
           RUN(multicasts_stamped_by_coarse_ticks_stand_in_one_order))
