/*
 * yardstick.c - the raw cache-line ping-pong: one word that two cores pass to and fro.
 *
 * No message can make a round trip faster than the line that carries it. Nothing is timed in the
 * loop, nothing else is done in it: the caller reads the clock before and after. Its loops begin a
 * line of code each: where the linker put them, figures of two builds differed by 3 to 10 %.
 */
#include "bench_shared.h"
#include "shmring_atomics.h"

/* Writes odd numbers and waits for the even ones. */
void bench_line_ping(uint64_t *line, uint64_t count)
{
    uint64_t value = __atomic_load_n(line, __ATOMIC_RELAXED);
    for (uint64_t i = 0; i < count; i++) {
        __atomic_store_n(line, value + 1, __ATOMIC_RELEASE);
        value += 2;
        SHMRING_ALIGNED_LOOP while (__atomic_load_n(line, __ATOMIC_ACQUIRE) != value)
            ;
    }
}

/* Waits for the odd numbers and answers with even ones. */
void bench_line_pong(uint64_t *line, uint64_t count)
{
    uint64_t value = __atomic_load_n(line, __ATOMIC_RELAXED) & ~UINT64_C(1);
    for (uint64_t i = 0; i < count; i++) {
        SHMRING_ALIGNED_LOOP while (__atomic_load_n(line, __ATOMIC_ACQUIRE) != value + 1)
            ;
        value += 2;
        __atomic_store_n(line, value, __ATOMIC_RELEASE);
    }
}
