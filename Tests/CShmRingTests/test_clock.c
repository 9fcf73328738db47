/* test_clock.c - stamps: sources, the commit wait, conversion to nanoseconds. */
#include <pthread.h>
#include <sched.h>

#include "ring_kit.h"

static uint64_t boottime_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void a_forced_monotonic_clock_is_one_and_counts_nanoseconds(void)
{
    struct shmring_bus_page page = {0};
    shmring_clock_choose(SHMRING_CLOCK_MONOTONIC, &page);
    CHECK_EQ(page.clock_source, SHMRING_CLOCK_MONOTONIC);
    CHECK_EQ(page.epoch, 1);
    struct shmring_clock clock;
    REQUIRE(shmring_clock_attach(&page, &clock) == SHMRING_OK);
    uint64_t before = check_now_ns(), stamp = shmring_clock_now(&clock), after = check_now_ns();
    CHECK(before <= stamp && stamp <= after);
    CHECK_EQ(strcmp(shmring_clock_source_name(clock.source), "CLOCK_MONOTONIC"), 0);
}

static void a_source_that_this_machine_does_not_have_is_refused(void)
{
    const uint32_t sources[] = {0, 3, 77, UINT32_MAX};
    struct shmring_bus_page page = {0};
    struct shmring_clock clock;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        page.clock_source = sources[i];
        CHECK_EQ(shmring_clock_attach(&page, &clock), SHMRING_E_CORRUPT);
    }
#if !defined(__x86_64__)
    page.clock_source = SHMRING_CLOCK_TSC;
    CHECK_EQ(shmring_clock_attach(&page, &clock), SHMRING_E_CORRUPT);
#endif
    CHECK_EQ(strcmp(shmring_clock_source_name(77), "unknown"), 0);
}

static void readings_never_go_back(void)
{
    const struct shmring_clock clocks[] = {kit_clock(0, 0), kit_clock(SHMRING_CLOCK_MONOTONIC, 0),
                                           kit_clock(SHMRING_CLOCK_MONOTONIC, 1000)};
    for (size_t c = 0; c < sizeof clocks / sizeof clocks[0]; c++) {
        uint64_t last = 0;
        for (uint32_t i = 0; i < 10000; i++) {
            uint64_t now = i % 2 ? shmring_clock_now(&clocks[c])
                                 : shmring_clock_now_then_loads(&clocks[c]);
            CHECK(now >= last);
            CHECK_EQ(now >> 62, 0); /* the two top bits are a commit word's state */
            last = now;
        }
    }
}

/* O6: a coarse clock has ties, and the commit wait ends them. */
static void a_coarse_clock_has_ties_and_the_commit_wait_ends_them(void)
{
    const uint32_t coarse_ns = 100000;
    struct shmring_clock clock = kit_clock(SHMRING_CLOCK_MONOTONIC, coarse_ns);
    uint32_t ties = 0;
    uint64_t last = shmring_clock_now(&clock);
    for (uint32_t i = 0; i < 1000; i++) {
        uint64_t now = shmring_clock_now(&clock);
        CHECK_EQ(now % coarse_ns, 0);
        ties += now == last;
        last = now;
    }
    CHECK(ties > 0);
    for (uint32_t i = 0; i < 20; i++) {
        uint64_t stamp = shmring_clock_now(&clock);
        shmring_clock_wait_past(&clock, stamp);
        CHECK(shmring_clock_now(&clock) > stamp);
    }
}

/* Readings on two cores, one after the other in real time: each hands its last one over. */
struct relay {
    struct shmring_clock clock;
    uint64_t turn, stamp;
};

static void run_relay(struct relay *relay, uint64_t parity)
{
    for (uint64_t turn = parity; turn < 2000; turn += 2) {
        while (shmring_load_acquire(&relay->turn) != turn)
            (void)sched_yield();
        uint64_t stamp = shmring_clock_now(&relay->clock);
        shmring_clock_wait_past(&relay->clock, stamp);
        /* TSC readings of two cores are at least never out of order. */
        CHECK(stamp >= relay->stamp + (relay->clock.source != SHMRING_CLOCK_TSC));
        relay->stamp = stamp;
        shmring_store_release(&relay->turn, turn + 1);
    }
}

static void *run_odd_turns(void *context)
{
    run_relay(context, 1);
    return NULL;
}

static void a_stamp_after_anothers_commit_wait_is_larger_on_any_core(void)
{
    const struct shmring_clock clocks[] = {kit_clock(0, 0), kit_clock(SHMRING_CLOCK_MONOTONIC, 0),
                                           kit_clock(SHMRING_CLOCK_MONOTONIC, 5000)};
    for (size_t c = 0; c < sizeof clocks / sizeof clocks[0]; c++) {
        struct relay relay = {.clock = clocks[c]};
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, run_odd_turns, &relay) == 0);
        run_relay(&relay, 0);
        (void)pthread_join(thread, NULL);
    }
}

