/*
 * shmring_lease.h - how long a commit word may be pending while somebody waits for it.
 *
 * Whoever waits tells the broker, and the broker counts. The word says when it began, but its
 * sender wrote that: begun in the future it counts from when it was first seen, begun in the past
 * it shortens its own lease.
 *
 * Guarantees:
 *   1. Nothing younger than SHMRING_LEASE_MIN_NS is ever aborted, whoever asks, and however often.
 *   2. A transaction that was aborted gets twice the time at its next try, up to
 *      SHMRING_LEASE_MAX_NS: it may be one that needs longer.
 *   3. A trust domain makes others wait 10 ms a second beyond the first ms of its leases, and 100
 *      ms a second within them, on average; beyond either each lease is SHMRING_LEASE_MIN_NS,
 *      which is not counted.
 *
 * NOTE - pure functions of their arguments: no clock, no shared word. The broker's memory.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SHMRING_LEASE_MIN_NS INT64_C(100000)
#define SHMRING_LEASE_FIRST_NS INT64_C(1000000)
#define SHMRING_LEASE_MAX_NS INT64_C(64000000)
/* So many generations after one that was aborted are taken for its further tries: a try that finds
 * a ring full has one, too. */
#define SHMRING_LEASE_FURTHER 8u

/* What a trust domain may yet make others wait. Below zero it is spent. */
struct shmring_stall_budget {
    int64_t first_ns; /* within the first ms of leases, from SHMRING_LEASE_MIN_NS on */
    int64_t more_ns;  /* beyond it */
    uint64_t at_ns;   /* when that was so */
};

/* Of one lane, which has one word pending at a time. Begins as zeroes. */
struct shmring_lease {
    uint32_t index;       /* of the word that is waited for */
    uint32_t generation;
    uint64_t from_ns;     /* since when it is counted as pending */
    uint64_t until_ns;    /* when the lease is over; 0: nothing is waited for */
    uint32_t aborted;     /* the latest generation that was aborted */
    uint32_t tries;       /* that were aborted in a row */
};

void shmring_stall_budget_init(struct shmring_stall_budget *budget, uint64_t now_ns);
/* Whether nothing of it is in use: a new one says the same. */
bool shmring_stall_budget_is_full(const struct shmring_stall_budget *budget, uint64_t now_ns);

/* Somebody waits for this word, which reads pending now, and says that it began age_ns ago; below
 * 0: in the future. Returns until when it may: the same however often it is asked. What the lane
 * was waited for before has ended (shmring_lease_end). */
uint64_t shmring_lease_begin(struct shmring_lease *lease, struct shmring_stall_budget *budget,
                             uint32_t index, uint32_t generation, uint64_t now_ns, int64_t age_ns);
/* It is not pending any more: was aborted, or not. Does nothing when nothing is waited for. */
void shmring_lease_end(struct shmring_lease *lease, struct shmring_stall_budget *budget,
                       uint64_t now_ns, bool aborted);
