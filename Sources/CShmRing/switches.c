#include "shmring_switches.h"

#if defined(SHMRING_SWITCHES)

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint32_t shmring_switched;

static const char *const names[] = {
    "none", "slow", "no-re-read",        "no-look-ahead",  "stamp-before-barrier",
    "t0-after-scan", "past-pending",      "word-reused-early", "no-commit-wait",
    "coarse-clock",  "buried-though-named", "holder-check-off", "notice-not-withdrawn",
    "no-floor",
};

__attribute__((constructor)) static void choose(void)
{
    const char *wished = getenv("BUS1_BREAK");
    if (wished == NULL)
        return;
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(wished, names[i]) == 0) {
            shmring_switched = i;
            return;
        }
    fprintf(stderr, "BUS1_BREAK: no such rule: %s\n", wished);
    abort();
}

void shmring_switch_dawdle(uint32_t one_in, uint32_t microseconds)
{
    /* At random, or places that are passed in turn would never both dawdle. */
    static __thread uint32_t state;
    if (state == 0)
        state = ((uint32_t)time(NULL) ^ (uint32_t)(uintptr_t)&state) | 1u;
    state = state * 1664525u + 1013904223u;
    if ((state >> 8) % one_in != 0)
        return;
    /* Off the processor, as by the scheduler, so that others go on. */
    struct timespec time = {.tv_nsec = (long)microseconds * 1000};
    (void)nanosleep(&time, NULL);
}

#else

/* A file without a declaration is not C. */
typedef int shmring_no_switches;

#endif
