/* test_order.c - the order of delivery: several rings, multicasts, ties, stamps. Units. */
#include <signal.h>

#include "ring_kit.h"

#define CAPACITY 64u
#define RINGS 3u
#define RECEIVERS 2u

/* Two receivers with three rings each; three senders, of whom each may write to every ring. */
struct fixture {
    struct shmring_clock clock;
    struct kit_ring rings[RECEIVERS][RINGS];
    struct kit_sender senders[RINGS];
    struct shmring_producer producer[RECEIVERS][RINGS][RINGS]; /* [receiver][ring][sender] */
    struct kit_inbox receiver[RECEIVERS];
    union kit_message message;
};

static void set_up(struct fixture *f, uint32_t ring_count)
{
    f->clock = kit_clock(0, 0);
    for (uint32_t s = 0; s < RINGS; s++)
        kit_sender_open(&f->senders[s], 10 + s, 1);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        for (uint32_t r = 0; r < RINGS; r++) {
            kit_ring_open(&f->rings[i][r], i * RINGS + r, CAPACITY, 64);
            for (uint32_t s = 0; s < RINGS; s++) {
                /* Each receiver counts senders its own way, as the broker does. */
                uint32_t index = i == 0 ? s : RINGS - s;
                kit_introduce(&f->rings[i][r], index, &f->senders[s]);
                KIT_MUST(shmring_producer_init(&f->producer[i][r][s], &f->rings[i][r].mapping,
                                               kit_claim_words(&f->senders[s], 0), index));
            }
        }
        kit_inbox_open(&f->receiver[i], &f->clock, f->rings[i], ring_count);
    }
}

static void tear_down(struct fixture *f)
{
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        shmring_inbox_deinit(&f->receiver[i].inbox);
        for (uint32_t r = 0; r < RINGS; r++)
            kit_ring_close(&f->rings[i][r]);
    }
    for (uint32_t s = 0; s < RINGS; s++)
        kit_sender_close(&f->senders[s]);
}

static int64_t next_value(struct fixture *f, uint32_t receiver)
{
    int result = kit_take(&f->receiver[receiver], &f->message);
    return result == SHMRING_OK ? (int64_t)f->message.m.body[0] : -result;
}

/* Writes a multicast of this sender at the next position of a ring. */
static void put_multicast(struct fixture *f, uint32_t receiver, uint32_t ring, uint32_t sender,
                          uint32_t word, uint64_t value)
{
    struct shmring_producer *p = &f->producer[receiver][ring][sender];
    kit_write(p, kit_claim(p, p->claim_word), SHMRING_CLASS_MULTICAST, SHMRING_COMMIT_REF(word, 1),
              value);
}

static void put_unicast(struct fixture *f, uint32_t receiver, uint32_t ring, uint32_t sender,
                        uint64_t stamp, uint64_t value)
{
    struct shmring_producer *p = &f->producer[receiver][ring][sender];
    kit_write(p, kit_claim(p, p->claim_word), SHMRING_CLASS_UNICAST, stamp, value);
}

static void commit(struct fixture *f, uint32_t sender, uint32_t word, uint64_t stamp)
{
    shmring_store_release(&kit_commit_words(&f->senders[sender])[word], stamp);
}

/* A time before every look of the test. */
static uint64_t past(const struct fixture *f)
{
    return shmring_clock_now(&f->clock) - 1000000;
}

/* O3: two transactions come in one order, wherever their slots stand. */
static void multicasts_are_delivered_by_stamp_and_not_by_position(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t t = past(&f);
    put_multicast(&f, 0, 0, 0, 0, 1);
    put_multicast(&f, 0, 0, 1, 0, 2);
    put_multicast(&f, 0, 0, 2, 0, 3);
    commit(&f, 0, 0, t + 30);
    commit(&f, 1, 0, t + 10);
    commit(&f, 2, 0, t + 20);
    for (int64_t i = 0; i < 3; i++) {
        CHECK_EQ(next_value(&f, 0), (i + 1) % 3 + 1);
        CHECK_EQ(f.message.m.stamp, t + 10 * (uint64_t)(i + 1));
    }
    CHECK_EQ(f.receiver[0].inbox.counts.reordered, 1);
    tear_down(&f);
}

