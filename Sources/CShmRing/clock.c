#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "CShmRing.h"

#define NS_PER_S UINT64_C(1000000000)
#define COARSE_NS 20000u
/* How often the clock is tended. */
#define TEND_NS (NS_PER_S / 2)
/* By how much CLOCK_MONOTONIC, which is being corrected, and the counter may differ. */
#define SLACK_NS UINT64_C(1000000)
#define SLACK_SHARE 1024u
/* By how much counters of two processors may differ at most: a millisecond or two, whatever a set
 * says of their rate. */
#define CLOSE_TICKS (UINT64_C(1) << 22)
/* The clock goes on with so much more than it would read where it is repaired. */
#define GAP_NS UINT64_C(10000000)
/* Counted in 2^32 ns, before it has been measured: more than any counter does. */
#define FASTEST (UINT64_C(8) << 32)

static uint64_t read_ns(clockid_t id)
{
    struct timespec t;
    (void)clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t shmring_clock_monotonic(uint32_t coarse_ns)
{
    /* SYNC T2 complete, then clock read, pairs with T3 and C3 as T1 does: the reading comes after
     * every earlier access has completed and before every later one begins. A memory barrier is not
     * enough on arm64, where it does not hold back the reading of a counter, nor is the isb of the
     * vDSO, which does not wait for stores. */
    shmring_fence_complete();
    uint64_t now = read_ns(CLOCK_MONOTONIC);
    shmring_fence_clock_read();
    return coarse_ns > 1 ? now - now % coarse_ns : now;
}

static uint64_t waits;

void shmring_clock_wait(const struct shmring_clock *clock, uint64_t stamp)
{
    if (shmring_clock_monotonic(clock->coarse_ns) > stamp)
        return;
    /* Relaxed: a number for reports, which may miss some where several threads wait. */
    shmring_store_relaxed(&waits, shmring_load_relaxed(&waits) + 1);
    while (shmring_clock_monotonic(clock->coarse_ns) <= stamp)
        shmring_pause();
}

uint64_t shmring_clock_waits(void)
{
    return shmring_load_relaxed(&waits); /* Relaxed: as above. */
}

#if defined(__x86_64__)
static bool kernel_trusts_tsc(void)
{
    char name[32] = {0};
    int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
                  O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, name, sizeof name - 1);
    (void)close(fd);
    return n >= 3 && strncmp(name, "tsc", 3) == 0;
}
#endif

void shmring_clock_choose(uint32_t force, struct shmring_bus_page *page)
{
    struct shmring_clock clock = {.source = SHMRING_CLOCK_MONOTONIC};
#if defined(__x86_64__)
    if (force == SHMRING_CLOCK_TSC || (force == 0 && kernel_trusts_tsc()))
        clock.source = SHMRING_CLOCK_TSC;
#endif
    if (force == SHMRING_CLOCK_COARSE || SHMRING_BROKEN(NO_COMMIT_WAIT) ||
        SHMRING_BROKEN(COARSE_CLOCK)) {
        clock.source = SHMRING_CLOCK_MONOTONIC;
        page->clock_coarse_ns = COARSE_NS;
    }
    page->clock_source = clock.source;
    clock.page = page;
    page->ns_base = read_ns(CLOCK_BOOTTIME);
    page->sets[1].at_ns = read_ns(CLOCK_MONOTONIC);
    page->ticks_base = shmring_clock_now(&clock);
    page->sets[1].floor = page->floor = page->ticks_base;
    page->sets[1].rate = FASTEST;
    page->epoch = 1;
}

int shmring_clock_attach(const struct shmring_bus_page *page, struct shmring_clock *clock)
{
    /* Relaxed: written before the page was sent, and fixed. */
    *clock = (struct shmring_clock){
        .source = shmring_load_relaxed_u32(&page->clock_source),
        .coarse_ns = shmring_load_relaxed_u32(&page->clock_coarse_ns),
        .page = page,
    };
#if defined(__x86_64__)
    if (clock->source == SHMRING_CLOCK_TSC)
        return SHMRING_OK;
#endif
    return clock->source == SHMRING_CLOCK_MONOTONIC ? SHMRING_OK : SHMRING_E_CORRUPT;
}

/* ---- jumps ----------------------------------------------------------------------------------- */