static void stamps_convert_to_nanoseconds_since_boot(void)
{
    const struct shmring_clock clocks[] = {kit_clock(0, 0), kit_clock(SHMRING_CLOCK_MONOTONIC, 0)};
    for (size_t c = 0; c < sizeof clocks / sizeof clocks[0]; c++) {
        uint64_t best = UINT64_MAX;
        /* The smallest of many: a preemption between two readings says nothing about the clock. */
        for (uint32_t i = 0; i < 100; i++) {
            uint64_t stamp = shmring_clock_now(&clocks[c]);
            uint64_t ns = boottime_ns(), converted = shmring_clock_ns(&clocks[c], stamp);
            uint64_t off = ns > converted ? ns - converted : converted - ns;
            best = off < best ? off : best;
        }
        CHECK(best < 1000000);
        /* As far back as the bus's beginning: the tick's length is right to a part in a
         * thousand. */
        while (boottime_ns() - clocks[c].page->ns_base < 20000000)
            ;
        uint64_t begin = shmring_clock_ns(&clocks[c], clocks[c].page->ticks_base);
        uint64_t base = clocks[c].page->ns_base;
        uint64_t off = begin > base ? begin - base : base - begin;
        CHECK(off < 20000);
        CHECK(shmring_clock_ns(&clocks[c], shmring_clock_now(&clocks[c])) > begin);
    }
}

#if defined(__x86_64__)
/* As if the counter had gone back by so much: what a reading adds to it is less. */
static void go_back(struct shmring_bus_page *page, uint64_t ticks)
{
    uint64_t offset = page->offset - ticks;
    __atomic_store_n(&page->sets[page->epoch & 1].offset, offset, __ATOMIC_SEQ_CST);
    __atomic_store_n(&page->offset, offset, __ATOMIC_SEQ_CST);
}

static void wait_ns(uint64_t ns)
{
    uint64_t until = check_now_ns() + ns;
    while (check_now_ns() < until)
        ;
}

static uint64_t ns_between(const struct shmring_clock *clock, uint64_t early, uint64_t late)
{
    return shmring_clock_ns(clock, late) - shmring_clock_ns(clock, early);
}

static void a_clock_that_goes_back_goes_on_and_is_repaired(void)
{
    struct shmring_bus_page page = {0};
    struct shmring_clock_keeper keeper = {0};
    struct shmring_clock clock;
    shmring_clock_choose(SHMRING_CLOCK_TSC, &page);
    REQUIRE(shmring_clock_attach(&page, &clock) == SHMRING_OK);
    CHECK(!shmring_clock_tend(&page, &keeper));
    wait_ns(600000000);
    CHECK(!shmring_clock_tend(&page, &keeper)); /* Has measured the rate now. */
    uint64_t rate = page.sets[page.epoch & 1].rate;
    CHECK(rate > UINT64_C(1) << 30 && rate < UINT64_C(8) << 32);
    for (int i = 0; i < 3; i++) {
        uint64_t epoch = page.epoch, before = shmring_clock_now(&clock);
        go_back(&page, before / 2);
        /* By the kernel's clock: at no time back, and about as fast. */
        uint64_t last = before;
        for (int n = 0; n < 1000; n++) {
            uint64_t now = shmring_clock_now(&clock);
            CHECK(now > last);
            last = now;
        }
        CHECK(page.epoch == epoch);
        wait_ns(10000000);
        uint64_t later = shmring_clock_now(&clock);
        CHECK(later - last > (rate >> 32) * 9000000 && later - last < (rate >> 31) * 20000000);
        CHECK(shmring_clock_tend(&page, &keeper));
        CHECK_EQ(keeper.jumps, (uint64_t)i + 1);
        uint64_t repaired = shmring_clock_now(&clock);
        CHECK(repaired > later);
        CHECK(repaired >= page.floor);
        /* And times are told again. */
        wait_ns(1000000);
        uint64_t ns = ns_between(&clock, repaired, shmring_clock_now(&clock));
        CHECK(ns > 900000 && ns < 100000000);
        CHECK(!shmring_clock_tend(&page, &keeper));
    }
}

static void a_clock_that_goes_forward_is_as_good_and_times_are_told_anew(void)
{
    struct shmring_bus_page page = {0};
    struct shmring_clock_keeper keeper = {0};
    struct shmring_clock clock;
    shmring_clock_choose(SHMRING_CLOCK_TSC, &page);
    REQUIRE(shmring_clock_attach(&page, &clock) == SHMRING_OK);
    CHECK(!shmring_clock_tend(&page, &keeper));
    wait_ns(600000000);
    CHECK(!shmring_clock_tend(&page, &keeper));
    uint64_t before = shmring_clock_now(&clock);
    go_back(&page, UINT64_C(0) - (before << 1));
    wait_ns(600000000);
    CHECK(shmring_clock_now(&clock) > before);
    CHECK(shmring_clock_tend(&page, &keeper));
    uint64_t at = shmring_clock_now(&clock);
    wait_ns(1000000);
    uint64_t ns = ns_between(&clock, at, shmring_clock_now(&clock));
    CHECK(ns > 900000 && ns < 100000000);
}

