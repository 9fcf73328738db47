/*
 * shmring_transaction.h - one message to each of several destinations, at one instant or not at
 * all.
 *
 * Guarantees:
 *   1. The compare-and-swap of one commit word is the instant: before it no destination delivers,
 *      after it every one does.
 *   2. A sender killed at any instruction leaves a word that reads pending; whoever is entitled to
 *      (the broker) makes it aborted, and no destination ever delivers.
 *   3. Two transactions that meet in several rings are delivered in the same order everywhere,
 *      whatever the order in which they claimed.
 *   4. Words that end with the transaction refer to its commit word before any flag is set: who
 *      finds a flag finds the words. They hold the stamp before the commit word is used again, so
 *      that a reference whose generation is gone is to be read again.
 *   5. Nobody waits for anybody while it holds a claim: no deadlock. After some failures a caller
 *      may use the last eighth of each ring (`may_use_reserve`): no starvation by single sends.
 *   6. Destinations that read nothing stop no transactions to others: each gets half as many of the
 *      commit words as are left, so that a lane has words for those who read until some fifteen
 *      others have stopped, each with all that it may hold.
 *
 * NOTE - the caller retries and backs off; this returns at once.
 */
#pragma once

#include "shmring_ring.h"

/* One destination. The caller fills in all but position. */
struct shmring_leg {
    struct shmring_producer *producer;
    const void *body;
    uint32_t grant;
    uint32_t length;   /* at most producer->body_bytes */
    uint64_t bits;     /* SHMRING_HEADER_SLICE, SHMRING_HEADER_MORE */
    uint64_t position; /* set by commit */
};

/*
 * Words of the own outbox that end at the transaction's instant: release words, and the `word` of
 * drop words. The caller owns the arrays, and sees to it that no two transactions set one word at
 * the same time.
 */
struct shmring_releases {
    uint64_t *const *words; /* made to refer to the commit word; in the end they hold the stamp, or
                             * 0 again when it comes to nothing */
    uint32_t count;
    uint64_t *counter; /* the outbox's `releases`; counted up once the words refer. May be NULL */
    /* Called when every word is pending and visible to all (a full barrier stands between): sets
     * flags wherever the words must be seen (shmring_producer_flag, shmring_consumer_flag), also
     * toward those whom shmring_ring_scan finds. Anything but 0 ends the transaction with that
     * result: nothing has happened. May be NULL. */
    int (*flag)(void *context);
    /* Called at the end of an attempt that had called `flag`, whatever became of it, behind a full
     * barrier: shmring_producer_wake for each that was flagged. May be NULL. */
    void (*wake)(void *context);
    void *context;
};

struct shmring_lane_slot; /* a slot that some commit word still answers for */

/* What one sending thread owns of the shared words, and what it remembers about them. */
struct shmring_lane {
    uint64_t *claims;      /* SHMRING_CLAIM_WORDS of the own claims segment */
    uint64_t *commits;     /* SHMRING_COMMIT_WORDS of the own outbox */
    uint32_t first_index;  /* of commits[0], counted over the whole outbox */
    uint32_t generation;
    uint64_t begun, done; /* transactions whose word is taken; whose word is free again */
    uint64_t slots_begun, slots_done; /* the same for `slots` below */
    uint64_t *ends;  /* of each transaction: slots_begun when it ended */
    uint16_t *words; /* of each transaction: its word; then those that are free */
    struct shmring_lane_slot *slots;
};

/* Lane `number` of a peer, in its mapped claims and outbox segments. -ENOMEM; SHMRING_E_CORRUPT
 * when the segments hold no such lane. */
int shmring_lane_init(struct shmring_lane *lane, const struct shmring_mapping *claims,
                      const struct shmring_mapping *outbox, uint32_t number);
void shmring_lane_deinit(struct shmring_lane *lane);
/* The claim word for single sends and batches into any ring: one is enough, they end at once. */
SHMRING_INLINE uint64_t *shmring_lane_claim_word(const struct shmring_lane *lane)
{
    return &lane->claims[0];
}
/* The destination is gone: no commit word waits for its head any more. Before the producer is
 * freed. */
void shmring_lane_forget(struct shmring_lane *lane, const struct shmring_producer *producer);

/*
 * Sends all legs, and sets all words of `releases` (may be NULL), at one stamp. SHMRING_OK;
 * SHMRING_E_FULL (*failed_leg: the destination without room, or that has not read of so many
 * transactions before that it gets no more of this lane's words; nothing has happened);
 * SHMRING_E_CORRUPT (likewise, that ring is to be severed); SHMRING_E_ABORTED (it took longer than
 * its lease: begin again); SHMRING_E_TOO_LARGE (more than SHMRING_CLAIM_WORDS legs); what
 * releases->flag returned. Time: linear in the legs and words. Never blocks, unless `flag` does.
 */
int shmring_transaction_commit(struct shmring_lane *lane, const struct shmring_clock *clock,
                               struct shmring_leg *legs, uint32_t count, bool may_use_reserve,
                               const struct shmring_releases *releases, uint64_t *stamp,
                               uint32_t *failed_leg);
