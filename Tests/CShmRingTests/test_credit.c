/* test_credit.c - charges, limits and waiting between a receiver and the senders of one domain. */
#include <pthread.h>

#include "ring_kit.h"

#define CAPACITY 64u
#define RIGHTS SHMRING_CREDIT_RIGHTS
#define DESCRIPTORS SHMRING_CREDIT_DESCRIPTORS

/* One receiver's ring and the boards of two senders. */
struct fixture {
    struct kit_ring ring;
    struct shmring_board *boards;
    struct shmring_allowance allowance;
    struct shmring_producer producers[2];
    struct shmring_amounts of_link[2];
    struct shmring_shortage shortage;
};

static void set_up(struct fixture *f, uint64_t rights, uint64_t descriptors)
{
    *f = (struct fixture){0};
    kit_ring_open(&f->ring, 7, CAPACITY, 64);
    f->boards = kit_shared(2 * sizeof *f->boards);
    for (uint32_t i = 0; i < 2; i++)
        f->producers[i].control = f->ring.control;
    shmring_allowance_init(&f->allowance, f->ring.control);
    shmring_allowance_set(&f->allowance, RIGHTS, rights);
    shmring_allowance_set(&f->allowance, DESCRIPTORS, descriptors);
}

static void tear_down(struct fixture *f)
{
    kit_ring_close(&f->ring);
    (void)munmap(f->boards, 2 * sizeof *f->boards);
}

static struct shmring_amounts amounts(uint64_t rights, uint64_t descriptors)
{
    return shmring_amounts_make(0, rights, descriptors, 0);
}

static int charge(struct fixture *f, uint32_t sender, uint64_t rights, uint64_t descriptors)
{
    struct shmring_amounts a = amounts(rights, descriptors);
    return shmring_credit_charge(&f->producers[sender], &f->boards[sender], &a, &f->shortage);
}

static void take_back(struct fixture *f, uint32_t sender, uint64_t rights, uint64_t descriptors)
{
    struct shmring_amounts a = amounts(rights, descriptors);
    shmring_credit_take_back(f->ring.control, &f->boards[sender], &a);
}

static int receive(struct fixture *f, uint32_t sender, uint64_t rights, uint64_t descriptors)
{
    struct shmring_amounts a = amounts(rights, descriptors);
    return shmring_allowance_receive(&f->allowance, &f->of_link[sender], &a);
}

static void give_back(struct fixture *f, uint32_t sender, uint64_t rights, uint64_t descriptors)
{
    struct shmring_amounts a = amounts(rights, descriptors);
    shmring_allowance_give_back(&f->allowance, &f->boards[sender], &a);
}

static uint64_t outstanding(const struct fixture *f)
{
    return shmring_allowance_outstanding(&f->allowance, RIGHTS);
}

/* Q3: a charge of several kinds is made whole or not at all. */
static void a_charge_covers_all_kinds_or_none(void)
{
    struct fixture f;
    set_up(&f, 100, 10);
    CHECK_EQ(charge(&f, 0, 40, 6), SHMRING_E_FULL);
    CHECK_EQ(f.shortage.kind, DESCRIPTORS);
    CHECK_EQ(f.shortage.limit, 10);
    CHECK_EQ(f.shortage.used, 0);
    CHECK_EQ(f.shortage.advisory, 1);
    CHECK_EQ(outstanding(&f), 0);
    CHECK_EQ(f.boards[0].charged[RIGHTS], 0);
    CHECK_EQ(charge(&f, 0, 40, 5), SHMRING_OK);
    CHECK_EQ(charge(&f, 1, 100, 0), SHMRING_E_FULL);
    CHECK_EQ(f.shortage.kind, RIGHTS);
    CHECK_EQ(f.shortage.used, 40);
    CHECK_EQ(f.shortage.advisory, 0);
    take_back(&f, 0, 40, 5);
    CHECK_EQ(outstanding(&f), 0);
    CHECK_EQ(f.boards[0].charged[RIGHTS], 0);
    tear_down(&f);
}

