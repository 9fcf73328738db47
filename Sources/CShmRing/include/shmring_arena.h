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

#include "shmring_inbox.h"

struct shmring_arena;

/* A message and what the layer above knows of it. */
struct shmring_cell {
    uint32_t state;       /* enum in arena.c */
    uint32_t uid;         /* of the sender, as the kernel vouched */
    int32_t pid;
    uint32_t reserved;
    uint64_t node, tag;   /* which node it came for */
    const void *payload;  /* the message's own body, or a slice */
    uint64_t byte_count;
    struct shmring_arena *arena;
    void (*give_back)(struct shmring_cell *cell); /* of a slice; NULL for a body */
    void *owner;                                  /* for give_back */
    struct shmring_slice_ref slice;               /* for give_back */
    struct shmring_message message;               /* its body follows: last */
};

struct shmring_arena {
    struct shmring_cell *current; /* free: take fills this one */
    uint8_t **chunks;
    uint32_t chunk_count, cell_bytes;
    uint32_t chunk, index; /* of current */
    uint32_t orphans;      /* after close: cells not given back yet */
};

/* Cells with room for body_bytes. NULL: no memory. */
struct shmring_arena *shmring_arena_create(uint32_t body_bytes);
/* No cell is taken any more. Frees the arena, now or when the last cell is given back. */
void shmring_arena_close(struct shmring_arena *arena);
/* The current cell holds a message from now on; finds or makes another current one. -ENOMEM: the
 * current cell is as it was. */
int shmring_arena_keep(struct shmring_arena *arena);
/* Gives a cell back, and the slice that it refers to. Any thread. */
void shmring_cell_give_back(struct shmring_cell *cell);
