/* CShmRing - bytes, order and sleep. docs/architecture.md says where to start. A message moves
 * through these headers from top to bottom, and none includes one below it. */
#pragma once

#include "shmring_atomics.h"
#include "shmring_checks.h"
#include "shmring_switches.h"
#include "shmring_faults.h"
#include "shmring_layout.h"
#include "shmring_segment.h"
#include "shmring_settle.h"
#include "shmring_lease.h"
#include "shmring_clock.h"
#include "shmring_ring.h"
#include "shmring_newcomers.h"
#include "shmring_gate.h"
#include "shmring_biased.h"
#include "shmring_transaction.h"
#include "shmring_inbox.h"
#include "shmring_pool.h"
#include "shmring_arena.h"
#include "shmring_credit.h"
