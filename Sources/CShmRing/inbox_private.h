/* What inbox.c and watch.c share. */
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

/* Decides whether the next take may look at one slot alone. */
void shmring_inbox_choose_path(struct shmring_inbox *inbox);

/* Forgets what is done with. Not while ready entries refer to watches. */
void shmring_watches_compact(struct shmring_inbox *inbox);
/* Reads everything that is watched, for the look that has begun. */
void shmring_watches_read(struct shmring_inbox *inbox);
/* Reads again what the look waits for. True when nothing is pending any more. */
bool shmring_watches_settle(struct shmring_inbox *inbox);
/* Whether the look waits for something that is watched. */
bool shmring_watches_pending(const struct shmring_inbox *inbox);
/* Appends what happened before t0 to the ready entries, which have room; marks the rest as the next
 * look's. */
void shmring_watches_gather(struct shmring_inbox *inbox);
/* After a look was thrown away. */
void shmring_watches_reset(struct shmring_inbox *inbox);