#if defined(__x86_64__)
/* By CLOCK_MONOTONIC: what the counter would read, or more, but for one that goes back. */
static uint64_t estimate(const struct shmring_clock_set *set, uint64_t mono_ns)
{
    uint64_t ns = mono_ns > set->at_ns ? mono_ns - set->at_ns : 0;
    ns += ns / SLACK_SHARE + SLACK_NS;
    return set->floor + (uint64_t)((unsigned __int128)ns * set->rate >> 32);
}
#endif

#if defined(__x86_64__)
/* So little behind is no jump: somebody's counter is a little early, or the floor was raised
 * between two instructions. It comes up soon. */
static bool is_close(uint64_t now, const struct shmring_clock_set *set)
{
    return set->floor - now < CLOSE_TICKS;
}
#endif

uint64_t shmring_clock_behind(const struct shmring_clock *clock)
{
#if defined(__x86_64__)
    for (;;) {
        /* SYNC T5 load acquire of `epoch`, pairs with T6: the set is that epoch's, or the second
         * look tells. */
        uint64_t epoch = shmring_load_acquire(&clock->page->epoch);
        const struct shmring_clock_set *shared = &clock->page->sets[epoch & 1];
        struct shmring_clock_set set = {
            /* Relaxed, all four: between two looks at the epoch. */
            .offset = shmring_load_relaxed(&shared->offset),
            .floor = shmring_load_relaxed(&shared->floor),
            .at_ns = shmring_load_relaxed(&shared->at_ns),
            .rate = shmring_load_relaxed(&shared->rate),
        };
        uint64_t now = shmring_clock_counter() + set.offset + shmring_clock_skew();
        if (now < set.floor && is_close(now, &set)) {
            shmring_pause();
            continue;
        }
        if (now < set.floor) {
            uint64_t mono_ns = shmring_clock_monotonic(0);
            now = estimate(&set, mono_ns);
            /* The commit wait: the same nanosecond on another core would be the same time. */
            while (shmring_clock_monotonic(0) == mono_ns)
                shmring_pause();
        }
        /* SYNC T7 clock read, pairs with T6: the epoch is looked at behind the clock. */
        shmring_fence_clock_read();
        /* Relaxed: see T7. Where it has changed, the reading may be less than somebody's who has
         * seen the change. */
        if (shmring_load_relaxed(&clock->page->epoch) == epoch)
            return now;
    }
#else
    return shmring_clock_monotonic(clock->coarse_ns);
#endif
}

#if defined(__x86_64__)
/* Who sees the new offset or floor may have taken them from no other set than the new one. */
static void publish(struct shmring_bus_page *page, const struct shmring_clock_set *set)
{
    uint64_t epoch = shmring_load_relaxed(&page->epoch) + 1; /* Relaxed: nobody else writes it. */
    struct shmring_clock_set *shared = &page->sets[epoch & 1];
    /* Relaxed, all four: nobody accepts them before the epoch says so. */
    shmring_store_relaxed(&shared->offset, set->offset);
    shmring_store_relaxed(&shared->floor, set->floor);
    shmring_store_relaxed(&shared->at_ns, set->at_ns);
    shmring_store_relaxed(&shared->rate, set->rate);
    /* SYNC T6 release of `epoch`, `offset` and `floor`, in this order, pairs with T4 and T5. */
    shmring_store_release(&page->epoch, epoch);
    shmring_store_release(&page->offset, set->offset);
    shmring_store_release(&page->floor, set->floor);
}

/* Stamps as times, from here on. */
static void rebase(struct shmring_bus_page *page, uint64_t ticks, uint64_t boot_ns, uint64_t rate)
{
    uint64_t second = (uint64_t)((unsigned __int128)NS_PER_S * rate >> 32);
    /* Relaxed: see ticks_to_ns. */
    shmring_store_relaxed(&page->ticks_base, ticks - (ticks < second ? ticks : second));
    shmring_store_relaxed(&page->ns_base, boot_ns - (boot_ns < NS_PER_S ? boot_ns : NS_PER_S));
}
#endif

