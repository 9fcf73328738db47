#include <errno.h>
#include <stdlib.h>

#include "CShmRing.h"

#define CELLS_PER_CHUNK 16u

static struct shmring_cell *cell_at(const struct shmring_arena *arena, uint32_t chunk,
                                    uint32_t index)
{
    return (struct shmring_cell *)(void *)(arena->chunks[chunk] +
                                           (size_t)index * arena->cell_bytes);
}

static int add_chunk(struct shmring_arena *arena)
{
    uint8_t *chunk = NULL;
    if (posix_memalign((void **)&chunk, SHMRING_LINE_BYTES,
                       (size_t)CELLS_PER_CHUNK * arena->cell_bytes))
        return -ENOMEM;
    uint8_t **chunks = realloc(arena->chunks, (arena->chunk_count + 1) * sizeof *chunks);
    if (chunks == NULL) {
        free(chunk);
        return -ENOMEM;
    }
    memset(chunk, 0, (size_t)CELLS_PER_CHUNK * arena->cell_bytes);
    arena->chunks = chunks;
    arena->chunks[arena->chunk_count++] = chunk;
    for (uint32_t i = 0; i < CELLS_PER_CHUNK; i++)
        cell_at(arena, arena->chunk_count - 1, i)->arena = arena;
    return SHMRING_OK;
}

struct shmring_arena *shmring_arena_create(uint32_t body_bytes)
{
    struct shmring_arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL)
        return NULL;
    uint32_t bytes = (uint32_t)sizeof(struct shmring_cell) + body_bytes;
    arena->cell_bytes = (bytes + SHMRING_LINE_BYTES - 1) / SHMRING_LINE_BYTES * SHMRING_LINE_BYTES;
    if (add_chunk(arena)) {
        free(arena);
        return NULL;
    }
    arena->current = cell_at(arena, 0, 0);
    arena->spare = cell_at(arena, 0, 1);
    return arena;
}

static void destroy(struct shmring_arena *arena)
{
    for (uint32_t i = 0; i < arena->chunk_count; i++)
        free(arena->chunks[i]);
    free(arena->chunks);
    free(arena);
}

void shmring_arena_close(struct shmring_arena *arena)
{
    /* SYNC A4 release, pairs with A5: the count is there before a giver learns from A1 that its
     * cell is an orphan. One more than there are, so that none frees the arena before all are
     * counted. */
    shmring_store_release_u32(&arena->orphans, CELLS_PER_CHUNK * arena->chunk_count + 1);
    uint32_t not_out = 1;
    for (uint32_t c = 0; c < arena->chunk_count; c++)
        for (uint32_t i = 0; i < CELLS_PER_CHUNK; i++)
            /* SYNC A1 acq_rel, pairs with A2: a cell is either free now, or whoever gives it back
             * learns that it is an orphan. */
            if (shmring_exchange_acq_rel_u32(&cell_at(arena, c, i)->state, SHMRING_CELL_ORPHAN) !=
                SHMRING_CELL_KEPT)
                not_out++;
    /* SYNC A5 acq_rel, as in free_orphan. */
    if (shmring_fetch_add_acq_rel_u32(&arena->orphans, 0u - not_out) == not_out)
        destroy(arena);
}

int shmring_arena_keep_slow(struct shmring_arena *arena)
{
    struct shmring_cell *kept = arena->current;
    uint32_t chunk = arena->chunk, index = arena->index;
    for (uint32_t tries = 0; tries < CELLS_PER_CHUNK * arena->chunk_count; tries++) {
        if (++index == CELLS_PER_CHUNK) {
            index = 0;
            chunk = (chunk + 1) % arena->chunk_count;
        }
        struct shmring_cell *cell = cell_at(arena, chunk, index);
        /* SYNC A3 acquire, as in shmring_arena_keep. */
        if (cell != kept && shmring_load_acquire_u32(&cell->state) == SHMRING_CELL_FREE) {
            /* Relaxed: whoever gives it back was handed it after this. */
            shmring_store_relaxed_u32(&kept->state, SHMRING_CELL_KEPT);
            arena->current = cell;
            arena->spare = kept;
            arena->chunk = chunk;
            arena->index = index;
            return SHMRING_OK;
        }
    }
    if (add_chunk(arena))
        return -ENOMEM;
    shmring_store_relaxed_u32(&kept->state, SHMRING_CELL_KEPT); /* Relaxed, as above. */
    arena->chunk = arena->chunk_count - 1;
    arena->index = 0;
    arena->current = cell_at(arena, arena->chunk, 0);
    arena->spare = kept;
    return SHMRING_OK;
}

static void free_orphan(struct shmring_arena *arena)
{
    /* SYNC A5 acq_rel, pairs with itself in other givers: who brings the count to 0 comes after the
     * last use of every cell, and frees them. */
    if (shmring_fetch_add_acq_rel_u32(&arena->orphans, UINT32_MAX) == 1)
        destroy(arena);
}

void shmring_arena_given_back(struct shmring_arena *arena, uint32_t state)
{
    if (state == SHMRING_CELL_ORPHAN)
        free_orphan(arena);
    else
        arena->let_go(arena->receiver);
}

void shmring_arena_hold(struct shmring_arena *arena, void *receiver, void (*hold)(void *receiver),
                        void (*let_go)(void *receiver))
{
    arena->receiver = receiver;
    arena->let_go = let_go;
    for (uint32_t c = 0; c < arena->chunk_count; c++) {
        for (uint32_t i = 0; i < CELLS_PER_CHUNK; i++) {
            struct shmring_cell *cell = cell_at(arena, c, i);
            /* Relaxed: ended meanwhile it needs nobody, and is not harmed by holding. */
            if (shmring_load_relaxed_u32(&cell->few.count) == 0)
                continue;
            hold(receiver);
            uint32_t kept = SHMRING_CELL_KEPT;
            /* SYNC A1 acq_rel, as in shmring_arena_close: it is free now, or its giver learns that
             * it holds the receiver. */
            if (!shmring_cas_acq_rel_u32(&cell->state, &kept, SHMRING_CELL_HOLDER))
                let_go(receiver);
        }
    }
}

bool shmring_arena_needs(struct shmring_arena *arena, const void *link)
{
    for (uint32_t c = 0; c < arena->chunk_count; c++) {
        for (uint32_t i = 0; i < CELLS_PER_CHUNK; i++) {
            const struct shmring_cell *cell = cell_at(arena, c, i);
            /* SYNC A7 acquire, pairs with A6 in shmring_cell_few_end. */
            if (cell->few.link == link && shmring_load_acquire_u32(&cell->few.count) != 0)
                return true;
        }
    }
    return false;
}
