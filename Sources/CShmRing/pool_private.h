/*
 * pool_private.h - the ledger of a pool. Nothing of it is shared: plain loads and stores.
 *
 *     class    slices of one size: a queue of free ones, oldest first
 *     segment  a memfd, all slices of one class; carved from its begin as slices are first needed
 *     record   one slice: free (in its class's queue) or referred to by a loan and by lends
 *     link     one receiver: its board's words, each out (oldest first in a list) or free
 */
#pragma once

#include "shmring_checks.h"
#include "shmring_pool.h"

#define POOL_SMALL_CLASSES 13u /* 256 B, 512 B ... 1 MiB */
#define POOL_LARGE_EXPONENT 20u
#define POOL_CLASSES (POOL_SMALL_CLASSES + 8u * (46u - POOL_LARGE_EXPONENT))
#define POOL_FOREIGN_CLASS UINT32_MAX
#define POOL_NONE UINT32_MAX
#define POOL_WORD_NONE UINT16_MAX

struct shmring_pool_record {
    struct shmring_pool_record *next, *previous; /* in the class's queue of free slices */
    struct pool_segment *segment;
    uint64_t offset;
    uint32_t references; /* 1 for the loan, 1 for each lend; 0: free */
};

/* A slice of somebody else, forwarded. */
struct pool_foreign {
    struct shmring_pool_record record; /* first: a record of a foreign segment is one of these */
    struct shmring_held held;
};

struct pool_segment {
    struct shmring_mapping mapping; /* empty when foreign: the view has it mapped */
    int fd;
    uint32_t number;
    uint32_t class_index;
    uint32_t slice_count;
    uint32_t carved; /* slices handed out at least once */
    uint32_t used;   /* slices referred to */
    uint64_t slice_bytes;
    uint64_t byte_count;
    uint64_t idle_since_ns;              /* when foreign */
    struct shmring_view_segment *origin; /* when foreign: owns a reference, and the descriptor */
    struct pool_segment *next, *previous;      /* in its class */
    struct shmring_pool_record records[];      /* none when foreign */
};

struct pool_class {
    struct shmring_pool_record *oldest, *newest; /* free slices */
    struct pool_segment *segments;
    struct pool_segment *fresh; /* has slices not carved yet; NULL when none has */
    uint64_t segment_bytes;     /* of all segments */
    uint64_t touched_bytes;     /* of carved slices */
    uint64_t warm_bytes;        /* below that, fresh memory goes before used */
    uint64_t used_bytes, peak_bytes, last_peak_bytes;
    uint64_t uses, uses_seen; /* loans and returns */
    uint64_t idle_since_ns, window_since_ns;
};

struct pool_word {
    uint64_t lend; /* 0: free */
    struct shmring_pool_record *record;
    uint16_t next, previous; /* in the list of words that are out; next also among free ones */
};

struct pool_link {
    struct shmring_board *board; /* NULL: no such link */
    uint32_t first_word, word_count;
    struct pool_word *words; /* grows when cold */
    uint32_t words_ready;
    uint32_t out;
    uint16_t oldest, newest;           /* words that are out */
    uint16_t free_oldest, free_newest; /* words that are free */
    uint32_t next_active, previous_active;
    uint32_t *announced; /* by segment index: the number announced, or 0 */
    uint32_t announced_count;
};

struct shmring_pool {
    struct shmring_pool_options options;
    uint64_t charged_bytes, used_bytes;
    uint64_t next_lend;
    uint64_t lends_out;
    uint32_t first_active; /* links with words out */
    uint32_t wait_number;
    struct pool_link *links;
    uint32_t link_count;
    uint32_t segment_count, foreign_count;
    struct pool_segment **segments; /* by index; NULL where free */
    uint16_t *generations;
    uint32_t segment_limit; /* length of both */
    uint32_t retired_count, retired_limit;
    uint32_t *retired;
    struct pool_segment *foreign_segments;
    struct shmring_pool_record *foreign_records;
    struct pool_class classes[POOL_CLASSES];
};

/* pool_class.c */
uint32_t pool_class_of(uint64_t byte_count);
uint64_t pool_class_slice_bytes(uint32_t class_index);
uint64_t pool_class_segment_bytes(uint32_t class_index);
uint64_t pool_class_warm_bytes(const struct shmring_pool *pool, uint32_t class_index);
/* A free slice of at least byte_count bytes, oldest first. NULL when there is none. */
struct shmring_pool_record *pool_class_take(struct pool_class *class, uint64_t byte_count);
/* Takes the next slice never used. NULL when there is none. */
struct shmring_pool_record *pool_class_carve(struct pool_class *class, uint64_t byte_count);
void pool_class_put(struct pool_class *class, struct shmring_pool_record *record);
void pool_class_remove(struct pool_class *class, struct shmring_pool_record *record);

/* pool_segment.c */
int pool_segment_add(struct shmring_pool *pool, uint32_t class_index, uint64_t byte_count);
/* Retires free segments, of any class, until another byte_count bytes fit into the quota. */
bool pool_segment_make_room(struct shmring_pool *pool, uint64_t byte_count);
/* A place for another segment in the tables: -ENOMEM, -ENFILE, or 0 and the number. */
int pool_segment_enter(struct shmring_pool *pool, struct pool_segment *segment);
void pool_segment_destroy(struct pool_segment *segment);
struct pool_segment *pool_segment_find(const struct shmring_pool *pool, uint32_t number);
/* Unmaps, closes, and puts its number on the list. False when that list could not grow. */
bool pool_segment_retire(struct shmring_pool *pool, struct pool_segment *segment);

/* pool.c: one reference less; frees the slice with the last. */
void pool_record_drop(struct shmring_pool *pool, struct shmring_pool_record *record);

/* pool_foreign.c */
void pool_foreign_free(struct shmring_pool *pool, struct shmring_pool_record *record);
uint32_t pool_foreign_trim(struct shmring_pool *pool, uint64_t now_ns, uint64_t idle_ns);

/* pool_view.c: what forwarding needs of an attached segment. */
void shmring_view_segment_keep(struct shmring_view_segment *segment);
void shmring_view_segment_drop(struct shmring_view_segment *segment);
int shmring_view_segment_fd(const struct shmring_view_segment *segment);
uint64_t shmring_view_segment_bytes(const struct shmring_view_segment *segment);
