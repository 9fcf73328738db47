#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "CShmRing.h"

#define LONGEST_SLEEP_NS UINT64_C(100000000)
#define NS_PER_S UINT64_C(1000000000)

/* ---- waiting -------------------------------------------------------------------------------- */

uint32_t shmring_bell_announce(struct shmring_bell *bell)
{
    /* SYNC Q4 acquire, pairs with Q5 in shmring_bell_ring: read before the wait is announced, so
     * that who rings for it changes what the futex compares. */
    uint32_t rings = shmring_load_acquire_u32(&bell->rings);
    shmring_store_relaxed_u32(&bell->waiters, 1); /* Relaxed: Q3 orders it. */
    /* SYNC Q3 full barrier, pairs with Q6 in shmring_bell_ring: the look that follows finds what
     * was given back, or who gives back finds the waiter. */
    shmring_fence_full();
    return rings;
}

void shmring_bell_sleep(struct shmring_bell *bell, uint32_t announced, uint64_t deadline_ns)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t until = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec + LONGEST_SLEEP_NS;
    if (deadline_ns < until)
        until = deadline_ns;
    struct timespec at = {.tv_sec = (time_t)(until / NS_PER_S),
                          .tv_nsec = (long)(until % NS_PER_S)};
    (void)syscall(SYS_futex, &bell->rings, FUTEX_WAIT_BITSET, announced, &at, NULL,
                  FUTEX_BITSET_MATCH_ANY);
}

