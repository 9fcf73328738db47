/* test_lease.c - how long a pending commit word is waited for: the rules, with a clock of the
 * test's own, and the age that a word tells. */
#include "ring_kit.h"

#include "shmring_lease.h"

#define MS UINT64_C(1000000)
#define NOW (UINT64_C(1000000) * MS)

static struct shmring_stall_budget full(void)
{
    struct shmring_stall_budget budget;
    shmring_stall_budget_init(&budget, NOW);
    return budget;
}

static void a_lease_is_counted_from_where_it_is_seen_or_from_where_it_began(void)
{
    struct shmring_stall_budget budget = full();
    struct shmring_lease lease = {0};
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 5, 1, NOW, 0), NOW + MS);
    shmring_lease_end(&lease, &budget, NOW, false);
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 5, 2, NOW, 300000), NOW + MS - 300000);
    shmring_lease_end(&lease, &budget, NOW, false);
    /* Longer ago than a lease: it is over. */
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 5, 3, NOW, 5 * (int64_t)MS), NOW - 4 * MS);
    shmring_lease_end(&lease, &budget, NOW, true);
    CHECK_EQ(lease.tries, 1);
    /* Longer ago than there was time. */
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 5, 99, NOW, INT64_MAX), MS);
}

static void asking_again_changes_nothing(void)
{
    struct shmring_stall_budget budget = full();
    struct shmring_lease lease = {0};
    uint64_t until = shmring_lease_begin(&lease, &budget, 7, 4, NOW, 0);
    for (uint64_t t = 0; t < MS; t += 1000)
        CHECK_EQ(shmring_lease_begin(&lease, &budget, 7, 4, NOW + t, (int64_t)t), until);
    CHECK_EQ(until, NOW + MS);
    /* Nothing was spent by asking. */
    shmring_lease_end(&lease, &budget, NOW, false);
    CHECK(shmring_stall_budget_is_full(&budget, NOW));
    shmring_lease_end(&lease, &budget, NOW + 50 * MS, true); /* nothing is waited for */
    CHECK_EQ(lease.tries, 0);
}

static void a_beginning_in_the_future_is_not_believed_and_has_the_shortest_lease(void)
{
    struct shmring_stall_budget budget = full();
    struct shmring_lease lease = {0};
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 0, 1, NOW, -(int64_t)MS),
             NOW + SHMRING_LEASE_MIN_NS);
    shmring_lease_end(&lease, &budget, NOW, false);
    /* Another core's clock may be a little ahead. */
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 0, 2, NOW, -50), NOW + MS);
    shmring_lease_end(&lease, &budget, NOW, false);
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 0, 3, NOW, INT64_MIN),
             NOW + SHMRING_LEASE_MIN_NS);
}

static void each_further_try_has_twice_the_time_up_to_64_ms(void)
{
    struct shmring_lease lease = {0};
    const uint64_t expected[] = {1, 2, 4, 8, 16, 32, 64, 64, 64};
    uint32_t generation = 10;
    for (uint32_t try = 0; try < 9; try++) {
        struct shmring_stall_budget budget = full();
        uint64_t until = shmring_lease_begin(&lease, &budget, try, generation, NOW, 0);
        CHECK_EQ(until - NOW, expected[try] * MS);
        shmring_lease_end(&lease, &budget, until, true);
        generation += 1 + try % SHMRING_LEASE_FURTHER; /* some found a ring full in between */
    }
    struct shmring_stall_budget budget = full();
    /* Too many went by: another transaction. */
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 0, generation + 8, NOW, 0) - NOW, MS);
    shmring_lease_end(&lease, &budget, NOW + MS, true);
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 0, generation + 9, NOW, 0) - NOW, 2 * MS);
    /* It was committed: the next one is the first of its own. */
    shmring_lease_end(&lease, &budget, NOW, false);
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 0, generation + 10, NOW, 0) - NOW, MS);
}