/* Counters of two processors may differ a little: that is waited for, and is no jump. */
static void a_counter_that_is_a_little_early_is_waited_for(void)
{
    struct shmring_bus_page page = {0};
    struct shmring_clock_keeper keeper = {0};
    struct shmring_clock clock;
    shmring_clock_choose(SHMRING_CLOCK_TSC, &page);
    REQUIRE(shmring_clock_attach(&page, &clock) == SHMRING_OK);
    CHECK(!shmring_clock_tend(&page, &keeper));
    for (int i = 0; i < 100; i++) {
        uint64_t ahead = shmring_clock_counter() + 100000;
        page.sets[page.epoch & 1].floor = page.floor = keeper.ticks = ahead;
        uint64_t now;
        if (i % 2 == 0) {
            now = shmring_clock_now(&clock);
        } else {
            CHECK(!shmring_clock_tend(&page, &keeper));
            now = shmring_clock_counter();
        }
        /* Not what is computed for a jump, a millisecond later. */
        CHECK(now >= ahead);
        CHECK(now <= shmring_clock_counter());
    }
    CHECK_EQ(page.offset, 0);
    CHECK_EQ(keeper.jumps, 0);
}

struct racers {
    struct shmring_clock clock;
    uint64_t greatest, wrong;
    uint32_t done;
};

static void *read_and_compare(void *context)
{
    struct racers *all = context;
    while (!__atomic_load_n(&all->done, __ATOMIC_ACQUIRE)) {
        uint64_t before = __atomic_load_n(&all->greatest, __ATOMIC_SEQ_CST);
        uint64_t now = shmring_clock_now(&all->clock), seen = before;
        if (now <= before)
            __atomic_add_fetch(&all->wrong, 1, __ATOMIC_RELAXED);
        while (seen < now && !__atomic_compare_exchange_n(&all->greatest, &seen, now, false,
                                                          __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
    }
    return NULL;
}

/* What the order needs of a clock, while it goes back and is repaired. */
static void readings_agree_with_real_time_while_the_clock_goes_back(void)
{
    static struct shmring_bus_page page;
    struct shmring_clock_keeper keeper = {0};
    struct racers all = {0};
    shmring_clock_choose(SHMRING_CLOCK_TSC, &page);
    REQUIRE(shmring_clock_attach(&page, &all.clock) == SHMRING_OK);
    (void)shmring_clock_tend(&page, &keeper);
    wait_ns(600000000);
    (void)shmring_clock_tend(&page, &keeper);
    pthread_t threads[3];
    for (int t = 0; t < 3; t++)
        REQUIRE(pthread_create(&threads[t], NULL, read_and_compare, &all) == 0);
    for (int i = 0; i < 40; i++) {
        uint64_t back = shmring_clock_now(&all.clock) / 16;
        go_back(&page, back);
        wait_ns(2000000);
        CHECK(shmring_clock_tend(&page, &keeper));
        wait_ns(2000000);
    }
    __atomic_store_n(&all.done, 1, __ATOMIC_RELEASE);
    for (int t = 0; t < 3; t++)
        (void)pthread_join(threads[t], NULL);
    CHECK_EQ(all.wrong, 0);
}
#else
#define NO_COUNTER(name)                                                                           \
    static void name(void)                                                                         \
    {                                                                                              \
        struct shmring_bus_page page = {0};                                                        \
        struct shmring_clock_keeper keeper = {0};                                                  \
        shmring_clock_choose(0, &page);                                                            \
        CHECK(!shmring_clock_tend(&page, &keeper)); /* CLOCK_MONOTONIC does not jump. */           \
    }
NO_COUNTER(a_clock_that_goes_back_goes_on_and_is_repaired)
NO_COUNTER(a_counter_that_is_a_little_early_is_waited_for)
NO_COUNTER(a_clock_that_goes_forward_is_as_good_and_times_are_told_anew)
NO_COUNTER(readings_agree_with_real_time_while_the_clock_goes_back)
#endif

CHECK_MAIN(RUN(a_forced_monotonic_clock_is_one_and_counts_nanoseconds),
           RUN(a_source_that_this_machine_does_not_have_is_refused), RUN(readings_never_go_back),
           RUN(a_coarse_clock_has_ties_and_the_commit_wait_ends_them),
           RUN(a_stamp_after_anothers_commit_wait_is_larger_on_any_core),
           RUN(stamps_convert_to_nanoseconds_since_boot),
           RUN(a_clock_that_goes_back_goes_on_and_is_repaired),
           RUN(a_counter_that_is_a_little_early_is_waited_for),
           RUN(a_clock_that_goes_forward_is_as_good_and_times_are_told_anew),
           RUN(readings_agree_with_real_time_while_the_clock_goes_back))
