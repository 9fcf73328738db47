/* test_storm.h - signals that interrupt one thread's every system call. */
#pragma once

#include <stdint.h>

struct test_storm;

/* From now on this thread gets a signal every `every_us` microseconds, whose handler does nothing
 * and does not restart what it interrupts. NULL: no memory, or no thread. */
struct test_storm *test_storm_begin(uint32_t every_us);
/* No more of them. How many were handled. Called by the same thread. */
uint64_t test_storm_end(struct test_storm *storm);