bool shmring_clock_tend(struct shmring_bus_page *page, struct shmring_clock_keeper *keeper)
{
#if defined(__x86_64__)
    if (page->clock_source != SHMRING_CLOCK_TSC)
        return false;
    uint64_t boot_ns, mono_ns, counter, now;
    struct shmring_clock_set set = page->sets[page->epoch & 1];
    do {
        boot_ns = read_ns(CLOCK_BOOTTIME);
        mono_ns = read_ns(CLOCK_MONOTONIC);
        counter = shmring_clock_counter() + shmring_clock_skew();
        now = counter + set.offset;
        /* Again if it was kept from the processor meanwhile. */
    } while (read_ns(CLOCK_MONOTONIC) - mono_ns > SLACK_NS ||
             (now < set.floor && is_close(now, &set)));
    uint64_t passed_ns = mono_ns - keeper->mono_ns;
    if (keeper->mono_ns != 0 && passed_ns < TEND_NS && /* Asked more often, it looks at no more. */
        now >= keeper->ticks)
        return false;
    uint64_t limit = estimate(&set, mono_ns);
    uint64_t ticks = now - keeper->ticks;
    /* While the machine is suspended CLOCK_MONOTONIC stands still, and the counter may go on. */
    int64_t slept_ns = (int64_t)(boot_ns - keeper->boot_ns - passed_ns);
    bool is_measured = keeper->mono_ns != 0 && passed_ns >= TEND_NS / 2 &&
                       slept_ns < (int64_t)SLACK_NS && slept_ns > -(int64_t)SLACK_NS;
    bool has_jumped = now < set.floor;
    if (has_jumped) {
        /* With a gap for what others compute until it is published: their rate is a little high. */
        now = limit + (uint64_t)((unsigned __int128)GAP_NS * set.rate >> 32);
        set.offset = now - counter;
    } else if (is_measured && set.rate == FASTEST) {
        set.rate = (uint64_t)(((unsigned __int128)ticks << 32) / passed_ns);
    } else if (is_measured && now > limit + (limit - set.floor)) {
        has_jumped = true; /* Forward, to twice as far as the time is, or more. */
    }
    if (has_jumped) {
        keeper->jumps++;
        rebase(page, now, boot_ns, set.rate);
    }
    set.floor = now;
    set.at_ns = mono_ns;
    publish(page, &set);
    keeper->ticks = now;
    keeper->mono_ns = mono_ns;
    keeper->boot_ns = boot_ns;
    return has_jumped;
#else
    (void)page, (void)keeper;
    return false;
#endif
}

/* ---- times ----------------------------------------------------------------------------------- */

/* The tick's length is what has passed since the bus began: nothing has to be measured first, and
 * what a young bus knows badly it needs only for young stamps. */
static __int128 ticks_to_ns(const struct shmring_clock *clock, __int128 age, uint64_t now,
                            uint64_t now_ns)
{
    /* Relaxed: they change where the clock has jumped, and one wrong figure just then is borne. */
    __int128 ticks = (__int128)now - (__int128)shmring_load_relaxed(&clock->page->ticks_base);
    __int128 ns = (__int128)now_ns - (__int128)shmring_load_relaxed(&clock->page->ns_base);
    return ticks > 0 && ns > 0 ? age * ns / ticks : age;
}

uint64_t shmring_clock_ns(const struct shmring_clock *clock, uint64_t stamp)
{
    uint64_t now_ns = read_ns(CLOCK_BOOTTIME), now = shmring_clock_now(clock);
    __int128 age = (__int128)now - (__int128)stamp;
    return (uint64_t)((__int128)now_ns - ticks_to_ns(clock, age, now, now_ns));
}

int64_t shmring_clock_age_ns(const struct shmring_clock *clock, uint64_t pending)
{
    uint64_t now_ns = read_ns(CLOCK_BOOTTIME), now = shmring_clock_now(clock);
    /* One unit less: both are rounded down. */
    int32_t units = (int32_t)((uint32_t)(now >> 10) - (uint32_t)pending);
    __int128 age = ((__int128)units - (units > 0)) * 1024;
    return (int64_t)ticks_to_ns(clock, age, now, now_ns);
}

const char *shmring_clock_source_name(uint32_t source)
{
    switch (source) {
    case SHMRING_CLOCK_TSC: return "tsc";
    case SHMRING_CLOCK_MONOTONIC: return "CLOCK_MONOTONIC";
    default: return "unknown";
    }
}
