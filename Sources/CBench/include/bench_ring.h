/*
 * bench_ring.h - the library's own ring without peers, nodes and handles: once from C, once from
 * Swift, to see what the language costs.
 */
#pragma once

#include <CShmRing.h>

#include "bench_job.h"

#define BENCH_RING_FDS 3 /* ring, claims, bus page */

/* One end. The receiver has an inbox, the sender a producer. */
struct bench_ring {
    struct shmring_mapping ring, claims, page;
    struct shmring_clock clock;
    struct shmring_producer producer;
    struct shmring_consumer consumer;
    struct shmring_inbox inbox;
    struct shmring_message *message;
    uint32_t attention; /* of no broker: always 0 */
};

/* Makes the three segments. 0, or what shmring said. The caller owns the descriptors. */
int bench_ring_make(uint32_t slots, uint32_t slot_bytes, int fds[BENCH_RING_FDS]);
/* Maps one end; does not close the descriptors. *ring_out is freed by bench_ring_close. */
int bench_ring_open(const int fds[BENCH_RING_FDS], bool sends, struct bench_ring **ring_out);
void bench_ring_close(struct bench_ring *ring);

/* A stream, one by one: as the Swift loops in RingTransport.swift. */
int bench_ring_send(struct bench_ring *ring, const struct bench_job *job,
                    struct bench_outcome *outcome);
int bench_ring_receive(struct bench_ring *ring, const struct bench_job *job,
                       struct bench_outcome *outcome);