static void generations_go_round(void)
{
    const uint32_t last = (uint32_t)SHMRING_COMMIT_GENERATION_MASK;
    struct shmring_stall_budget budget = full();
    struct shmring_lease lease = {0};
    (void)shmring_lease_begin(&lease, &budget, 0, last, NOW, 0);
    shmring_lease_end(&lease, &budget, NOW + MS, true);
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 1, 0, NOW, 0) - NOW, 2 * MS);
}

/* A domain that makes others wait all it can: lanes that are aborted, whose words begin anew at
 * once. Returns for how long it did within the seconds, and how much of it beyond first ms. */
static uint64_t stall_all_the_time(uint64_t seconds, uint32_t skipped, uint64_t *beyond_out)
{
    struct shmring_stall_budget budget = full();
    struct shmring_lease lease = {0};
    uint64_t now = NOW, stalled = 0, longest = 0;
    uint32_t generation = 0;
    *beyond_out = 0;
    while (now < NOW + seconds * 1000 * MS) {
        generation += skipped;
        uint64_t until = shmring_lease_begin(&lease, &budget, 0, generation, now, 0);
        CHECK(until - now >= (uint64_t)SHMRING_LEASE_MIN_NS);
        uint64_t length = until - now;
        if (length > (uint64_t)SHMRING_LEASE_MIN_NS)
            stalled += length;
        if (length > MS)
            *beyond_out += length - MS;
        if (length > longest)
            longest = length;
        now = until;
        shmring_lease_end(&lease, &budget, now, true);
    }
    CHECK(longest <= 64 * MS);
    return stalled;
}

static void a_domain_has_10_ms_a_second_beyond_the_first_of_its_leases(void)
{
    uint64_t beyond;
    (void)stall_all_the_time(100, 1, &beyond);
    /* What it had at first, and the last lease, may be more than that. */
    CHECK(beyond <= (100 * 10 + 10 + 64) * MS);
    CHECK(beyond >= 900 * MS);
}

static void a_domain_has_100_ms_a_second_within_the_first_of_its_leases(void)
{
    /* Never taken for a further try, so that no lease is longer than the first. */
    uint64_t beyond, stalled = stall_all_the_time(100, 100, &beyond);
    CHECK_EQ(beyond, 0);
    CHECK(stalled <= (100 * 100 + 100 + 1) * MS * 10 / 9);
    CHECK(stalled >= 100 * 90 * MS);
}

static void what_is_spent_comes_back_and_no_faster_for_being_asked(void)
{
    struct shmring_stall_budget budget = full();
    struct shmring_lease lease = {.tries = 6, .aborted = 1};
    uint64_t until = shmring_lease_begin(&lease, &budget, 0, 2, NOW, 0);
    CHECK_EQ(until, NOW + 64 * MS);
    shmring_lease_end(&lease, &budget, until, true); /* 63 ms: 53 more than there were */
    uint64_t now = until;
    for (; now < until + 5200 * MS; now += 7 * MS / 2 + 33) {
        CHECK_EQ(shmring_lease_begin(&lease, &budget, 0, 3, now, 0),
                 now + (uint64_t)SHMRING_LEASE_MIN_NS);
        shmring_lease_end(&lease, &budget, now, false);
    }
    CHECK(!shmring_stall_budget_is_full(&budget, now));
    now = until + 5400 * MS;
    CHECK_EQ(shmring_lease_begin(&lease, &budget, 0, 3, now, 0), now + MS);
    shmring_lease_end(&lease, &budget, now, false);
    CHECK(shmring_stall_budget_is_full(&budget, now + 1100 * MS));
}

static void a_word_waited_for_late_costs_no_more_than_its_lease(void)
{
    struct shmring_stall_budget budget = full();
    struct shmring_lease lease = {0};
    (void)shmring_lease_begin(&lease, &budget, 0, 1, NOW, INT64_C(1) << 40);
    shmring_lease_end(&lease, &budget, NOW, true);
    CHECK_EQ(budget.more_ns, 10 * MS);
    CHECK_EQ((uint64_t)budget.first_ns, MS * 991 / 10);
}

