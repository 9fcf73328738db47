/*
 * shmring_arena.h - private cells into which messages are copied, and which outlive the receiver.
 *
 * Guarantees:
 *   1. One thread takes; any thread gives back, in any order, without a lock.
 *   2. As long as one message lives at a time, two cells take turns: their lines stay in the first
 *      cache.
 *   3. Closing an arena frees it at once, or with the last cell given back.
 */
#pragma once

#include "shmring_credit.h"
#include "shmring_inbox.h"
#include "shmring_pool.h"

struct shmring_arena;

enum shmring_cell_state {
    SHMRING_CELL_FREE = 0,
    SHMRING_CELL_KEPT = 1,
    SHMRING_CELL_ORPHAN = 2, /* its arena was closed */
    SHMRING_CELL_HOLDER = 3, /* its receiver is closed, and lives until this is given back */
};

#define SHMRING_CELL_ITEMS 4u

/* What came with a message beside its payload, where that is little: for the layer above. */
struct shmring_cell_few {
    uint32_t count; /* 0: nothing of this kind, or it was given back */
    uint32_t marks;
    uint64_t items[SHMRING_CELL_ITEMS];
    void *owner, *link;
    struct shmring_allowance *allowance; /* and its board: what it was charged */
    struct shmring_board *board;
};

/* A message and what the layer above knows of it. */
struct shmring_cell {
    uint32_t state;       /* enum shmring_cell_state */
    uint32_t uid;         /* of the sender, as the kernel vouched */
    int32_t pid;
    uint32_t reserved;
    uint64_t node, tag;   /* which node it came for */
    const void *payload;  /* the message's own body, or a slice */
    uint64_t byte_count;
    struct shmring_arena *arena;
    void (*give_back)(struct shmring_cell *cell); /* of a slice; NULL for a body */
    void *owner;                                  /* for give_back */
    struct shmring_held held;                     /* for give_back */
    void *attachments;                            /* for give_back: what came with the payload */
    void (*give_back_payload)(struct shmring_cell *cell); /* for give_back: of a slice */
    struct shmring_cell_few few;                  /* for give_back, as well */
    struct shmring_message message;               /* its body follows: last */
};

struct shmring_arena {
    struct shmring_cell *current; /* free: take fills this one */
    struct shmring_cell *spare;   /* another one, free as long as one message lives at a time */
    uint8_t **chunks;
    uint32_t chunk_count, cell_bytes;
    uint32_t chunk, index; /* of current */
    uint32_t orphans;      /* after close: cells not given back yet */
    void *receiver;        /* of those that hold it; let_go takes it */
    void (*let_go)(void *receiver);
};

SHMRING_INLINE struct shmring_message *shmring_cell_message(struct shmring_cell *cell)
{
    return &cell->message;
}

/* Cells with room for body_bytes. NULL: no memory. */
struct shmring_arena *shmring_arena_create(uint32_t body_bytes);
/* No cell is taken any more. Frees the arena, now or when the last cell is given back. */
void shmring_arena_close(struct shmring_arena *arena);
/* Cells with `few` need their receiver, which nobody counts for each: it is there as long as it
 * takes messages. Now it takes none any more: for each such cell that is out `hold` is called, and
 * `let_go` when that is given back. Only the thread that takes; once. */
void shmring_arena_hold(struct shmring_arena *arena, void *receiver, void (*hold)(void *receiver),
                        void (*let_go)(void *receiver));
/* A cell with `few` that came by this link is out. Only the thread that takes. */
bool shmring_arena_needs(struct shmring_arena *arena, const void *link);
/* As shmring_arena_keep, where the spare cell is not free. */
int shmring_arena_keep_slow(struct shmring_arena *arena);

/* The current cell holds a message from now on; finds or makes another current one. -ENOMEM: the
 * current cell is as it was. */
SHMRING_INLINE int shmring_arena_keep(struct shmring_arena *arena)
{
    struct shmring_cell *kept = arena->current, *next = arena->spare;
    /* SYNC A3 acquire, pairs with A2: the giver has read its last of the cell. */
    if (shmring_unlikely(shmring_load_acquire_u32(&next->state) != SHMRING_CELL_FREE))
        return shmring_arena_keep_slow(arena);
    /* Relaxed: the giver gets the cell by way of this thread. */
    shmring_store_relaxed_u32(&kept->state, SHMRING_CELL_KEPT);
    arena->current = next;
    arena->spare = kept;
    return SHMRING_OK;
}
/* The cell's message came for this node, from this account; its payload is its own body. */
SHMRING_INLINE void shmring_cell_fill(struct shmring_cell *cell, uint64_t node, uint64_t tag,
                                      uint32_t uid, int32_t pid)
{
    cell->node = node;
    cell->tag = tag;
    cell->uid = uid;
    cell->pid = pid;
    cell->payload = cell->message.body;
    cell->byte_count = cell->message.length;
}

/* A cell that was given back was no ordinary one. */
void shmring_arena_given_back(struct shmring_arena *arena, uint32_t state);

/* All that `few` refers to has been given back. */
SHMRING_INLINE void shmring_cell_few_end(struct shmring_cell *cell)
{
    /* SYNC A6 release, pairs with A7 in shmring_arena_needs: the link was used before. */
    shmring_store_release_u32(&cell->few.count, 0);
}

/* Gives a cell back, and the slice that it refers to. Any thread. */
SHMRING_INLINE void shmring_cell_give_back(struct shmring_cell *cell)
{
    struct shmring_arena *arena = cell->arena;
    if (shmring_unlikely(cell->give_back != NULL)) {
        cell->give_back(cell);
        cell->give_back = NULL;
    }
    /* SYNC A2 acq_rel, pairs with A3 and A1: who finds the cell free may write it. */
    uint32_t state = shmring_exchange_acq_rel_u32(&cell->state, SHMRING_CELL_FREE);
    if (shmring_unlikely(state >= SHMRING_CELL_ORPHAN))
        shmring_arena_given_back(arena, state);
}
