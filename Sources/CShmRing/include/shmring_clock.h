/*
 * shmring_clock.h - stamps: one clock for all processes of a machine.
 *
 * The invariant TSC where the kernel itself trusts it (clocksource tsc), else CLOCK_MONOTONIC. The
 * broker decides once and writes it into the bus page; peers copy that into a struct shmring_clock.
 *
 * Guarantees:
 *   1. A reading is taken after every earlier instruction of the thread has completed, and loads
 *      after shmring_clock_now_then_loads come after the reading.
 *   2. shmring_clock_wait_past(stamp) returns once the clock reads more than the stamp: then every
 *      reading that begins later, on any core, is larger.
 *
 *   3. Also where the machine was suspended, or restored elsewhere, and its counter went back: the
 *      broker writes down every few seconds what it read, and when by CLOCK_MONOTONIC, which never
 *      goes back. A reading below that floor is thrown away, and the time computed from
 *      CLOCK_MONOTONIC and the floor, by everybody alike, until the broker has written an offset
 *      with which the counter continues (models/clock.pml). Not seen is a jump back over less than
 *      what has passed since the floor was written. A jump forward harms no order.
 *
 * NOTE - stamps are ticks, not nanoseconds; shmring_clock_ns converts, in about 50 ns. 62 bits: 51
 * years at 2.6 GHz.
 */
#pragma once

#include <stdbool.h>
#include <time.h>

#include "shmring_atomics.h"
#include "shmring_faults.h"
#include "shmring_layout.h"
#include "shmring_switches.h"

struct shmring_clock {
    uint32_t source;    /* enum shmring_clock_source */
    uint32_t coarse_ns; /* tests only: readings are rounded down to a multiple; 0 in life */
    const struct shmring_bus_page *page; /* must stay mapped */
};

/* The broker's, which tends the clock of its bus. All zero at first. */
struct shmring_clock_keeper {
    uint64_t ticks, mono_ns, boot_ns; /* when it was last tended */
    uint64_t jumps;                   /* how many were seen */
};

/* Chooses the source for a new bus: reads sysfs. `force`: 0, an enum shmring_clock_source, or
 * SHMRING_CLOCK_COARSE, for tests: the slow source, in steps of 20 us. */
#define SHMRING_CLOCK_COARSE 3u
void shmring_clock_choose(uint32_t force, struct shmring_bus_page *page);
/* Copies the bus page's choice. SHMRING_E_CORRUPT when it makes no sense on this machine. */
int shmring_clock_attach(const struct shmring_bus_page *page, struct shmring_clock *clock);
/* For the broker, who calls it every few seconds and whenever it wakes: raises the floor, and
 * repairs what has jumped. True: it had. One at a time. Needs nothing on a clock that cannot
 * jump. */
bool shmring_clock_tend(struct shmring_bus_page *page, struct shmring_clock_keeper *keeper);
/* How long ago the pending commit word says that it began, at least; below 0: in the future. What
 * lies back further than 2^31 of its units (a quarter of an hour or more) reads as the future. */
int64_t shmring_clock_age_ns(const struct shmring_clock *clock, uint64_t pending);
/* Nanoseconds since boot of a stamp. */
uint64_t shmring_clock_ns(const struct shmring_clock *clock, uint64_t stamp);
const char *shmring_clock_source_name(uint32_t source);

/* A reading where the counter was behind the floor. */
uint64_t shmring_clock_behind(const struct shmring_clock *clock);
uint64_t shmring_clock_monotonic(uint32_t coarse_ns); /* the slow source, out of line */
void shmring_clock_wait(const struct shmring_clock *clock, uint64_t stamp); /* likewise */
/* How often this process has waited for the clock to pass a stamp: the order checker asks. */
uint64_t shmring_clock_waits(void);

#if defined(__x86_64__)
/* The counter, as it is, whatever it was before: for those who compare with nobody's stamps. */
SHMRING_INLINE uint64_t shmring_clock_counter(void)
{
    uint32_t low, high;
    /* SYNC T1 lfence, pairs with T3 and C3: rdtsc waits for every earlier instruction to complete
     * locally; stores may still be on their way, hence C3 and B7. "memory" keeps the compiler in
     * line. */
    __asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}
#endif

/* A fenced reading. */
SHMRING_INLINE uint64_t shmring_clock_now(const struct shmring_clock *clock)
{
#if defined(__x86_64__)
    if (shmring_likely(clock->source == SHMRING_CLOCK_TSC)) {
        const struct shmring_bus_page *page = clock->page;
        /* SYNC T4 load before T1's lfence, pairs with T6: a new offset with an old counter would be
         * a reading in the future. An old offset with a new counter is below the floor, whichever
         * floor is read: that load may be relaxed. */
        uint64_t offset = shmring_load_relaxed(&page->offset);
        uint64_t now = shmring_clock_counter() + offset + shmring_clock_skew();
        if (shmring_likely(now >= shmring_load_relaxed(&page->floor)) || SHMRING_BROKEN(NO_FLOOR))
            return now;
        return shmring_clock_behind(clock);
    }
#endif
    return shmring_clock_monotonic(clock->coarse_ns);
}

/* A fenced reading that later loads stay behind: t0 of a look. */
SHMRING_INLINE uint64_t shmring_clock_now_then_loads(const struct shmring_clock *clock)
{
    uint64_t now = shmring_clock_now(clock);
    /* SYNC T3 clock read, pairs with C3 in shmring_transaction_commit: what a look reads is read
     * after its t0, so that every slot of a transaction with a lower stamp is found. */
    shmring_fence_clock_read();
    return now;
}

/* The commit wait. Empty on a TSC, whose next reading differs; at most a tick on a coarse clock. */
SHMRING_INLINE void shmring_clock_wait_past(const struct shmring_clock *clock, uint64_t stamp)
{
    if (shmring_likely(clock->source == SHMRING_CLOCK_TSC) || SHMRING_BROKEN(NO_COMMIT_WAIT))
        return;
    shmring_clock_wait(clock, stamp);
}
