#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "CShmRing.h"

#define NS_PER_S UINT64_C(1000000000)

static uint64_t read_ns(clockid_t id)
{
    struct timespec t;
    (void)clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t shmring_clock_monotonic(uint32_t coarse_ns)
{
    /* SYNC T2 complete, then clock read, pairs with T3 and C3 as T1 does: the reading comes after every
     * earlier access has completed and before every later one begins. A memory barrier is not enough
     * on arm64, where it does not hold back the reading of a counter, nor is the isb of the vDSO,
     * which does not wait for stores. */
    shmring_fence_complete();
    uint64_t now = read_ns(CLOCK_MONOTONIC);
    shmring_fence_clock_read();
    return coarse_ns > 1 ? now - now % coarse_ns : now;
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

/* Nanoseconds of a tick, 32.32, against CLOCK_MONOTONIC_RAW over some milliseconds. Only for showing
 * stamps as times; the order never uses it. */
static uint64_t measure_tick(const struct shmring_clock *clock)
{
    uint64_t ns0 = read_ns(CLOCK_MONOTONIC_RAW), t0 = shmring_clock_now(clock), ns1, t1;
    do {
        ns1 = read_ns(CLOCK_MONOTONIC_RAW);
        t1 = shmring_clock_now(clock);
    } while (ns1 - ns0 < 200000);
    return (uint64_t)(((unsigned __int128)(ns1 - ns0) << 32) / (t1 - t0));
}
#endif

void shmring_clock_choose(uint32_t force, struct shmring_bus_page *page)
{
    struct shmring_clock clock = {.source = SHMRING_CLOCK_MONOTONIC};
    uint64_t ns_per_tick_q32 = UINT64_C(1) << 32;
#if defined(__x86_64__)
    if (force == SHMRING_CLOCK_TSC || (force == 0 && kernel_trusts_tsc())) {
        clock.source = SHMRING_CLOCK_TSC;
        ns_per_tick_q32 = measure_tick(&clock);
    }
#else
    (void)force;
#endif
    page->clock_source = clock.source;
    page->ns_per_tick_q32 = ns_per_tick_q32;
    page->epoch = 1;
}

int shmring_clock_attach(const struct shmring_bus_page *page, struct shmring_clock *clock)
{
    /* Relaxed: written before the page was sent, fixed within an epoch. */
    *clock = (struct shmring_clock){
        .source = shmring_load_relaxed_u32(&page->clock_source),
        .coarse_ns = shmring_load_relaxed_u32(&page->clock_coarse_ns),
        .ns_per_tick_q32 = shmring_load_relaxed(&page->ns_per_tick_q32),
    };
#if defined(__x86_64__)
    if (clock->source == SHMRING_CLOCK_TSC)
        return SHMRING_OK;
#endif
    return clock->source == SHMRING_CLOCK_MONOTONIC ? SHMRING_OK : SHMRING_E_CORRUPT;
}

uint64_t shmring_clock_ns(const struct shmring_clock *clock, uint64_t stamp)
{
    /* From now on back, not from the bus's beginning on: the error of the measured tick then grows
     * with the stamp's age only. */
    uint64_t now_ns = read_ns(CLOCK_BOOTTIME), now = shmring_clock_now(clock);
    __int128 ticks = (__int128)stamp - (__int128)now;
    return (uint64_t)((__int128)now_ns + ((ticks * (__int128)clock->ns_per_tick_q32) >> 32));
}

const char *shmring_clock_source_name(uint32_t source)
{
    switch (source) {
    case SHMRING_CLOCK_TSC: return "tsc";
    case SHMRING_CLOCK_MONOTONIC: return "CLOCK_MONOTONIC";
    default: return "unknown";
    }
}
