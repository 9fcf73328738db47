/* The rivals written in C; NULL where the library is not built in. */
#pragma once

#include "bench_rivals.h"

const struct bench_rival_operations *bench_zeromq(void);
const struct bench_rival_operations *bench_nng(void);
const struct bench_rival_operations *bench_iceoryx(void);
