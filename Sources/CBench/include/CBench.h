/* CBench - the rivals and the yardsticks, each at its best, and what workers need of the kernel. */
#pragma once

#include "bench_check.h"
#include "bench_clock.h"
#include "bench_history.h"
#include "bench_job.h"
#include "bench_judge.h"
#include "bench_process.h"
#include "bench_ring.h"
#include "bench_shared.h"
#include "bench_wire.h"
#include "bench_work.h"
