/* boost's lock-free queue of one producer and one consumer, in shared memory. C++, hence apart. */
#pragma once

#include "bench_rivals.h"

#ifdef __cplusplus
extern "C" {
#endif

const struct bench_rival_operations *bench_boost_spsc(void);

#ifdef __cplusplus
}
#endif
