/*
 * spsc.c - the plain ring: one producer, one consumer, two counters.
 *
 * Each side keeps a copy of the other's counter and reads it anew only when that says full or
 * empty.
 * The consumer publishes its counter when it has run out, or after an eighth of a lap.
 */
#include "bench_shared.h"
#include "bench_work.h"

struct spsc_control {
    uint64_t tail; /* producer */
    uint64_t pad0[15];
    uint64_t head; /* consumer */
    uint64_t pad1[15];
};
#define SPSC_OFFSET 4096u

/* One side's view of a ring. */
struct spsc_side {
    struct spsc_control *control;
    char *slots;
    uint64_t mask, eighth;
    uint64_t own, other; /* own counter, copy of the other side's */
};

uint64_t bench_spsc_bytes(uint32_t slots, uint32_t slot_bytes)
{
    return 2 * (SPSC_OFFSET + (uint64_t)slots * slot_bytes);
}

static struct spsc_side spsc_open(const struct bench_spsc *ring, unsigned direction, bool producer)
{
    uint64_t ring_bytes = bench_spsc_bytes(ring->slots, ring->slot_bytes) / 2;
    char *base = (char *)ring->base + direction * ring_bytes;
    struct spsc_control *control = (struct spsc_control *)(void *)base;
    struct spsc_side side = {.control = control,
                             .slots = base + SPSC_OFFSET,
                             .mask = ring->slots - 1,
                             .eighth = ring->slots / 8};
    side.own = producer ? control->tail : control->head;
    side.other = __atomic_load_n(producer ? &control->head : &control->tail, __ATOMIC_ACQUIRE);
    return side;
}

/* Where the next message goes; waits for room. `ahead`: slots filled but not yet published. */
BENCH_INLINE char *spsc_room(struct spsc_side *side, uint32_t slot_bytes, uint64_t ahead)
{
    uint64_t position = side->own + ahead;
    while (__builtin_expect(position - side->other > side->mask, 0))
        side->other = __atomic_load_n(&side->control->head, __ATOMIC_ACQUIRE);
    return side->slots + (position & side->mask) * slot_bytes;
}

BENCH_INLINE void spsc_publish(struct spsc_side *side, uint64_t messages)
{
    side->own += messages;
    __atomic_store_n(&side->control->tail, side->own, __ATOMIC_RELEASE);
}

/* The next message; waits for it. */
BENCH_INLINE const char *spsc_next(struct spsc_side *side, uint32_t slot_bytes)
{
    if (side->own == side->other) {
        __atomic_store_n(&side->control->head, side->own, __ATOMIC_RELEASE);
        do
            side->other = __atomic_load_n(&side->control->tail, __ATOMIC_ACQUIRE);
        while (side->own == side->other);
    }
    return side->slots + (side->own & side->mask) * slot_bytes;
}

/* The run is over: the next one begins where this one ended. */
BENCH_INLINE void spsc_close(struct spsc_side *side)
{
    __atomic_store_n(&side->control->head, side->own, __ATOMIC_RELEASE);
}

BENCH_INLINE void spsc_done(struct spsc_side *side)
{
    if ((++side->own & (side->eighth - 1)) == 0)
        __atomic_store_n(&side->control->head, side->own, __ATOMIC_RELEASE);
}

/* The payload is made in `scratch` and copied into the slot, as a user of any bus does. */
BENCH_INLINE uint64_t spsc_put(struct spsc_side *side, uint32_t slot_bytes, uint64_t payload_bytes,
                               uint64_t ahead, char *scratch, uint64_t sequence)
{
    uint64_t sum = bench_fill(scratch, payload_bytes, sequence);
    __asm__ volatile("" : : "r"(scratch) : "memory");
    memcpy(spsc_room(side, slot_bytes, ahead), scratch, payload_bytes);
    return sum;
}

BENCH_INLINE void ping(const struct bench_spsc *ring, uint32_t slot_bytes, uint64_t payload_bytes,
                       const struct bench_job *job, struct bench_outcome *outcome)
{
    struct spsc_side there = spsc_open(ring, 0, true), back = spsc_open(ring, 1, false);
    char scratch[128] = {0};
    uint64_t sum = 0;
    struct bench_check check;
    bench_check_begin(&check, job);
    uint64_t before = outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count; i++) {
        uint64_t sequence, index = i;
        if (job->interval_ticks)
            before = bench_pace(job, outcome->begin, i);
        if (job->sabotaged)
            bench_sabotage_step(job, &index);
        sum += spsc_put(&there, slot_bytes, payload_bytes, 0, scratch, job->first_sequence + i);
        spsc_publish(&there, 1);
        uint64_t answer = bench_read(spsc_next(&back, slot_bytes), payload_bytes, &sequence);
        bench_check_note(&check, sequence, answer);
        spsc_done(&back);
        before = bench_sample(job, i, before);
    }
    outcome->end = bench_ticks();
    spsc_close(&back);
    bench_check_end(&check, outcome);
    outcome->faults += sum != outcome->sum;
}

