/* CShmRing - bytes, order and sleep. See docs/architecture.md for where to start. */
#pragma once

#include "shmring_atomics.h"
#include "shmring_layout.h"
#include "shmring_segment.h"
#include "shmring_clock.h"
