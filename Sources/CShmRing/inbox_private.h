/* What the files of the inbox share. Which does what:
 *
 *     inbox.c         an inbox, its rings, and the path by which it takes
 *     inbox_take.c    delivery: in place, or from what a look has put in order
 *     inbox_look.c    the look: reads everything, waits for what is pending
 *     inbox_order.c   puts what a look has found in order
 *     inbox_stall.c   says for what a look has waited too long
 *     watch.c         words and deaths that have a place in the order
 */
#pragma once

#include "CShmRing.h"

/* In a ready entry's index: which table it is of. */
#define READY_RETIRED UINT32_C(0x80000000)
#define READY_WATCH UINT32_C(0x40000000)

/* inbox->unsettled */
#define UNSETTLED_LOOK UINT32_C(1) /* no slot is delivered in place before the next look */
#define UNSETTLED_ANEW UINT32_C(2) /* the look under way does not know it: begin another one */

enum watch_state {
    WATCH_OPEN = 0,     /* has not happened, as far as anybody knows */
    WATCH_PENDING = 1,  /* the look under way waits for it */
    WATCH_HAPPENED = 2, /* has a stamp */
    WATCH_LATER = 3,    /* the next look's */
    WATCH_DONE = 4,     /* told, or not watched any more */
};

struct shmring_watch {
    const uint64_t *word;
    const uint64_t *commits; /* DEATH: the dead one's `dead` word */
    uint64_t cookie;
    uint64_t stamp; /* of one that has happened */
    uint64_t seen;  /* PENDING: the value of word that the look waits for; DEATH: always that */
    uint32_t commit_words;
    uint32_t owner_id;
    uint32_t kind;  /* enum shmring_watch_kind */
    uint32_t state; /* enum watch_state */
};

/* ---- one entry ------------------------------------------------------------------------------ */

SHMRING_INLINE int shmring_inbox_trouble(struct shmring_inbox *inbox, uint32_t ring,
                                         uint32_t sender, int error)
{
    inbox->trouble_ring = ring;
    inbox->trouble_sender = sender;
    return error;
}

SHMRING_INLINE struct shmring_open *shmring_inbox_open_of(struct shmring_inbox *inbox,
                                                          const struct shmring_ready *one)
{
    struct shmring_consumer *consumer = inbox->rings[one->ring];
    return (one->index & READY_RETIRED) != 0 ? &consumer->retired[one->index & ~READY_RETIRED]
                                             : &consumer->open[one->index];
}

/* What no honest process of its domain writes: the ring is to be severed. */
SHMRING_INLINE int shmring_inbox_breach(struct shmring_inbox *inbox, uint32_t ring, uint32_t sender,
                                        enum shmring_breach breach)
{
    inbox->trouble_breach = breach;
    return shmring_inbox_trouble(inbox, ring, sender, SHMRING_E_CORRUPT);
}

/* The message in hand is not to be delivered again; head stays where it is until the next call. */
SHMRING_INLINE void shmring_inbox_drop_hand(struct shmring_inbox *inbox)
{
    if (inbox->in_hand) {
        const struct shmring_ready *one = &inbox->ready[inbox->ready_first - 1];
        shmring_inbox_open_of(inbox, one)->state = SHMRING_OPEN_DONE;
    }
    inbox->in_hand = 0;
}

/* When a position was last seen unclaimed: an honest stamp is not older. 0: not known. */
SHMRING_INLINE uint64_t shmring_consumer_unclaimed(const struct shmring_consumer *consumer,
                                                   uint64_t position)
{
    if (position >= consumer->tails[0].tail)
        return consumer->tails[0].at;
    return position >= consumer->tails[1].tail ? consumer->tails[1].at : 0;
}

/* Takes note of a tail that was read behind `at`, in any case: of foreign rings only. */
SHMRING_INLINE void shmring_consumer_note_tail(struct shmring_consumer *consumer, uint64_t tail,
                                               uint64_t at)
{
    if (!consumer->foreign)
        return;
    consumer->tails[1] = consumer->tails[0];
    consumer->tails[0] = (struct shmring_tail_seen){.tail = tail, .at = at};
}

/* ---- the look ------------------------------------------------------------------------------- */

/* Reads everything; then waits (inbox->waiting), or has it in order. */
int shmring_inbox_look(struct shmring_inbox *inbox);
/* True when nothing that the look found is pending any more. */
bool shmring_inbox_settle(struct shmring_inbox *inbox);
/* The look that has begun to wait has not told anybody yet. */
void shmring_inbox_begin_to_wait(struct shmring_inbox *inbox);
/* A call of take has found the look still waiting. `now`: the clock is read in any case. */
void shmring_inbox_goes_on_waiting(struct shmring_inbox *inbox, bool now);
/* Puts what happened before t0 in order, once the look is settled. */
int shmring_inbox_gather(struct shmring_inbox *inbox);
/* Room for what a look finds in this ring. -ENOMEM. */
int shmring_consumer_reserve(struct shmring_consumer *consumer);
/* Moves what is still open to the front, so that open[] never holds more than a lap. */
void shmring_consumer_compact(struct shmring_consumer *consumer);
/* Decides whether the next take may look at one slot alone. */
void shmring_inbox_choose_path(struct shmring_inbox *inbox);

/* ---- what is watched ------------------------------------------------------------------------ */

/* Forgets what is done with. Not while ready entries refer to watches. */
void shmring_watches_compact(struct shmring_inbox *inbox);
/* Reads everything that is watched, for the look that has begun. */
void shmring_watches_read(struct shmring_inbox *inbox);
/* Reads again what the look waits for. True when nothing is pending any more. */
bool shmring_watches_settle(struct shmring_inbox *inbox);
/* Whether the look waits for something that is watched. */
bool shmring_watches_pending(const struct shmring_inbox *inbox);
/* Adds what of that is no death, up to SHMRING_BLOCKERS_MAX in all; returns how many there are
 * then. */
uint32_t shmring_watches_blockers(const struct shmring_inbox *inbox,
                                  struct shmring_blocker *blockers, uint32_t count);
/* Appends what happened before t0 to the ready entries, which have room; marks the rest as the next
 * look's. */
void shmring_watches_gather(struct shmring_inbox *inbox);
/* After a look was thrown away. */
void shmring_watches_reset(struct shmring_inbox *inbox);
