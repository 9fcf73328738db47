/*
 * shmring_biased.h - a lock that leans to one thread, which takes it without a locked instruction.
 *
 * Biased locking, after "Quickly Reacquirable Locks" (Dice, Moir, Scherer: US patent 7814488, 2003)
 * and the asymmetric Dekker of membarrier(2). The thread that it leans to goes in by a plain store
 * and a look at whether anybody wants to; the others come one at a time, by a lock beside it, say
 * that they want to, have the kernel put a barrier into every thread, and wait until the one is
 * out. Who comes often from elsewhere is leaned to instead; where several threads come in turn, it
 * soon leans to nobody, and is the lock beside it.
 *
 * Guarantees:
 *   1. Who is in by shmring_biased_enter, or by the lock beside it and shmring_biased_stop, is
 *      alone, and sees what those before it did.
 *   2. shmring_biased_enter and shmring_biased_leave make no barrier and no system call.
 *   3. No more than SHMRING_BIASED_STOPS barriers in the life of a lock.
 *
 * NOTE - all but enter and leave are for who holds the lock beside it.
 */
#pragma once

#include <stddef.h>

#include "shmring_gate.h"

#define SHMRING_BIASED_STOPS 64u
#define SHMRING_BIASED_PLACES 4u

/* A thread's, while the lock leans to it. */
struct shmring_bias {
    uint64_t thread;
    struct shmring_gate gate;
};

struct shmring_biased {
    uint32_t open;        /* the place of who may go in without the lock beside it; 0: nobody's */
    uint32_t place_count; /* the last one is that of the thread that it leans to */
    uint32_t stops;
    uint32_t reserved;
    uint64_t stopped_by;  /* which thread did it last, */
    uint64_t passes_seen; /* and what it saw */
    /* 1 is the first one. None serves two threads: one that it leaned to before may be about to
     * go in. */
    struct shmring_bias places[SHMRING_BIASED_PLACES];
};

/* The calling thread, as no other that runs is called. */
SHMRING_INLINE uint64_t shmring_thread_pointer(void)
{
    uint64_t pointer;
#if defined(__x86_64__)
    __asm__("mov %%fs:0, %0" : "=r"(pointer)); /* it points to itself, by the ABI */
#elif defined(__aarch64__)
    __asm__("mrs %0, tpidr_el0" : "=r"(pointer));
#else
#error "where is the thread pointer?"
#endif
    return pointer;
}

/* Nothing else refers to it yet. */
void shmring_biased_init(struct shmring_biased *lock);

/* The place through which the caller is in. NULL: it is not, and comes by the lock beside it and
 * shmring_biased_stop. */
SHMRING_INLINE struct shmring_bias *shmring_biased_enter(struct shmring_biased *lock)
{
    /* SYNC G5 acquire, pairs with G6 in shmring_biased_go_on: the place names its thread. */
    uint32_t open = shmring_load_acquire_u32(&lock->open);
    if (open == 0)
        return NULL;
    struct shmring_bias *place = &lock->places[open - 1];
    if (place->thread != shmring_thread_pointer())
        return NULL;
    shmring_gate_enter(&place->gate);
    /* SYNC G5, once more: what was done by who wanted in comes before what is done here. */
    if (shmring_likely(shmring_load_acquire_u32(&lock->open) == open))
        return place;
    shmring_gate_leave(&place->gate);
    return NULL;
}

SHMRING_INLINE void shmring_biased_leave(struct shmring_bias *place)
{
    shmring_gate_leave(&place->gate);
}

/* Until shmring_biased_go_on nobody is in but the caller. Waits for who is in. */
void shmring_biased_stop(struct shmring_biased *lock);
void shmring_biased_go_on(struct shmring_biased *lock);
