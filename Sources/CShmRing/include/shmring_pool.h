/*
 * shmring_pool.h - payload memory: segments cut into slices, lent to receivers and given back.
 *
 * A pool belongs to one lane of a sender and serves one trust domain. It is private: what a
 * receiver shares with it are the segments (read-only there) and one return board for each link.
 *
 *     loan a slice -> fill it in place -> lend it on one link or several -> send the references
 *     -> end the loan.   The slice is free when every lend has come back and the loan has ended.
 *
 * Guarantees:
 *   1. Loan, lend, end and collect use no lock, and once warm neither allocation nor system call,
 *      whatever the size of the slice.
 *   2. Only the pool's own ledger decides what is free. A hostile board can give back early what
 *      was lent on its own link, and nothing else.
 *   3. Memory is charged against the quota and reserved before a byte of it is touched: a refusal
 *      is a result, never SIGBUS.
 *   4. Free slices are reused oldest first, and not before warm_bytes of their class are in flight:
 *      memory that has left this core's cache is handed over several times faster.
 *   5. Idle segments go back to the kernel (shmring_pool_trim).
 *
 * NOTE - one thread at a time uses a pool. Holding and giving back are the receiver's: one thread
 * holds, any thread gives back. A pool serves exactly one trust domain: who maps a segment reads
 * all of it.
 */
#pragma once

#include "shmring_atomics.h"
#include "shmring_layout.h"
#include "shmring_segment.h"

#define SHMRING_SLICE_BYTES_MIN 256u
#define SHMRING_SLICE_BYTES_MAX (UINT64_C(1) << 46)

/* A segment number: generation:12 | lane:6 | index:14. Never 0. */
#define SHMRING_SEGMENT_INDEX_BITS 14
#define SHMRING_SEGMENT_LANE_BITS 6
#define SHMRING_SEGMENTS_MAX (1u << SHMRING_SEGMENT_INDEX_BITS) /* of one pool at a time */
#define SHMRING_SEGMENT_INDEX(number) ((number) & (SHMRING_SEGMENTS_MAX - 1))
#define SHMRING_SEGMENT_LANE(number) \
    ((number) >> SHMRING_SEGMENT_INDEX_BITS & ((1u << SHMRING_SEGMENT_LANE_BITS) - 1))

struct shmring_pool;
struct shmring_pool_record;
struct shmring_view;
struct shmring_view_segment;

/* ---- sender: the pool ----------------------------------------------------------------------- */

struct shmring_pool_options {
    uint64_t quota_bytes;      /* of all segments together */
    uint64_t warm_bytes;       /* of each class from 64 KiB on; 0: 4 MiB */
    uint64_t warm_small_bytes; /* of each smaller class; 0: 1 MiB */
    uint32_t lane;             /* below SHMRING_LANES_MAX: keeps lanes' segment numbers apart */
    struct shmring_placement placement; /* of each segment, which is prefaulted in any case */
};

struct shmring_pool_usage {
    uint64_t quota_bytes;
    uint64_t charged_bytes; /* of segments: reserved, in use or not */
    uint64_t used_bytes;    /* of slices: loaned or lent */
    uint64_t lends;         /* not yet back */
    uint32_t segments;
    uint32_t foreign_segments; /* of others, from which slices are being forwarded */
};

/* A loan. Plain values: the caller copies it freely, but ends it once. */
struct shmring_slice {
    void *base;              /* for filling in; of a foreign slice: read-only */
    uint64_t capacity_bytes; /* at least what was asked for */
    uint64_t offset;         /* in its segment */
    uint32_t segment;        /* its segment's number */
    uint32_t reserved;
    struct shmring_pool_record *record; /* the pool's */
};

/* Makes an empty pool: no segment before the first loan. 0, -ENOMEM or -EINVAL. */
int shmring_pool_init(const struct shmring_pool_options *options, struct shmring_pool **pool_out);
/* Unmaps and closes everything, lent or not: receivers keep what they have mapped. NULL is fine. */
void shmring_pool_deinit(struct shmring_pool *pool);

/*
 * Loans a slice of at least byte_count bytes, whose content is undefined. Looks for slices that
 * came back before it asks the kernel for more. SHMRING_E_FULL: the quota is in use; wait and try
 * again. SHMRING_E_TOO_LARGE: more than the quota. SHMRING_E_FORKED. -errno: the kernel has no
 * memory (-ENOMEM), no descriptor (-EMFILE) or no such file size (-EFBIG) for another segment.
 */
int shmring_pool_loan(struct shmring_pool *pool, uint64_t byte_count,
                      struct shmring_slice *slice_out);
/* Ends a loan, sent or not: a slice that nobody was lent is free at once. */
void shmring_pool_end(struct shmring_pool *pool, const struct shmring_slice *slice);

void shmring_pool_usage(const struct shmring_pool *pool, struct shmring_pool_usage *usage_out);

/* ---- sender: segments ----------------------------------------------------------------------- */

/* The descriptor (the pool's; to be sent, not closed) and size of a segment. -ENOENT: retired. */
int shmring_pool_segment(const struct shmring_pool *pool, uint32_t number, int *fd_out,
                         uint64_t *byte_count_out);
/* Whether the receiver at this link has been sent the segment, and the note that it has. */
bool shmring_pool_is_announced(const struct shmring_pool *pool, uint32_t link, uint32_t number);
int shmring_pool_announced(struct shmring_pool *pool, uint32_t link, uint32_t number);
/* Strikes the note. True when it was there: the receiver is to be told that it may unmap. */
bool shmring_pool_withdraw(struct shmring_pool *pool, uint32_t link, uint32_t number);

