#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "CShmRing.h"

#define NS_PER_S UINT64_C(1000000000)
#define COARSE_NS 20000u

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
    page->ns_base = read_ns(CLOCK_BOOTTIME);
    page->ticks_base = shmring_clock_now(&clock);
    page->epoch = 1;
}

int shmring_clock_attach(const struct shmring_bus_page *page, struct shmring_clock *clock)
{
    /* Relaxed: written before the page was sent, fixed within an epoch. */
    *clock = (struct shmring_clock){
        .source = shmring_load_relaxed_u32(&page->clock_source),
        .coarse_ns = shmring_load_relaxed_u32(&page->clock_coarse_ns),
        .ticks_base = shmring_load_relaxed(&page->ticks_base),
        .ns_base = shmring_load_relaxed(&page->ns_base),
    };
#if defined(__x86_64__)
    if (clock->source == SHMRING_CLOCK_TSC)
        return SHMRING_OK;
#endif
    return clock->source == SHMRING_CLOCK_MONOTONIC ? SHMRING_OK : SHMRING_E_CORRUPT;
}

/* The tick's length is what has passed since the bus began: nothing has to be measured first, and
 * what a young bus knows badly it needs only for young stamps. */
static __int128 ticks_to_ns(const struct shmring_clock *clock, __int128 age, uint64_t now,
                            uint64_t now_ns)
{
    __int128 ticks = (__int128)now - (__int128)clock->ticks_base;
    __int128 ns = (__int128)now_ns - (__int128)clock->ns_base;
    return ticks > 0 ? age * ns / ticks : age;
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