/* Q2: within a domain a sender gets at most half of what the others left. */
static void one_sender_gets_half_of_what_the_others_left(void)
{
    struct fixture f;
    set_up(&f, 100, 1);
    for (int i = 0; i < 50; i++)
        CHECK_EQ(charge(&f, 0, 1, 0), SHMRING_OK);
    CHECK_EQ(charge(&f, 0, 1, 0), SHMRING_E_FULL);
    CHECK_EQ(f.shortage.advisory, 1);
    for (int i = 0; i < 25; i++)
        CHECK_EQ(charge(&f, 1, 1, 0), SHMRING_OK);
    CHECK_EQ(charge(&f, 1, 1, 0), SHMRING_E_FULL);
    /* What is taken makes room for both. */
    CHECK_EQ(receive(&f, 0, 50, 0), SHMRING_OK);
    give_back(&f, 0, 50, 0);
    CHECK_EQ(charge(&f, 1, 25, 0), SHMRING_OK);
    CHECK_EQ(charge(&f, 0, 25, 0), SHMRING_OK);
    CHECK_EQ(charge(&f, 0, 1, 0), SHMRING_E_FULL);
    tear_down(&f);
}

/* P5: a limit below what is outstanding makes new charges fail until that has fallen. */
static void a_lowered_limit_waits_until_use_has_fallen(void)
{
    struct fixture f;
    set_up(&f, 100, 1);
    CHECK_EQ(charge(&f, 0, 40, 0), SHMRING_OK);
    shmring_allowance_set(&f.allowance, RIGHTS, 20);
    CHECK_EQ(charge(&f, 1, 1, 0), SHMRING_E_FULL);
    CHECK_EQ(f.shortage.used, 40);
    CHECK_EQ(f.shortage.limit, 20);
    CHECK_EQ(outstanding(&f), 40);
    /* What had been charged before is no lie. */
    CHECK_EQ(receive(&f, 0, 40, 0), SHMRING_OK);
    give_back(&f, 0, 30, 0);
    CHECK_EQ(outstanding(&f), 10);
    CHECK_EQ(charge(&f, 1, 5, 0), SHMRING_OK);
    CHECK_EQ(receive(&f, 1, 5, 0), SHMRING_OK);
    /* From now on it would be. */
    CHECK_EQ(receive(&f, 1, 16, 0), SHMRING_E_FULL);
    tear_down(&f);
}

static void whoever_sends_more_than_was_given_is_found_out(void)
{
    struct fixture f;
    set_up(&f, 10, 1);
    CHECK_EQ(receive(&f, 0, 10, 0), SHMRING_OK);
    CHECK_EQ(receive(&f, 0, 1, 0), SHMRING_E_FULL);
    give_back(&f, 0, 11, 0);
    CHECK_EQ(receive(&f, 0, 10, 0), SHMRING_OK);
    tear_down(&f);
}

/* Q5: what a dead sender had charged comes back, sent or not. */
static void what_the_dead_had_charged_comes_back(void)
{
    struct fixture f;
    set_up(&f, 100, 1);
    CHECK_EQ(charge(&f, 0, 30, 0), SHMRING_OK);
    CHECK_EQ(charge(&f, 1, 10, 0), SHMRING_OK);
    CHECK_EQ(receive(&f, 0, 20, 0), SHMRING_OK);
    shmring_allowance_bury(&f.allowance, &f.boards[0], &f.of_link[0]);
    CHECK_EQ(outstanding(&f), 30);
    give_back(&f, 0, 20, 0);
    CHECK_EQ(outstanding(&f), 10);
    /* A liar's number gives back no more than its domain has under way. */
    f.boards[1].charged[RIGHTS] = UINT64_C(1) << 40;
    shmring_allowance_bury(&f.allowance, &f.boards[1], &f.of_link[1]);
    CHECK_EQ(outstanding(&f), 0);
    CHECK_EQ((int64_t)(f.ring.control->credit[RIGHTS] - f.ring.control->charged[RIGHTS]), 100);
    tear_down(&f);
}

static void any_bytes_where_senders_write_stay_within_bounds(void)
{
    struct fixture f;
    uint64_t seed = check_seed();
    set_up(&f, 100, 10);
    for (int i = 0; i < 20000; i++) {
        f.ring.control->charged[RIGHTS] = check_random(&seed);
        f.boards[i & 1].charged[RIGHTS] = check_random(&seed) >> (check_random(&seed) & 63);
        CHECK(outstanding(&f) <= 100);
        (void)receive(&f, (uint32_t)i & 1, check_random(&seed) % 8, 0);
        shmring_allowance_bury(&f.allowance, &f.boards[i & 1], &f.of_link[i & 1]);
        if (i % 16 == 0)
            shmring_allowance_set(&f.allowance, RIGHTS, 50 + check_random(&seed) % 51);
        /* More than was given at any time is always found out. */
        uint64_t held = f.allowance.received[RIGHTS] - f.allowance.returned[RIGHTS];
        CHECK(held <= 100 || receive(&f, 0, 1, 0) == SHMRING_E_FULL);
        if (check_random(&seed) % 4 == 0)
            give_back(&f, 0, f.allowance.received[RIGHTS] - f.allowance.returned[RIGHTS], 0);
    }
    tear_down(&f);
}