/* O5: nobody gets ahead of a part of a transaction of which he has seen another. */
static void a_unicast_behind_a_multicast_goes_first_when_its_stamp_is_lower(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t t = past(&f);
    put_multicast(&f, 0, 0, 0, 0, 2);
    put_unicast(&f, 0, 0, 1, t + 10, 1);
    put_unicast(&f, 0, 0, 1, t + 30, 3);
    commit(&f, 0, 0, t + 20);
    CHECK_EQ(next_value(&f, 0), 1);
    CHECK_EQ(next_value(&f, 0), 2);
    CHECK_EQ(next_value(&f, 0), 3);
    tear_down(&f);
}

/* O5: also where a look is begun anew in the middle of it. */
static void what_was_passed_over_does_not_come_between_two_parts_of_a_transaction(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t t = past(&f), word = 0;
    struct shmring_producer *late = &f.producer[0][0][1];
    put_multicast(&f, 0, 0, 0, 0, 1);
    uint64_t position = kit_claim(late, late->claim_word);
    put_multicast(&f, 0, 0, 0, 0, 2);
    commit(&f, 0, 0, t + 20);
    CHECK_EQ(next_value(&f, 0), 1);
    kit_write(late, position, SHMRING_CLASS_UNICAST, t + 10, 3);
    CHECK_EQ(shmring_inbox_watch(&f.receiver[0].inbox, SHMRING_WATCH_RELEASE, &word, &word, 1, 10,
                                 0, 7),
             SHMRING_OK);
    CHECK_EQ(next_value(&f, 0), 2);
    CHECK_EQ(next_value(&f, 0), 3);
    tear_down(&f);
}

static void only_what_was_pending_in_the_look_is_waited_for(void)
{
    struct fixture f;
    set_up(&f, 1);
    kit_commit_words(&f.senders[0])[0] = SHMRING_COMMIT_PENDING | UINT64_C(1) << 32;
    kit_commit_words(&f.senders[1])[0] = SHMRING_COMMIT_PENDING | UINT64_C(1) << 32;
    put_multicast(&f, 0, 0, 0, 0, 1);
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
    put_multicast(&f, 0, 0, 1, 0, 2); /* later than the look: not one of its pending ones */
    commit(&f, 0, 0, past(&f));
    CHECK_EQ(next_value(&f, 0), 1);
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
    commit(&f, 1, 0, past(&f));
    CHECK_EQ(next_value(&f, 0), 2);
    tear_down(&f);
}

/* O2, O5: what was sent after a part of a transaction had been seen comes after all of it. */
static void a_commit_word_pending_in_one_ring_holds_back_the_other_rings(void)
{
    struct fixture f;
    set_up(&f, 2);
    uint64_t t = past(&f);
    kit_commit_words(&f.senders[0])[0] = SHMRING_COMMIT_PENDING | UINT64_C(1) << 32;
    put_multicast(&f, 0, 0, 0, 0, 1);
    put_unicast(&f, 0, 1, 1, t + 20, 2);
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
    commit(&f, 0, 0, t + 10);
    CHECK_EQ(next_value(&f, 0), 1);
    CHECK_EQ(next_value(&f, 0), 2);
    tear_down(&f);
}

