/*
 * bench_work.h - the work that makes a message real, the same for every transport.
 *
 * Guarantees:
 *   1. bench_fill writes one word in every 64 bytes of a payload and its last word; the first holds
 *      the sequence number, the others follow from it.
 *   2. bench_read reads the same words. Sender and receiver get the same sum.
 *   3. bench_check_note sees a message that is lost, doubled or out of its sender's order, and
 *      still lets the run end when the last message has come.
 */
#pragma once

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_clock.h"
#include "bench_job.h"

#define BENCH_WORK_LINE 64u
#define BENCH_WORK_MIX UINT64_C(0x9e3779b97f4a7c15)
#define BENCH_INLINE static inline __attribute__((always_inline, unused))

BENCH_INLINE uint64_t bench_work_put(void *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
    return value;
}

BENCH_INLINE uint64_t bench_work_get(const void *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* Writes the words of payload bytes [from, from + length) of `total`; from is a multiple of 64.
 * Returns their sum. `bytes` points to byte `from`. */
BENCH_INLINE uint64_t bench_fill_part(void *bytes, uint64_t from, uint64_t length, uint64_t total,
                                      uint64_t sequence)
{
    char *at = bytes;
    uint64_t value = sequence * BENCH_WORK_MIX + from, sum = 0, offset = 0;
    if (from == 0) {
        sum = bench_work_put(at, sequence);
        offset = BENCH_WORK_LINE;
    }
    for (; offset < length; offset += BENCH_WORK_LINE)
        sum += bench_work_put(at + offset, value + offset);
    if (from + length == total && total > 8 && (total - 8) % BENCH_WORK_LINE != 0)
        sum += bench_work_put(at + length - 8, value ^ total);
    return sum;
}

BENCH_INLINE uint64_t bench_read_part(const void *bytes, uint64_t from, uint64_t length,
                                      uint64_t total)
{
    const char *at = bytes;
    uint64_t sum = 0;
    for (uint64_t offset = 0; offset < length; offset += BENCH_WORK_LINE)
        sum += bench_work_get(at + offset);
    if (from + length == total && total > 8 && (total - 8) % BENCH_WORK_LINE != 0)
        sum += bench_work_get(at + length - 8);
    return sum;
}

/* Fills a whole payload; returns the sum of what it wrote. */
BENCH_INLINE uint64_t bench_fill(void *payload, uint64_t byte_count, uint64_t sequence)
{
    return bench_fill_part(payload, 0, byte_count, byte_count, sequence);
}

/* Reads a whole payload; returns the sum and, in *sequence, the first word. */
BENCH_INLINE uint64_t bench_read(const void *payload, uint64_t byte_count, uint64_t *sequence)
{
    *sequence = bench_work_get(payload);
    return bench_read_part(payload, 0, byte_count, byte_count);
}

/* ---- order and count ------------------------------------------------------------------------ */

struct bench_check {
    uint64_t next[BENCH_WORKERS_MAX]; /* of each sender, the sequence number that is due */
    uint64_t remaining;               /* messages due, over all senders */
    uint64_t sum, messages, faults, fault_want, fault_got;
};

void bench_check_begin(struct bench_check *check, const struct bench_job *job);
void bench_check_fault(struct bench_check *check, uint64_t sequence);
void bench_check_end(const struct bench_check *check, struct bench_outcome *outcome);

/* Takes down one message: its first word, and the sum of all its words. */
BENCH_INLINE void bench_check_note(struct bench_check *check, uint64_t sequence, uint64_t sum)
{
    uint64_t sender = sequence >> BENCH_SENDER_SHIFT;
    check->sum += sum;
    check->messages++;
    if (__builtin_expect(sender < BENCH_WORKERS_MAX && check->next[sender] == sequence, 1)) {
        check->next[sender] = sequence + 1;
        check->remaining--;
    } else {
        bench_check_fault(check, sequence);
    }
}

/* ---- negative controls ---------------------------------------------------------------------- */

/* Before message *index of a sabotaged job: wastes what it says, may replace the index, and returns
 * how many times to send the message: 0 when it is to be dropped. */
unsigned bench_sabotage_step(const struct bench_job *job, uint64_t *index);

/* Waits for the intended start of message `index` of a paced run that began at `begin`; returns
 * that intended start, however late the sender is. */
BENCH_INLINE uint64_t bench_pace(const struct bench_job *job, uint64_t begin, uint64_t index)
{
    uint64_t intended = begin + index * job->interval_ticks;
    while ((int64_t)(bench_ticks_unfenced() - intended) < 0)
        ;
    return intended;
}

/* Notes how long round trip `index` took, if that is wanted; returns where the next one begins. */
BENCH_INLINE uint64_t bench_sample(const struct bench_job *job, uint64_t index, uint64_t before)
{
    if (job->samples == NULL)
        return before;
    uint64_t now = bench_ticks();
    job->samples[index] = now - before;
    return now;
}