/* Q2: whatever is charged within the shares, enough remains for everybody. */
static void the_shares_leave_enough_for_everybody(void)
{
    enum { USERS = 12 };
    uint64_t seed = check_seed(), total = 10000, used[USERS] = {0}, limit[USERS] = {0};
    uint64_t users = 1;
    for (int step = 0; step < 200000; step++) {
        uint64_t u = check_random(&seed) % users;
        switch (check_random(&seed) % 64) {
        case 0:
            if (users < USERS)
                used[users++] = 0;
            break;
        case 1: used[u] = 0; break;
        default: break;
        }
        for (uint64_t one = 0; one < users; one++) {
            uint64_t others = 0, even = total / (2 * users);
            for (uint64_t o = 0; o < users; o++)
                if (o != one)
                    others += used[o] > even ? used[o] : even;
            limit[one] = shmring_credit_share(total, users, others);
        }
        /* All charge at the same time, each by the limit that it was given. */
        for (uint64_t one = 0; one < users; one++) {
            if (used[one] >= limit[one])
                continue;
            uint64_t wanted = 1 + check_random(&seed) % (limit[one] - used[one]), sum = wanted;
            for (uint64_t o = 0; o < users; o++)
                sum += used[o];
            CHECK(total - sum >= (used[one] + wanted) * users);
            used[one] += wanted;
        }
        used[u] -= used[u] ? check_random(&seed) % used[u] : 0;
    }
}

static void a_receiver_without_limits_refuses_nothing(void)
{
    struct fixture f;
    set_up(&f, 100, 1);
    struct shmring_amounts bytes = shmring_amounts_make(0, 0, 0, UINT64_C(1) << 50);
    CHECK_EQ(shmring_credit_charge(f.producers, f.boards, &bytes, &f.shortage), SHMRING_OK);
    shmring_credit_take_back(f.ring.control, f.boards, &bytes);
    CHECK_EQ(f.ring.control->charged[SHMRING_CREDIT_BYTES], 0);
    tear_down(&f);
}

/* ---- several at once ------------------------------------------------------------------------ */

struct charging {
    struct fixture *f;
    uint32_t sender;
    uint64_t times, most;
    uint64_t *under_way; /* charged by all, as they count it themselves */
};

static void *charge_many(void *context)
{
    struct charging *c = context;
    struct fixture *f = c->f;
    struct shmring_shortage shortage;
    struct shmring_amounts one = amounts(1 + c->sender, 0);
    for (uint64_t i = 0; i < c->times;) {
        uint32_t announced = shmring_bell_announce(&f->ring.control->credit_bell);
        if (shmring_credit_charge(&f->producers[c->sender], &f->boards[c->sender], &one,
                                  &shortage)) {
            shmring_bell_sleep(&f->ring.control->credit_bell, announced,
                               check_now_ns() + 20000000000u);
            continue;
        }
        uint64_t now = shmring_fetch_add_acq_rel(c->under_way, one.of[RIGHTS]) + one.of[RIGHTS];
        if (now > c->most)
            c->most = now;
        i++;
        (void)shmring_fetch_add_acq_rel(c->under_way, 0 - one.of[RIGHTS]);
        /* Half of them are not sent after all; the rest the receiver takes and gives back. */
        if (i % 2)
            shmring_credit_take_back(f->ring.control, &f->boards[c->sender], &one);
        else
            shmring_allowance_give_back(&f->allowance, &f->boards[c->sender], &one);
    }
    return NULL;
}