BENCH_INLINE void pong(const struct bench_spsc *ring, uint32_t slot_bytes, uint64_t payload_bytes,
                       const struct bench_job *job, struct bench_outcome *outcome)
{
    struct spsc_side there = spsc_open(ring, 0, false), back = spsc_open(ring, 1, true);
    char scratch[128] = {0};
    struct bench_check check;
    bench_check_begin(&check, job);
    while (check.remaining) {
        uint64_t sequence;
        uint64_t sum = bench_read(spsc_next(&there, slot_bytes), payload_bytes, &sequence);
        bench_check_note(&check, sequence, sum);
        spsc_done(&there);
        spsc_put(&back, slot_bytes, payload_bytes, 0, scratch, sequence);
        spsc_publish(&back, 1);
    }
    spsc_close(&there);
    bench_check_end(&check, outcome);
}

/* The negative controls, one by one; apart, so that the measured loop knows nothing of them. */
static void send_sabotaged(const struct bench_spsc *ring, const struct bench_job *job,
                           struct bench_outcome *outcome)
{
    struct spsc_side side = spsc_open(ring, 0, true);
    char scratch[128] = {0};
    outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count; i++) {
        uint64_t index = i;
        for (unsigned times = bench_sabotage_step(job, &index); times > 0; times--) {
            outcome->sum += spsc_put(&side, ring->slot_bytes, job->payload_bytes, 0, scratch,
                                     job->first_sequence + index);
            spsc_publish(&side, 1);
        }
    }
    outcome->end = bench_ticks();
    outcome->messages = job->count;
}

BENCH_INLINE void send(const struct bench_spsc *ring, uint32_t slot_bytes, uint64_t payload_bytes,
                       const struct bench_job *job, struct bench_outcome *outcome)
{
    if (job->sabotaged) {
        send_sabotaged(ring, job, outcome);
        return;
    }
    struct spsc_side side = spsc_open(ring, 0, true);
    char scratch[128] = {0};
    uint64_t sum = 0;
    outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count;) {
        uint64_t many = job->count - i < job->batch ? job->count - i : job->batch;
        for (uint64_t j = 0; j < many; j++, i++)
            sum += spsc_put(&side, slot_bytes, payload_bytes, j, scratch, job->first_sequence + i);
        spsc_publish(&side, many);
    }
    outcome->end = bench_ticks();
    outcome->sum = sum;
    outcome->messages = job->count;
}

BENCH_INLINE void receive(const struct bench_spsc *ring, uint32_t slot_bytes,
                          uint64_t payload_bytes, const struct bench_job *job,
                          struct bench_outcome *outcome)
{
    struct spsc_side side = spsc_open(ring, 0, false);
    struct bench_check check;
    bench_check_begin(&check, job);
    while (check.remaining) {
        uint64_t sequence;
        uint64_t sum = bench_read(spsc_next(&side, slot_bytes), payload_bytes, &sequence);
        bench_check_note(&check, sequence, sum);
        spsc_done(&side);
    }
    outcome->end = bench_ticks();
    spsc_close(&side);
    bench_check_end(&check, outcome);
}

/* One loop for each slot size and usual payload, so that sizes are constants in it. */
#define SPECIALISE(loop)                                                                           \
    void bench_spsc_##loop(const struct bench_spsc *ring, const struct bench_job *job,             \
                           struct bench_outcome *outcome)                                          \
    {                                                                                              \
        if (ring->slot_bytes == 64 && job->payload_bytes == 8)                                     \
            loop(ring, 64, 8, job, outcome);                                                       \
        else if (ring->slot_bytes == 64 && job->payload_bytes == 40)                               \
            loop(ring, 64, 40, job, outcome);                                                      \
        else if (ring->slot_bytes == 64 && job->payload_bytes == 64)                               \
            loop(ring, 64, 64, job, outcome);                                                      \
        else if (ring->slot_bytes == 128 && job->payload_bytes == 40)                              \
            loop(ring, 128, 40, job, outcome);                                                     \
        else if (ring->slot_bytes == 128 && job->payload_bytes == 64)                              \
            loop(ring, 128, 64, job, outcome);                                                     \
        else                                                                                       \
            loop(ring, ring->slot_bytes, job->payload_bytes, job, outcome);                        \
    }
SPECIALISE(ping)
SPECIALISE(pong)
SPECIALISE(send)
SPECIALISE(receive)
