/*
 * bench_clock.h - the clock of all measurements: ticks that both processes of a run share.
 *
 * x86: the TSC, behind an lfence. arm64: the virtual counter, behind an isb. Elsewhere nanoseconds
 * of CLOCK_MONOTONIC. A reading costs some 20 ns, so loops that give a mean read it outside.
 */
#pragma once

#include <stdint.h>
#include <time.h>

static inline uint64_t bench_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A fenced reading. */
static inline uint64_t bench_ticks(void)
{
#if defined(__x86_64__)
    uint32_t low, high;
    __asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
#elif defined(__aarch64__)
    uint64_t now;
    __asm__ volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(now)::"memory");
    return now;
#else
    return bench_monotonic_ns();
#endif
}

/* A reading that may move a few instructions; half the cost. For loops that only wait. */
static inline uint64_t bench_ticks_unfenced(void)
{
#if defined(__x86_64__)
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
#else
    return bench_ticks();
#endif
}

/* Takes the first of the two readings that tell ticks from nanoseconds. To be called early. */
void bench_clock_begin(void);
/* Ticks of a nanosecond since bench_clock_begin; busy-waits until that is 20 ms ago. */
double bench_ticks_per_ns(void);