static void a_words_age_is_never_more_than_it_is(void)
{
    const struct shmring_clock clocks[] = {kit_clock(0, 0), kit_clock(SHMRING_CLOCK_MONOTONIC, 0)};
    for (size_t c = 0; c < sizeof clocks / sizeof clocks[0]; c++) {
        struct shmring_clock clock = clocks[c];
        uint64_t end = check_now_ns() + 20 * MS;
        while (check_now_ns() < end) {
        }
        for (uint32_t i = 0; i < 200; i++) {
            uint64_t before = check_now_ns(), begun = shmring_clock_now(&clock) >> 10;
            uint64_t after = check_now_ns();
            uint64_t pending = SHMRING_COMMIT_PENDING | UINT64_C(3) << 32 | (begun & UINT32_MAX);
            while (check_now_ns() < before + i * 1000) {
            }
            uint64_t least = check_now_ns() - after;
            int64_t age = shmring_clock_age_ns(&clock, pending);
            uint64_t most = check_now_ns() - before;
            CHECK(age >= 0);
            CHECK((uint64_t)age <= most + most / 100);
            /* Two units are less than 3 us at any clock. */
            CHECK((uint64_t)age + 3000 + least / 100 >= least);
            uint64_t later = SHMRING_COMMIT_PENDING | ((begun + 4000000) & UINT32_MAX);
            CHECK(shmring_clock_age_ns(&clock, later) < -SHMRING_LEASE_MIN_NS);
        }
    }
}

static void only_a_word_that_is_pending_in_its_generation_is_found(void)
{
    struct shmring_mapping outbox;
    int fd = -1;
    REQUIRE(shmring_outbox_create(9, 2, &fd) == 0);
    REQUIRE(shmring_segment_map(fd, SHMRING_SEGMENT_OUTBOX, SHMRING_READ_WRITE, 0, false, false,
                                NULL, NULL, &outbox) == 0);
    uint64_t *words = (uint64_t *)(void *)((uint8_t *)outbox.base + sizeof(struct shmring_outbox));
    uint64_t pending = SHMRING_COMMIT_PENDING | UINT64_C(7) << 32 | 1234;
    words[600] = pending;
    CHECK(shmring_outbox_pending(&outbox, 2, 600, 7) == pending);
    CHECK_EQ(shmring_outbox_pending(&outbox, 2, 600, 6), 0);
    CHECK_EQ(shmring_outbox_pending(&outbox, 2, 601, 0), 0);
    CHECK_EQ(shmring_outbox_pending(&outbox, 1, 600, 7), 0);
    CHECK_EQ(shmring_outbox_pending(&outbox, 2, 2 * SHMRING_COMMIT_WORDS, 7), 0);
    CHECK_EQ(shmring_outbox_pending(&outbox, 2, UINT32_MAX, 7), 0);
    CHECK(shmring_outbox_abort(&outbox, 2, 600, 7));
    CHECK(words[600] == (SHMRING_COMMIT_ABORTED | UINT64_C(7) << 32));
    CHECK_EQ(shmring_outbox_pending(&outbox, 2, 600, 7), 0);
    CHECK(!shmring_outbox_abort(&outbox, 2, 600, 7));
    shmring_segment_unmap(&outbox);
    (void)close(fd);
}

CHECK_MAIN(RUN(a_lease_is_counted_from_where_it_is_seen_or_from_where_it_began),
           RUN(asking_again_changes_nothing),
           RUN(a_beginning_in_the_future_is_not_believed_and_has_the_shortest_lease),
           RUN(each_further_try_has_twice_the_time_up_to_64_ms), RUN(generations_go_round),
           RUN(a_domain_has_10_ms_a_second_beyond_the_first_of_its_leases),
           RUN(a_domain_has_100_ms_a_second_within_the_first_of_its_leases),
           RUN(what_is_spent_comes_back_and_no_faster_for_being_asked),
           RUN(a_word_waited_for_late_costs_no_more_than_its_lease),
           RUN(a_words_age_is_never_more_than_it_is),
           RUN(only_a_word_that_is_pending_in_its_generation_is_found))
