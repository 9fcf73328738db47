/*
 * pool_wait.c - giving back, and waiting for it.
 *
 * The waiters word holds the number of a wait, not a flag. The receiver wakes first and then swaps
 * that number to 0: a receiver killed in between leaves the number standing, so that the next give
 * back wakes again, and one that is late cannot strike out a younger wait.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "pool_private.h"
#include "shmring_faults.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define POOL_WAITS 64u /* boards waited for at once; the others are looked at every ms */
#define LONGEST_WAIT_NS UINT64_C(20000000)
#define POLL_NS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

/* As <linux/futex.h> has it from 5.16 on; older headers lack it. */
struct pool_waitv {
    uint64_t value, address;
    uint32_t flags, reserved;
};
#define POOL_WAITV_U32 2u

void shmring_board_give_back(struct shmring_board *board, uint32_t lend_index, uint64_t lend)
{
    if (shmring_unlikely(lend_index >= SHMRING_LENDS || shmring_forked()))
        return;
    SHMRING_FAULT(BACK_READ);
    /* SYNC P1 full barrier, pairs with P2 in collect_link and P4 in shmring_pool_wait. Publishes
     * that the slice has been read, and puts this store before the load of waiters: either the
     * sender's second look finds the lend, or the load finds the sender waiting. Without it both
     * miss. */
    (void)shmring_exchange_full(&board->lend[lend_index], lend);
    SHMRING_FAULT(BACK_GIVEN);
    uint32_t wait = shmring_load_relaxed_u32(&board->waiters);
    if (shmring_likely(wait == 0))
        return;
    /* SYNC P5 acq_rel, pairs with P6 in shmring_pool_wait: the futex compares this word, so a
     * sender that has read it and is about to sleep does not. */
    (void)shmring_fetch_add_acq_rel_u32(&board->returned, 1);
    (void)syscall(SYS_futex, &board->returned, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    /* SYNC P7 acq_rel, pairs with P3 in shmring_pool_wait: strikes out this wait only, and only
     * when it has been woken. */
    (void)shmring_cas_acq_rel_u32(&board->waiters, &wait, 0);
}

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Until a word changes, a wake, a signal, or the time; which of them does not matter. */
static void sleep_on(struct pool_waitv *words, uint32_t count, uint64_t until_ns)
{
    struct timespec until = {(time_t)(until_ns / NS_PER_S), (long)(until_ns % NS_PER_S)};
    if (count > 1) {
        if (syscall(SYS_futex_waitv, words, count, 0, &until, CLOCK_MONOTONIC) >= 0 ||
            errno != ENOSYS)
            return;
        const uint64_t soon_ns = monotonic_ns() + POLL_NS;
        if (soon_ns < until_ns)
            until = (struct timespec){(time_t)(soon_ns / NS_PER_S), (long)(soon_ns % NS_PER_S)};
    }
    (void)syscall(SYS_futex, words[0].address, FUTEX_WAIT_BITSET, (uint32_t)words[0].value, &until,
                  NULL, FUTEX_BITSET_MATCH_ANY);
}

int shmring_pool_wait(struct shmring_pool *pool, uint64_t deadline_ns)
{
    if (shmring_forked())
        return SHMRING_E_FORKED;
    if (shmring_pool_collect(pool, true) != 0)
        return SHMRING_OK;
    struct pool_waitv words[POOL_WAITS];
    uint32_t count = 0;
    bool more = false;
    pool->wait_number++;
    for (uint32_t i = pool->first_active; i != POOL_NONE; i = pool->links[i].next_active) {
        struct pool_link *link = &pool->links[i];
        if (count == POOL_WAITS) {
            more = true;
            break;
        }
        /* SYNC P6 acquire, pairs with P5 in shmring_board_give_back: read before the wait is
         * announced, so that who wakes it changes what the futex compares. */
        const uint32_t value = shmring_load_acquire_u32(&link->board->returned);
        words[count++] = (struct pool_waitv){
            .value = value,
            .address = (uint64_t)(uintptr_t)&link->board->returned,
            .flags = POOL_WAITV_U32,
        };
        /* SYNC P3 relaxed (ordered by P4), pairs with P1 and P7 in shmring_board_give_back. Lanes
         * that share a board have different first words: their numbers never agree. */
        shmring_store_relaxed_u32(&link->board->waiters,
                                  pool->wait_number * 512u + link->first_word + 1);
    }
    if (count == 0)
        return SHMRING_E_EMPTY;
    /* SYNC P4 full barrier, pairs with P1 in shmring_board_give_back: see there. */
    shmring_fence_full();
    if (shmring_pool_collect(pool, true) != 0)
        return SHMRING_OK;
    const uint64_t now_ns = monotonic_ns();
    if (now_ns >= deadline_ns)
        return SHMRING_E_EMPTY;
    /* Bounded, because a hostile receiver may never wake anybody. */
    uint64_t until_ns = now_ns + (more ? POLL_NS : LONGEST_WAIT_NS);
    if (until_ns > deadline_ns)
        until_ns = deadline_ns;
    sleep_on(words, count, until_ns);
    return shmring_pool_collect(pool, true) != 0 ? SHMRING_OK : SHMRING_E_EMPTY;
}