static void several_rings_are_merged_by_stamp(void)
{
    uint64_t seed = check_seed();
    for (uint32_t round = 0; round < 200; round++) {
        struct fixture f;
        set_up(&f, 1 + round % RINGS);
        uint32_t count = 1 + (uint32_t)(check_random(&seed) % 100), word = 0;
        uint64_t t = past(&f), stamps[100], last = 0;
        for (uint32_t i = 0; i < count; i++)
            stamps[i] = t + i;
        for (uint32_t i = count; i-- > 1;) {
            uint64_t j = check_random(&seed) % (i + 1), swap = stamps[i];
            stamps[i] = stamps[j];
            stamps[j] = swap;
        }
        /* One pending multicast makes every round a look, with one ring too. */
        kit_commit_words(&f.senders[0])[511] = SHMRING_COMMIT_PENDING | UINT64_C(1) << 32;
        put_multicast(&f, 0, 0, 0, 511, 0);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t ring = (uint32_t)(check_random(&seed) % f.receiver[0].inbox.ring_count);
            struct kit_ring *r = &f.rings[0][ring];
            if (r->control->tail - r->control->head >= CAPACITY - CAPACITY / 8) {
                count = i;
                break;
            }
            if (check_random(&seed) & 1) {
                commit(&f, 1, word, stamps[i]);
                put_multicast(&f, 0, ring, 1, word++, stamps[i]);
            } else {
                put_unicast(&f, 0, ring, 2, stamps[i], stamps[i]);
            }
        }
        CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
        commit(&f, 0, 511, t - 1);
        CHECK_EQ(next_value(&f, 0), 0);
        for (uint32_t i = 0; i < count; i++) {
            int64_t value = next_value(&f, 0);
            CHECK(value > (int64_t)last);
            CHECK_EQ(f.message.m.stamp, value);
            last = (uint64_t)value;
        }
        CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

static void a_batch_keeps_its_order_among_others_of_equal_stamps(void)
{
    struct fixture f;
    set_up(&f, 2);
    uint64_t t = past(&f);
    /* Ring 1 sorts before ring 0, so that the whole is not in order to begin with. */
    for (uint64_t i = 0; i < 30; i++)
        put_unicast(&f, 0, 0, 0, t + 5, 1000 + i);
    for (uint64_t i = 0; i < 30; i++)
        put_unicast(&f, 0, 1, 1, t + (i < 10 ? 1 : 5), 2000 + i);
    uint64_t next[2] = {1000, 2000};
    for (uint32_t i = 0; i < 60; i++) {
        uint64_t value = (uint64_t)next_value(&f, 0), from = value >= 2000;
        CHECK_EQ(value, next[from]);
        next[from] = value + 1;
    }
    tear_down(&f);
}

/* A batch is written while a look reads it: the look faults on the page where the batch's second
 * half lies, and the handler writes all of it. */
static struct {
    struct fixture *fixture;
    uint8_t *page;
    uint64_t position, stamp;
    uint32_t faults;
} halfway;

static void write_the_batch(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
    if (++halfway.faults > 1)
        _exit(4);
    (void)mprotect(halfway.page, SHMRING_PAGE_BYTES, PROT_READ | PROT_WRITE);
    for (uint64_t i = 0; i < 6; i++)
        kit_write(&halfway.fixture->producer[0][0][0], halfway.position + i, SHMRING_CLASS_UNICAST,
                  halfway.stamp, i);
}

static void a_batch_written_while_a_look_reads_it_keeps_its_order(void)
{
    struct fixture f;
    struct shmring_batch batch;
    struct sigaction action = {.sa_sigaction = write_the_batch, .sa_flags = SA_SIGINFO}, before;
    const uint64_t per_page = SHMRING_PAGE_BYTES / 64;
    set_up(&f, 1);
    kit_ring_close(&f.rings[0][0]);
    kit_ring_open(&f.rings[0][0], 0, 2 * (uint32_t)per_page, 64);
    kit_ring_begin_at(&f.rings[0][0], 5 * per_page - 3); /* the last three of an even page */
    kit_introduce(&f.rings[0][0], 0, &f.senders[0]);
    struct shmring_producer *producer = &f.producer[0][0][0];
    KIT_MUST(shmring_producer_init(producer, &f.rings[0][0].mapping, producer->claim_word, 0));
    shmring_inbox_deinit(&f.receiver[0].inbox);
    kit_inbox_open(&f.receiver[0], &f.clock, f.rings[0], 1);
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY); /* allocates, which no handler may */
    REQUIRE(shmring_batch_begin(producer, 6, &batch) == SHMRING_OK);
    halfway.fixture = &f;
    halfway.page = producer->slots + SHMRING_PAGE_BYTES;
    halfway.position = batch.position;
    halfway.stamp = shmring_clock_now(&f.clock);
    halfway.faults = 0;
    (void)sigaction(SIGSEGV, &action, &before);
    (void)mprotect(halfway.page, SHMRING_PAGE_BYTES, PROT_NONE);
    for (int64_t i = 0; i < 6; i++)
        CHECK_EQ(next_value(&f, 0), i);
    (void)sigaction(SIGSEGV, &before, NULL);
    CHECK_EQ(halfway.faults, 1);
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
    tear_down(&f);
}

/* O3, O6: equal clock readings are one order, too. */
static void multicasts_of_equal_stamps_stand_in_one_order_at_every_receiver(void)
{
    for (uint32_t many = 0; many < 2; many++) {
        struct fixture f;
        uint64_t order[RECEIVERS][RINGS];
        set_up(&f, 1 + many * 2);
        uint64_t t = past(&f);
        for (uint32_t s = 0; s < RINGS; s++) {
            put_multicast(&f, 0, many * s, s, 0, s);
            put_multicast(&f, 1, many * s, RINGS - 1 - s, 0, RINGS - 1 - s);
            commit(&f, s, 0, t);
        }
        for (uint32_t i = 0; i < RECEIVERS; i++)
            for (uint32_t s = 0; s < RINGS; s++)
                order[i][s] = (uint64_t)next_value(&f, i);
        CHECK_EQ(memcmp(order[0], order[1], sizeof order[0]), 0);
        tear_down(&f);
    }
}