/*
 * Retires what nobody needs: a class's free segments once the class was idle for idle_ns, and of a
 * class in use those beyond its recent peak. now_ns: any clock that does not go back; to be called
 * several times each idle_ns. With idle_ns 0 every free segment goes at once. Returns how many
 * went; their memory is back when receivers have unmapped them, too.
 */
uint32_t shmring_pool_trim(struct shmring_pool *pool, uint64_t now_ns, uint64_t idle_ns);
/* Takes up to n numbers of segments retired since (by trim, or by a loan that needed room). */
uint32_t shmring_pool_take_retired(struct shmring_pool *pool, uint32_t *numbers, uint32_t n);

/* ---- sender: links and lends ---------------------------------------------------------------- */

/*
 * Adds a link: the words first_word .. first_word + word_count - 1 of its return board are this
 * pool's (lanes of one sender divide a board between them). The board stays mapped until the link
 * is removed. 0 and the link's number; -EINVAL, -ENOMEM.
 */
int shmring_pool_link_add(struct shmring_pool *pool, struct shmring_board *board,
                          uint32_t first_word, uint32_t word_count, uint32_t *link_out);
/* Takes back everything lent on a link whose receiver is dead or severed, and forgets the link.
 * Returns how many lends that were. */
uint32_t shmring_pool_link_remove(struct shmring_pool *pool, uint32_t link);

/*
 * Lends byte_count bytes (from the slice's begin) on a link and fills in the reference to send. Its
 * segment must have been announced there. SHMRING_E_FULL: all words of the link are out.
 */
int shmring_pool_lend(struct shmring_pool *pool, uint32_t link, const struct shmring_slice *slice,
                      uint64_t byte_count, struct shmring_slice_ref *ref_out);
/* Takes back a lend whose message was not sent. -ENOENT: not out, nothing is done. */
int shmring_pool_take_back(struct shmring_pool *pool, uint32_t link,
                           const struct shmring_slice_ref *ref);

/* Looks at the boards, each from its oldest lend up to the first that is still out; `all`: at every
 * lend. Returns how many lends came back. */
uint32_t shmring_pool_collect(struct shmring_pool *pool, bool all);
/* Sleeps until something may have come back or until deadline_ns (CLOCK_MONOTONIC), at most some
 * ms. SHMRING_OK: something has come back. SHMRING_E_EMPTY: nothing yet; also when nothing is out.
 * */
int shmring_pool_wait(struct shmring_pool *pool, uint64_t deadline_ns);

/* ---- receiver: the view of one sender's segments -------------------------------------------- */

/* A received slice, held until it is given back. */
struct shmring_held {
    const void *base;
    uint64_t byte_count;
    struct shmring_view_segment *segment;
    struct shmring_board *board;
    uint64_t offset;
    uint64_t lend;
    uint32_t lend_index;
    uint32_t reserved;
};

/* limit_bytes: how much of one sender's memory may be mapped here at a time. */
int shmring_view_init(uint64_t limit_bytes, struct shmring_view **view_out);
/* Unmaps what is not held; what is held is unmapped when it is given back. NULL is fine. */
void shmring_view_deinit(struct shmring_view *view);
/* Checks and maps a segment that the sender announced, and that every page of it is there. Does not
 * close fd; keeps a duplicate when keep_fd, which forwarding needs. SHMRING_E_CORRUPT: the number
 * is taken, or none. Takes the place of an earlier segment whose end was not told yet.
 * SHMRING_E_FULL: limit_bytes. Else what shmring_segment_map returns. */
int shmring_view_attach(struct shmring_view *view, uint32_t number, int fd, uint64_t byte_count,
                        bool keep_fd);
/* Forgets a segment that the sender retired. SHMRING_E_CORRUPT: unknown. One that is held against
 * the sender's word stays mapped until the last slice is given back. */
int shmring_view_detach(struct shmring_view *view, uint32_t number);
/* Turns a reference - the caller's copy - into memory. SHMRING_E_CORRUPT: it names no segment, no
 * span inside it, no word of the board or no lend number; nothing is held then. */
int shmring_view_hold(struct shmring_view *view, struct shmring_board *board,
                      const struct shmring_slice_ref *ref, struct shmring_held *held_out);
/* Gives a held slice back and empties *held. Any thread; system call only if the sender waits. The
 * board must still be mapped. */
void shmring_held_give_back(struct shmring_held *held);

/* Writes the lend number where the sender looks, and wakes the sender if it waits. */
void shmring_board_give_back(struct shmring_board *board, uint32_t lend_index, uint64_t lend);

/* ---- forwarding ----------------------------------------------------------------------------- */

/*
 * Makes a held slice a loan of this pool, to be lent to third peers without a copy; takes *held
 * over and gives it back when the last of them has. The third sees a segment of *this* sender (to
 * be announced like any other): it need not know the origin, and trusts nobody new. The segment
 * must have been attached with keep_fd. Receivers of this pool must belong to the trust domain for
 * which the origin made the slice, since they can read all of its segment.
 * On an error *held stays the caller's: -EBADF, -ENOMEM, -EMFILE.
 */
int shmring_pool_adopt(struct shmring_pool *pool, struct shmring_held *held,
                       struct shmring_slice *slice_out);
/* Whether a slice that goes back to this board is still out, or loaned. Time: linear in what was
 * adopted. */
bool shmring_pool_has_adopted(const struct shmring_pool *pool, const struct shmring_board *board);
