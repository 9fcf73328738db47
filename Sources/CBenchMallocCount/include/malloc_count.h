/* Preloaded into measured processes; nothing calls it by name. */
#pragma once

#include <stdint.h>

/* Allocations of this process so far. */
uint64_t bench_malloc_count(void);