/* O3, O6: the same, of one sender. */
static void two_lanes_of_one_peer_with_equal_stamps_stand_in_one_order_too(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t t = past(&f);
    put_multicast(&f, 0, 0, 0, 3, 3);
    put_multicast(&f, 0, 0, 0, 8, 8);
    put_multicast(&f, 1, 0, 0, 8, 8);
    put_multicast(&f, 1, 0, 0, 3, 3);
    commit(&f, 0, 3, t);
    commit(&f, 0, 8, t);
    int64_t first = next_value(&f, 0);
    CHECK_EQ(next_value(&f, 1), first);
    CHECK_EQ(next_value(&f, 0), next_value(&f, 1));
    tear_down(&f);
}

static void a_unicast_reports_no_less_than_what_came_before_and_a_multicast_its_own(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t t = past(&f);
    put_unicast(&f, 0, 0, 0, t + 50, 1);
    put_unicast(&f, 0, 0, 1, t + 20, 2); /* stamped early, claimed late */
    CHECK_EQ(next_value(&f, 0), 1);
    CHECK_EQ(f.message.m.stamp, t + 50);
    CHECK_EQ(next_value(&f, 0), 2);
    CHECK_EQ(f.message.m.stamp, t + 50);
    put_multicast(&f, 0, 0, 2, 0, 3);
    commit(&f, 2, 0, t + 40);
    put_unicast(&f, 0, 0, 1, t + 45, 4);
    CHECK_EQ(next_value(&f, 0), 3);
    CHECK_EQ(f.message.m.stamp, t + 40);
    CHECK_EQ(f.message.m.sequence, 3);
    CHECK_EQ(next_value(&f, 0), 4);
    CHECK_EQ(f.message.m.stamp, t + 50);
    CHECK_EQ(f.message.m.sequence, 4);
    tear_down(&f);
}

static void a_ring_added_or_removed_between_deliveries_loses_nothing(void)
{
    struct fixture f;
    set_up(&f, 2);
    uint64_t t = past(&f);
    put_unicast(&f, 0, 0, 0, t + 1, 1);
    put_unicast(&f, 0, 0, 0, t + 2, 2);
    put_unicast(&f, 0, 1, 0, t + 3, 3);
    put_unicast(&f, 0, 2, 0, t + 4, 4);
    put_unicast(&f, 0, 1, 0, t + 5, 5);
    CHECK_EQ(next_value(&f, 0), 1);
    CHECK_EQ(shmring_inbox_add(&f.receiver[0].inbox, &f.rings[0][2].consumer), SHMRING_OK);
    CHECK_EQ(next_value(&f, 0), 2);
    shmring_inbox_remove(&f.receiver[0].inbox, &f.rings[0][0].consumer);
    CHECK_EQ(next_value(&f, 0), 3);
    CHECK_EQ(next_value(&f, 0), 4);
    CHECK_EQ(next_value(&f, 0), 5);
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
    shmring_inbox_remove(&f.receiver[0].inbox, &f.rings[0][2].consumer);
    put_unicast(&f, 0, 1, 0, t + 6, 6);
    CHECK_EQ(shmring_inbox_take(&f.receiver[0].inbox, &f.message.m), SHMRING_OK);
    CHECK_EQ(f.message.m.ring, 0);
    tear_down(&f);
}

CHECK_MAIN(RUN(multicasts_are_delivered_by_stamp_and_not_by_position),
           RUN(a_unicast_behind_a_multicast_goes_first_when_its_stamp_is_lower),
           RUN(what_was_passed_over_does_not_come_between_two_parts_of_a_transaction),
           RUN(only_what_was_pending_in_the_look_is_waited_for),
           RUN(a_commit_word_pending_in_one_ring_holds_back_the_other_rings),
           RUN(several_rings_are_merged_by_stamp),
           RUN(a_batch_keeps_its_order_among_others_of_equal_stamps),
           RUN(a_batch_written_while_a_look_reads_it_keeps_its_order),
           RUN(multicasts_of_equal_stamps_stand_in_one_order_at_every_receiver),
           RUN(two_lanes_of_one_peer_with_equal_stamps_stand_in_one_order_too),
           RUN(a_unicast_reports_no_less_than_what_came_before_and_a_multicast_its_own),
           RUN(a_ring_added_or_removed_between_deliveries_loses_nothing))