/* Q4: a refusal can be waited for, without spinning. */
static void charges_at_the_same_time_never_exceed_the_credit(void)
{
    struct fixture f;
    struct charging charging[2];
    pthread_t threads[2];
    uint64_t under_way = 0;
    set_up(&f, 4, 1);
    for (uint32_t i = 0; i < 2; i++) {
        charging[i] = (struct charging){&f, i, 20000 / CHECK_SLOW, 0, &under_way};
        REQUIRE(pthread_create(&threads[i], NULL, charge_many, &charging[i]) == 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        (void)pthread_join(threads[i], NULL);
        CHECK(charging[i].most <= 4);
    }
    CHECK_EQ((int64_t)(f.ring.control->credit[RIGHTS] - f.ring.control->charged[RIGHTS]), 4);
    tear_down(&f);
}

static void *give_back_later(void *context)
{
    struct fixture *f = context;
    while (shmring_load_acquire_u32(&f->ring.control->credit_bell.waiters) == 0)
        shmring_pause();
    give_back(f, 0, 2, 0);
    return NULL;
}

static void who_waits_for_credit_is_woken(void)
{
    struct fixture f;
    pthread_t thread;
    set_up(&f, 4, 1);
    REQUIRE(charge(&f, 0, 2, 0) == SHMRING_OK);
    REQUIRE(receive(&f, 0, 2, 0) == SHMRING_OK);
    CHECK_EQ(charge(&f, 0, 2, 0), SHMRING_E_FULL);
    REQUIRE(pthread_create(&thread, NULL, give_back_later, &f) == 0);
    for (;;) {
        uint32_t announced = shmring_bell_announce(&f.ring.control->credit_bell);
        if (charge(&f, 0, 2, 0) == SHMRING_OK)
            break;
        shmring_bell_sleep(&f.ring.control->credit_bell, announced, UINT64_MAX);
    }
    (void)pthread_join(thread, NULL);
    tear_down(&f);
}

/* ---- slots withheld ------------------------------------------------------------------------- */

/* Q1: a receiver may let fewer messages wait than its ring has slots. */
static void withheld_slots_count_as_used(void)
{
    struct shmring_clock clock = kit_clock(0, 0);
    struct kit_ring ring;
    struct kit_sender sender;
    struct kit_inbox receiver;
    struct shmring_producer producer;
    union kit_message message;
    kit_sender_open(&sender, 3, 1);
    kit_ring_open(&ring, 7, CAPACITY, 64);
    kit_introduce(&ring, 0, &sender);
    kit_inbox_open(&receiver, &clock, &ring, 1);
    KIT_MUST(shmring_producer_init(&producer, &ring.mapping, kit_claim_words(&sender, 0), 0));
    uint64_t room = producer.unicast_room;
    /* More than there is leaves one. */
    uint64_t withheld[] = {room - 5, room - 1, room, UINT64_MAX, 0};
    uint64_t least[] = {5, 1, 1, 1, room};
    for (uint32_t i = 0; i < 5; i++) {
        shmring_store_relaxed(&ring.control->withheld, withheld[i]);
        uint64_t tail;
        (void)shmring_producer_room(&producer, 1, room, &tail); /* reads it */
        for (int lap = 0; lap < 3; lap++) {
            uint64_t sent = 0;
            while (kit_send(&producer, &clock, sent) == SHMRING_OK)
                sent++;
            CHECK_EQ(sent, least[i]);
            for (uint64_t k = 0; k < sent; k++) {
                CHECK_EQ(kit_take(&receiver, &message), SHMRING_OK);
                CHECK_EQ(message.m.body[0], k);
            }
            CHECK_EQ(kit_take(&receiver, &message), SHMRING_E_EMPTY);
            shmring_consumer_publish_head(&ring.consumer, true);
        }
    }
    shmring_inbox_deinit(&receiver.inbox);
    kit_ring_close(&ring);
    kit_sender_close(&sender);
}

CHECK_MAIN(RUN(a_charge_covers_all_kinds_or_none),
           RUN(one_sender_gets_half_of_what_the_others_left),
           RUN(a_lowered_limit_waits_until_use_has_fallen),
           RUN(whoever_sends_more_than_was_given_is_found_out),
           RUN(what_the_dead_had_charged_comes_back),
           RUN(any_bytes_where_senders_write_stay_within_bounds),
           RUN(the_shares_leave_enough_for_everybody),
           RUN(a_receiver_without_limits_refuses_nothing),
           RUN(charges_at_the_same_time_never_exceed_the_credit),
           RUN(who_waits_for_credit_is_woken), RUN(withheld_slots_count_as_used))
