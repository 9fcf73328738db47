/*
 * shmring_credit.h - how much a trust domain may have outstanding at one receiver, and waiting for
 * what is given back.
 *
 * A receiver gives each domain, in the control of its ring, credit of several kinds: a number that
 * only it raises. Senders of the domain charge what their messages bring against it, in a number
 * that only they raise; what may still be charged is the difference. What plain messages need, the
 * ring's slots bound: they charge nothing.
 *
 * Guarantees:
 *   1. A charge covers several kinds together: all of it, or nothing.
 *   2. Charges made at the same time never exceed the credit together.
 *   3. Giving back never fails and never blocks; who waits for credit is woken.
 *   4. What a dead sender had charged and not sent comes back (shmring_allowance_bury). A sender
 *      killed in the middle of a charge leaves too much credit behind, never too little, by that
 *      one charge.
 *
 * NOTE - a limit of 0 is none: receivers that know nothing of credit leave it so.
 *
 * NOTE - members of a domain can write anything here. The receiver counts by itself what it gets
 * (shmring_allowance_receive), and that is the boundary; who lies about `charged` takes credit from
 * its own domain, or gets caught when the messages come.
 */
#pragma once

#include "shmring_ring.h"

/* By enum shmring_credit_kind. */
struct shmring_amounts {
    uint64_t of[SHMRING_CREDIT_KINDS];
};

/* What was not there. */
struct shmring_shortage {
    uint32_t kind;
    uint32_t advisory; /* the domain has room, but this sender has its part of it */
    uint64_t used, limit;
};

SHMRING_INLINE struct shmring_amounts shmring_amounts_make(uint64_t messages, uint64_t rights,
                                                           uint64_t descriptors, uint64_t bytes)
{
    return (struct shmring_amounts){{messages, rights, descriptors, bytes}};
}

/* ---- waiting -------------------------------------------------------------------------------- */

/* Announces a wait. What is waited for must be looked for after this, and before the sleep. Returns
 * what to sleep on. */
uint32_t shmring_bell_announce(struct shmring_bell *bell);
/* Sleeps until the bell has been rung since, until deadline_ns (CLOCK_MONOTONIC), or some 100 ms,
 * since the other side may be hostile: then look again, announced anew. */
void shmring_bell_sleep(struct shmring_bell *bell, uint32_t announced, uint64_t deadline_ns);
/* Wakes who waits. After what it waits for is there. */
void shmring_bell_ring(struct shmring_bell *bell);

/* ---- sender --------------------------------------------------------------------------------- */

/*
 * Charges `amounts` for one attempt to send on a link: the receiver's ring, and the board of the
 * link. SHMRING_E_FULL: nothing is charged, *shortage says what is missing, by what the receiver
 * had written when this was called. The producer's lane.
 */
int shmring_credit_charge(struct shmring_producer *producer, struct shmring_board *board,
                          const struct shmring_amounts *amounts, struct shmring_shortage *shortage);
/* It was not sent after all. */
void shmring_credit_take_back(struct shmring_ring_control *control, struct shmring_board *board,
                              const struct shmring_amounts *amounts);

/* ---- receiver ------------------------------------------------------------------------------- */

/* What the receiver knows of one ring's charges. Private memory; `returned` is written on any
 * thread, the rest by the receiving one. */
struct shmring_allowance {
    struct shmring_ring_control *control;
    uint64_t limit[SHMRING_CREDIT_KINDS];    /* may be outstanding */
    uint64_t ceiling[SHMRING_CREDIT_KINDS];  /* was allowed to be, when what comes now was
                                              * charged */
    uint64_t received[SHMRING_CREDIT_KINDS]; /* in all */
    uint64_t returned[SHMRING_CREDIT_KINDS]; /* in all */
};

void shmring_allowance_init(struct shmring_allowance *allowance,
                            struct shmring_ring_control *control);
/* From now on so much may be outstanding, at least 1. Less than there is: new charges fail until
 * that has fallen. */
void shmring_allowance_set(struct shmring_allowance *allowance, uint32_t kind, uint64_t limit);
/* Whether that may be outstanding as well, for certain. */
SHMRING_INLINE bool shmring_allowance_admits(const struct shmring_allowance *allowance,
                                             const struct shmring_amounts *amounts)
{
    for (uint32_t kind = 0; kind < SHMRING_CREDIT_KINDS; kind++) {
        /* Relaxed: seen late, it makes too much of what is held. */
        uint64_t held = allowance->received[kind] -
                        shmring_load_relaxed(&allowance->returned[kind]);
        if (amounts->of[kind] != 0 && held + amounts->of[kind] > allowance->limit[kind])
            return false;
    }
    return true;
}
/* Takes note of what a message brings. SHMRING_E_FULL: more than its domain may have outstanding,
 * which no honest sender sends; it is noted, and must be given back like all. */
int shmring_allowance_receive(struct shmring_allowance *allowance, struct shmring_amounts *of_link,
                              const struct shmring_amounts *amounts);
/* It is not outstanding any more. Any thread, once for each receive. */
void shmring_allowance_give_back(struct shmring_allowance *allowance, struct shmring_board *board,
                                 const struct shmring_amounts *amounts);
/* A sender is dead and all its messages have been received, `of_link` in all: what it had charged
 * beyond that comes back. Once for each link. */
void shmring_allowance_bury(struct shmring_allowance *allowance, struct shmring_board *board,
                            const struct shmring_amounts *of_link);
/* How much was received and not given back. */
uint64_t shmring_allowance_held(const struct shmring_allowance *allowance, uint32_t kind);
/* How much is outstanding: what the domain says it charged, within what it was allowed. */
uint64_t shmring_allowance_outstanding(const struct shmring_allowance *allowance, uint32_t kind);

/*
 * How much one of `users` may have outstanding of a receiver's `total`, while the others have or
 * may have `others` together: whatever it charges up to that, at least (its share + the charge) *
 * users remains.
 */
SHMRING_INLINE uint64_t shmring_credit_share(uint64_t total, uint64_t users, uint64_t others)
{
    uint64_t even = total / (2 * users);
    uint64_t left = total > others ? (total - others) / (users + 1) : 0;
    return even < left ? even : left;
}
