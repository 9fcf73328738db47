#include "shmring_newcomers.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shmring_inbox.h"

#define NS_PER_S UINT64_C(1000000000)

void shmring_newcomers_count(const struct shmring_mapping *outbox)
{
    struct shmring_outbox *shared = outbox->base;
    /* SYNC B10 acq_rel, pairs with N11 in shmring_newcomers_counted: counted before the newcomer is
     * told through the kernel. If it still reads a word of the owner's as it was before, its owner,
     * who made the word pending and then reads the count (N7), reads this one. */
    (void)shmring_fetch_add_acq_rel(&shared->given, 1);
}

void shmring_newcomers_set(const struct shmring_mapping *outbox, uint64_t count)
{
    struct shmring_outbox *shared = outbox->base;
    /* Relaxed: who counted before is gone, and the next one is told through the kernel. */
    shmring_store_relaxed(&shared->given, count);
}

void shmring_newcomers_flag(const struct shmring_mapping *ring, uint64_t flag, int32_t event_fd)
{
    const struct shmring_consumer consumer = {.control = ring->base};
    shmring_consumer_flag(&consumer, flag);
    /* SYNC D1 full barrier, as in shmring_producer_finish: the flag before `parked`. */
    shmring_fence_full();
    shmring_consumer_wake(&consumer, event_fd);
}

void shmring_newcomers_answer(const struct shmring_mapping *outbox, uint32_t number)
{
    struct shmring_outbox *shared = outbox->base;
    /* SYNC B11 release, pairs with N12 in shmring_newcomers_wait: behind the flags, so that they
     * are set before the owner reads its stamp. */
    shmring_store_release_u32(&shared->flagged, number);
    (void)syscall(SYS_futex, &shared->flagged, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

uint64_t shmring_newcomers_counted(const struct shmring_outbox *outbox)
{
    /* SYNC N11 acquire, pairs with B10: behind N7. */
    return shmring_load_acquire(&outbox->given);
}

bool shmring_newcomers_wait(const struct shmring_outbox *outbox, uint32_t number,
                            uint64_t deadline_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(deadline_ns / NS_PER_S),
                                   .tv_nsec = (long)(deadline_ns % NS_PER_S)};
    for (;;) {
        /* SYNC N12 acquire, pairs with B11. */
        uint32_t seen = shmring_load_acquire_u32(&outbox->flagged);
        if (seen == number)
            return true;
        struct timespec now;
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        if ((uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec >= deadline_ns)
            return false;
        (void)syscall(SYS_futex, &outbox->flagged, FUTEX_WAIT_BITSET, seen, &until, NULL,
                      FUTEX_BITSET_MATCH_ANY);
    }
}
