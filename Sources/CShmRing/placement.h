/* placement.h - private to CShmRing: carries out the wishes of a struct shmring_placement. */
#pragma once

#include "shmring_segment.h"

/* Does what can be done and never fails: what became of each wish is in report (may be NULL). */
void shmring_placement_apply(const struct shmring_mapping *mapping, enum shmring_access access,
                             const struct shmring_placement *placement,
                             struct shmring_placement_report *report);
