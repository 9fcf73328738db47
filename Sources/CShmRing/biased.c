#include "shmring_biased.h"

#include <time.h>

#include "CShmRing.h"

/* Longer than any processor keeps a store to itself. */
#define STORES_SEEN_NS 10000000
/* Who is inside may need this processor to get out. */
#define LOOK_AGAIN_NS 50000
#define SPINS 1000u

void shmring_biased_init(struct shmring_biased *lock)
{
    *lock = (struct shmring_biased){.stops = 0};
}

static void sleep_for(long ns)
{
    struct timespec pause = {.tv_sec = 0, .tv_nsec = ns};
    (void)nanosleep(&pause, NULL);
}

static bool leans_to_nobody(const struct shmring_biased *lock)
{
    return lock->stops >= SHMRING_BIASED_STOPS;
}

static void lean_to(struct shmring_biased *lock, uint64_t thread)
{
    if (lock->place_count == SHMRING_BIASED_PLACES) {
        lock->stops = SHMRING_BIASED_STOPS;
        return;
    }
    lock->places[lock->place_count++].thread = thread;
}

/* Everybody sees that nobody may go in, and who is in is seen here. */
static void close_for_others(struct shmring_biased *lock)
{
    shmring_store_relaxed_u32(&lock->open, 0); /* Relaxed: the barrier orders it. */
    if (shmring_gate_barrier() == 0)
        return;
    /* Asked for no earlier, since it takes milliseconds in a process of several threads. */
    if (shmring_gate_prepare() == 0 && shmring_gate_barrier() == 0)
        return;
    /* The kernel has none, or a filter forbids it. */
    sleep_for(STORES_SEEN_NS);
    lock->stops = SHMRING_BIASED_STOPS;
}

void shmring_biased_stop(struct shmring_biased *lock)
{
    uint64_t self = shmring_thread_pointer();
    if (leans_to_nobody(lock))
        return;
    if (lock->place_count == 0) {
        lean_to(lock, self);
        return;
    }
    struct shmring_bias *last = &lock->places[lock->place_count - 1];
    if (last->thread == self)
        return;
    close_for_others(lock);
    uint64_t passes = shmring_gate_passes(&last->gate);
    for (uint32_t turns = 0; passes % 2 != 0; turns++) {
        if (turns < SPINS)
            shmring_pause();
        else
            sleep_for(LOOK_AGAIN_NS);
        passes = shmring_gate_passes(&last->gate);
    }
    lock->stops++;
    if (lock->stopped_by == self && lock->passes_seen == passes)
        lean_to(lock, self);
    lock->stopped_by = self;
    lock->passes_seen = passes;
}

void shmring_biased_go_on(struct shmring_biased *lock)
{
    if (leans_to_nobody(lock))
        return;
    /* SYNC G6 release, pairs with G5 in shmring_biased_enter. */
    shmring_store_release_u32(&lock->open, lock->place_count);
}
