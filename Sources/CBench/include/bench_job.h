/*
 * bench_job.h - what a worker is told about one run, and what it says afterwards.
 *
 * A sequence number is sender << 48 | generation << 32 | index. The generation differs from run to
 * run, so that a message left over from an earlier one is seen as a fault.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define BENCH_WORKERS_MAX 16u /* senders, and receivers */
#define BENCH_SENDER_SHIFT 48
#define BENCH_GENERATION_SHIFT 32

enum bench_fault { BENCH_FAULT_NONE, BENCH_FAULT_DROP, BENCH_FAULT_DOUBLE, BENCH_FAULT_SWAP };

/* What the negative controls do to a run. All zero in a measurement. */
struct bench_sabotage {
    uint64_t delay_ticks;  /* busy time before each message */
    uint32_t system_calls; /* getppid, before each message */
    uint32_t allocations;  /* malloc and free, before each message */
    uint32_t repeats;      /* hand over each message this many times more (wires only) */
    uint32_t fault;        /* enum bench_fault, */
    uint64_t fault_at;     /* at the message with this index */
};

struct bench_job {
    uint64_t count;         /* messages of each sender, or round trips; below 2^32 */
    uint64_t payload_bytes; /* at least 8, a multiple of 8 */
    uint64_t first_sequence;
    uint64_t *samples;       /* ticks of each round trip, count of them; NULL: not timed singly */
    uint64_t interval_ticks; /* paced: time between intended starts; 0: as fast as it goes */
    uint32_t batch;          /* messages handed over at once; 1: one by one */
    uint32_t senders, receivers;
    bool spin;      /* never sleep */
    bool sabotaged; /* look at sabotage */
    struct bench_sabotage sabotage;
};

struct bench_outcome {
    uint64_t messages;   /* sent, or received */
    uint64_t sum;        /* of every word written, or read */
    uint64_t faults;     /* messages that were not the next of their sender */
    uint64_t fault_want; /* the first one: the sequence number that was due, */
    uint64_t fault_got;  /* and the one that came */
    uint64_t begin;      /* ticks */
    uint64_t end;        /* ticks */
};
