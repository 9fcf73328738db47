/*
 * bench_shared.h - yardsticks in shared memory: what the hardware allows, without any bus.
 *
 * NOTE - they trust each other, have one sender and one receiver, no authority and no order.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "bench_job.h"

#define BENCH_STAGE_BYTES 4096u

/* What all workers of a crew map: lines apart from each other by 128 bytes. */
struct bench_stage {
    uint32_t arrived; /* workers that came to the barrier since the crew began: a futex */
    uint32_t ready;   /* and those that are awake after it */
    uint64_t pad0[15];
    uint64_t line; /* of the yardstick */
    uint64_t pad1[15];
};

/* A memfd of byte_count bytes, pages reserved. The caller owns it. Negative: -errno. */
int bench_memory_create(const char *label, uint64_t byte_count);
/* Maps it, writable and pre-faulted. NULL when that fails; errno says why. */
void *bench_memory_map(int fd, uint64_t byte_count);
void bench_memory_unmap(void *base, uint64_t byte_count);

/* Comes to the barrier and waits until `target` have come in all since the crew began. */
void bench_stage_meet(struct bench_stage *stage, uint32_t target);

/* The raw cache-line ping-pong: yardstick.c. The line's value must not change between two calls. */
void bench_line_ping(uint64_t *line, uint64_t count);
void bench_line_pong(uint64_t *line, uint64_t count);

/* The raw futex ping-pong: two words, each side sleeps on one. Negative: -errno. */
int bench_futex_ping(void *base, const struct bench_job *job, struct bench_outcome *outcome);
int bench_futex_pong(void *base, const struct bench_job *job, struct bench_outcome *outcome);

/* The plain ring with one producer and one consumer. slot_bytes is 64 or 128, payloads fit a slot,
 * slots is a power of two. Two rings lie in `base`, one for each direction of a ping-pong. */
uint64_t bench_spsc_bytes(uint32_t slots, uint32_t slot_bytes);
struct bench_spsc {
    void *base;
    uint32_t slots, slot_bytes;
};
void bench_spsc_ping(const struct bench_spsc *ring, const struct bench_job *job,
                     struct bench_outcome *outcome);
void bench_spsc_pong(const struct bench_spsc *ring, const struct bench_job *job,
                     struct bench_outcome *outcome);
void bench_spsc_send(const struct bench_spsc *ring, const struct bench_job *job,
                     struct bench_outcome *outcome);
void bench_spsc_receive(const struct bench_spsc *ring, const struct bench_job *job,
                        struct bench_outcome *outcome);

/* The bare in-place hand-off: `slots` payloads in one mapping, written and read where they lie. */
uint64_t bench_handoff_bytes(uint32_t slots, uint64_t payload_bytes);
void bench_handoff_send(void *base, uint32_t slots, const struct bench_job *job,
                        struct bench_outcome *outcome);
void bench_handoff_receive(void *base, uint32_t slots, const struct bench_job *job,
                           struct bench_outcome *outcome);

/* Reads one word of every line of count payloads, which lie one behind the other in `base`; after
 * the last one that fits into byte_count comes the first again. */
void bench_memory_read(const void *base, uint64_t byte_count, const struct bench_job *job,
                       struct bench_outcome *outcome);