/* What somebody may wait for is there, before a full barrier. */
static void wake_waiters(struct shmring_bell *bell)
{
    if (shmring_load_relaxed_u32(&bell->waiters) == 0) /* Relaxed: Q6 orders it. */
        return;
    shmring_store_relaxed_u32(&bell->waiters, 0); /* Relaxed: Q5 releases it. */
    /* SYNC Q5 acq_rel, pairs with Q4 in shmring_bell_announce: who reads the count before it does
     * not sleep on it; who reads it after announces itself after the 0. */
    (void)shmring_fetch_add_acq_rel_u32(&bell->rings, 1);
    (void)syscall(SYS_futex, &bell->rings, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void shmring_bell_ring(struct shmring_bell *bell)
{
    /* SYNC Q6 full barrier, pairs with Q3 in shmring_bell_announce: what was given back comes
     * before the look for who waits. */
    shmring_fence_full();
    wake_waiters(bell);
}

/* ---- sender --------------------------------------------------------------------------------- */

static void take_back(struct shmring_ring_control *control, struct shmring_board *board,
                      uint32_t kind, uint64_t amount)
{
    /* SYNC Q1 acq_rel, as in charge_one. The ring's first: a sender killed in between has charged
     * more by its board than by the ring, which gives back too much and never too little. */
    (void)shmring_fetch_add_acq_rel(&control->charged[kind], 0 - amount);
    (void)shmring_fetch_add_acq_rel(&board->charged[kind], 0 - amount);
}

/* Whether the domain has so much left, and this sender its part of it, as far as the copy knows. Of
 * what the other senders have left, one takes half at most. What was given back since makes both
 * easier: who fits by an old copy fits. */
static bool fits(const struct shmring_credit_seen *seen, uint64_t own, uint64_t charged,
                 uint64_t amount, bool *is_whole)
{
    int64_t room = (int64_t)(seen->credit - charged);
    uint64_t mine = own - seen->credited;
    *is_whole = room >= 0 && amount <= (uint64_t)room;
    return *is_whole && mine + amount <= ((uint64_t)room + mine + 1) / 2;
}

static void refresh(struct shmring_credit_seen *seen, const struct shmring_ring_control *control,
                    const struct shmring_board *board, uint32_t kind)
{
    /* SYNC Q8 acquire, pairs with Q9 in shmring_allowance_set: the credit read next is not of
     * before this limit. Otherwise the copy would pass for new, and hold more than there is. */
    seen->limit = shmring_load_acquire(&control->credit_limit[kind]);
    /* SYNC Q2 acquire, pairs with Q7 in shmring_allowance_give_back: what was given back is free
     * before it is charged again. */
    seen->credit = shmring_load_acquire(&control->credit[kind]);
    /* Relaxed: it only bounds this sender within its own domain, which is advice. */
    seen->credited = shmring_load_relaxed(&board->credited[kind]);
}

static bool charge_one(struct shmring_producer *producer, struct shmring_board *board,
                       uint32_t kind, uint64_t amount, struct shmring_shortage *shortage)
{
    struct shmring_ring_control *control = producer->control;
    struct shmring_credit_seen *seen = &producer->credit_seen[kind];
    /* Acq_rel, as Q1: the board's first, for the same reason as above. */
    uint64_t own = shmring_fetch_add_acq_rel(&board->charged[kind], amount);
    /* Relaxed: a guess, the exchange decides. */
    uint64_t charged = shmring_load_relaxed(&control->charged[kind]);
    for (;;) {
        bool is_whole;
        /* Relaxed: it says whether the copy is of this limit. Lowered just now, it is seen late, as
         * credit is that was read just before. */
        uint64_t limit = shmring_load_relaxed(&control->credit_limit[kind]);
        /* A receiver of an earlier version gives no credit, and asks for none. */
        if (limit == 0) {
            (void)shmring_fetch_add_acq_rel(&control->charged[kind], amount); /* as Q1 */
            return true;
        }
        if (limit != seen->limit || !fits(seen, own, charged, amount, &is_whole)) {
            refresh(seen, control, board, kind);
            if (!fits(seen, own, charged, amount, &is_whole)) {
                int64_t used = (int64_t)(seen->limit - (seen->credit - charged));
                *shortage = (struct shmring_shortage){.kind = kind,
                                                      .advisory = is_whole,
                                                      .used = used > 0 ? (uint64_t)used : 0,
                                                      .limit = seen->limit};
                /* SYNC Q1 acq_rel, as below. */
                (void)shmring_fetch_add_acq_rel(&board->charged[kind], 0 - amount);
                return false;
            }
        }
        /* SYNC Q1 acq_rel, pairs with itself in other senders: together they never charge more than
         * the credit. */
        if (shmring_cas_acq_rel(&control->charged[kind], &charged, charged + amount))
            return true;
    }
}

int shmring_credit_charge(struct shmring_producer *producer, struct shmring_board *board,
                          const struct shmring_amounts *amounts, struct shmring_shortage *shortage)
{
    for (uint32_t kind = 0; kind < SHMRING_CREDIT_KINDS; kind++) {
        if (amounts->of[kind] == 0 ||
            charge_one(producer, board, kind, amounts->of[kind], shortage))
            continue;
        while (kind-- > 0)
            if (amounts->of[kind] != 0)
                take_back(producer->control, board, kind, amounts->of[kind]);
        return SHMRING_E_FULL;
    }
    return SHMRING_OK;
}

void shmring_credit_take_back(struct shmring_ring_control *control, struct shmring_board *board,
                              const struct shmring_amounts *amounts)
{
    for (uint32_t kind = 0; kind < SHMRING_CREDIT_KINDS; kind++)
        if (amounts->of[kind] != 0)
            take_back(control, board, kind, amounts->of[kind]);
    /* Another sender may wait for it. */
    shmring_bell_ring(&control->credit_bell);
}

/* ---- receiver ------------------------------------------------------------------------------- */

void shmring_allowance_init(struct shmring_allowance *allowance,
                            struct shmring_ring_control *control)
{
    *allowance = (struct shmring_allowance){.control = control};
}

void shmring_allowance_set(struct shmring_allowance *allowance, uint32_t kind, uint64_t limit)
{
    struct shmring_ring_control *control = allowance->control;
    if (limit == 0)
        limit = 1;
    uint64_t difference = limit - allowance->limit[kind];
    allowance->limit[kind] = limit;
    if (limit > allowance->ceiling[kind])
        allowance->ceiling[kind] = limit;
    /* SYNC Q7 acq_rel, as in shmring_allowance_give_back. A smaller limit makes the number fall,
     * and who reads it then finds less than nothing left. */
    (void)shmring_fetch_add_acq_rel(&control->credit[kind], difference);
    /* SYNC Q9 release, pairs with Q8 in refresh: who knows this limit knows that credit. */
    shmring_store_release(&control->credit_limit[kind], limit);
    shmring_bell_ring(&control->credit_bell);
}

int shmring_allowance_receive(struct shmring_allowance *allowance, struct shmring_amounts *of_link,
                              const struct shmring_amounts *amounts)
{
    int result = SHMRING_OK;
    for (uint32_t kind = 0; kind < SHMRING_CREDIT_KINDS; kind++) {
        if (amounts->of[kind] == 0)
            continue;
        allowance->received[kind] += amounts->of[kind];
        of_link->of[kind] += amounts->of[kind];
        /* Relaxed: seen late, it makes `held` too large by what this thread has not seen given
         * back; then it asks again. */
        uint64_t held = allowance->received[kind] -
                        shmring_load_relaxed(&allowance->returned[kind]);
        if (held > allowance->ceiling[kind]) {
            /* Acq_rel, as Q7: nothing is added, but what was given back by now is seen. */
            held = allowance->received[kind] -
                   shmring_fetch_add_acq_rel(&allowance->returned[kind], 0);
            if (held > allowance->ceiling[kind])
                result = SHMRING_E_FULL;
        }
        /* All that is outstanding fits a limit that was lowered: no older one counts any more. */
        if (allowance->ceiling[kind] != allowance->limit[kind] &&
            held <= allowance->limit[kind] && /* Relaxed: who writes less than is true harms
                                               * itself. */
            (int64_t)(shmring_load_relaxed(&allowance->control->credit[kind]) -
                      shmring_load_relaxed(&allowance->control->charged[kind])) >= 0)
            allowance->ceiling[kind] = allowance->limit[kind];
    }
    return result;
}

void shmring_allowance_give_back(struct shmring_allowance *allowance, struct shmring_board *board,
                                 const struct shmring_amounts *amounts)
{
    for (uint32_t kind = 0; kind < SHMRING_CREDIT_KINDS; kind++) {
        if (amounts->of[kind] == 0)
            continue;
        /* SYNC Q7 acq_rel, pairs with Q2 in charge_one: everything that the message brought is done
         * with before its credit is used again. The receiver's own number first, so that it never
         * finds more held than was allowed. */
        (void)shmring_fetch_add_acq_rel(&allowance->returned[kind], amounts->of[kind]);
        (void)shmring_fetch_add_acq_rel(&board->credited[kind], amounts->of[kind]);
        /* Full: as Q6, before the look for who waits. */
        (void)shmring_fetch_add_full(&allowance->control->credit[kind], amounts->of[kind]);
    }
    wake_waiters(&allowance->control->credit_bell);
}

void shmring_allowance_bury(struct shmring_allowance *allowance, struct shmring_board *board,
                            const struct shmring_amounts *of_link)
{
    for (uint32_t kind = 0; kind < SHMRING_CREDIT_KINDS; kind++) {
        /* Relaxed: its only writer is dead, and the broker said so. */
        uint64_t leaked = shmring_load_relaxed(&board->charged[kind]) - of_link->of[kind];
        uint64_t outstanding = shmring_allowance_outstanding(allowance, kind);
        uint64_t held = allowance->received[kind] -
                        /* Relaxed: too much held gives back too little, never too much. */
                        shmring_load_relaxed(&allowance->returned[kind]);
        uint64_t most = outstanding > held ? outstanding - held : 0;
        /* A liar gets no more than its domain has under way. */
        if ((int64_t)leaked <= 0)
            continue;
        if (leaked > most)
            leaked = most;
        /* Acq_rel, as Q7. */
        (void)shmring_fetch_add_acq_rel(&allowance->control->credit[kind], leaked);
    }
    shmring_bell_ring(&allowance->control->credit_bell);
}

uint64_t shmring_allowance_held(const struct shmring_allowance *allowance, uint32_t kind)
{
    /* Relaxed: a number to be told. */
    return allowance->received[kind] - shmring_load_relaxed(&allowance->returned[kind]);
}

uint64_t shmring_allowance_outstanding(const struct shmring_allowance *allowance, uint32_t kind)
{
    const struct shmring_ring_control *control = allowance->control;
    /* Relaxed: two numbers that others change meanwhile; the bounds below hold in any case. */
    int64_t room = (int64_t)(shmring_load_relaxed(&control->credit[kind]) -
                             shmring_load_relaxed(&control->charged[kind]));
    int64_t used = (int64_t)(allowance->limit[kind] - (uint64_t)room);
    if (used < 0)
        return 0;
    return (uint64_t)used < allowance->ceiling[kind] ? (uint64_t)used : allowance->ceiling[kind];
}
