/*
 * shmring_gate.h - whether a thread is inside of something.
 *
 * A thread goes through its gate with two plain stores to a line of its own. Whoever wants to take
 * something away that the thread could have found there takes it out of sight first, makes every
 * thread of the process see that (shmring_gate_barrier), and then looks at the gates: who is
 * outside comes in later and does not find it any more; who is inside is waited for.
 *
 * Guarantees:
 *   1. After a barrier that succeeded, a gate that is found open, or that has changed since it was
 *      found closed, is that of a thread that uses nothing taken out of sight before the barrier.
 *   2. Going through costs no barrier and no system call; a barrier is one system call.
 *
 * NOTE - one thread at a time goes through a gate.
 */
#pragma once

#include "shmring_atomics.h"

struct shmring_gate {
    uint64_t passes; /* odd: inside */
};

SHMRING_INLINE void shmring_gate_enter(struct shmring_gate *gate)
{
    /* Relaxed: own. SYNC G1 relaxed store, pairs with G2: the barrier there stands in for one here,
     * which each send would pay for. */
    shmring_store_relaxed(&gate->passes, shmring_load_relaxed(&gate->passes) + 1);
    __asm__ volatile("" ::: "memory"); /* the compiler must not do it for the processor */
}

SHMRING_INLINE void shmring_gate_leave(struct shmring_gate *gate)
{
    /* SYNC G3 release, pairs with G4 in shmring_gate_passes: what was done inside comes before what
     * is done to it by whoever finds the gate open. Relaxed load: own. */
    shmring_store_release(&gate->passes, shmring_load_relaxed(&gate->passes) + 1);
}

/* Odd: its thread is inside. After a barrier. */
SHMRING_INLINE uint64_t shmring_gate_passes(const struct shmring_gate *gate)
{
    return shmring_load_acquire(&gate->passes); /* SYNC G4 acquire, pairs with G3 */
}

/* Before the first gate is gone through. 0; -errno where the kernel has no such barrier: then no
 * barrier will succeed. */
int shmring_gate_prepare(void);
/* Everything that this thread has stored is seen by what any other thread of the process loads from
 * now on; what they had stored before is seen here. 0, or -errno. */
int shmring_gate_barrier(void);
