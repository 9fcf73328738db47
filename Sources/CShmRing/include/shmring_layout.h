/*
 * shmring_layout.h - every byte that two processes share, and who writes it.
 *
 *     segment       made by   sender  receiver  broker  holds
 *     ring          broker    RW      RW        -       control, resume table, slots
 *     claims        broker    RW      -         RO      the claim words of one peer's lanes
 *     outbox        broker    RW      RO        RW      attention word, commit, release, drop words
 *     return board  broker    RW      RW        -       one word for each slice lent on a link
 *     bus page      broker    RO      RO        RW      clock source, epoch, death word
 *     pool segment  sender    RW      RO        -       payloads only, no header
 *
 * Each segment but a pool's begins with a struct shmring_header, which attaching checks. Fields are
 * plain integers: _Atomic and aligned members would vanish when Swift imports them. What lies
 * within 128 bytes of a word that one side writes is written by that side only, or rarely: two
 * lines, because cores fetch lines in pairs.
 *
 * NOTE - a reader treats every byte here as hostile until it is copied and checked, except in what
 * it alone can write.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define SHMRING_LAYOUT_VERSION 2u     /* what this build writes */
#define SHMRING_LAYOUT_VERSION_MIN 2u /* the oldest it still reads */

#define SHMRING_LINE_BYTES 64u
#define SHMRING_PAD_BYTES 128u /* two lines: what keeps two writers apart */
#define SHMRING_PAGE_BYTES 4096u

#define SHMRING_MAGIC UINT64_C(0x676e69724d485342) /* "BSHMring", little-endian */

enum shmring_segment_kind {
    SHMRING_SEGMENT_RING = 1,
    SHMRING_SEGMENT_CLAIMS = 2,
    SHMRING_SEGMENT_OUTBOX = 3,
    SHMRING_SEGMENT_BOARD = 4,
    SHMRING_SEGMENT_BUS = 5,
    SHMRING_SEGMENT_POOL = 6, /* has no header */
};

/* The first line of a segment. Fixed after init. */
struct shmring_header {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t kind;       /* enum shmring_segment_kind */
    uint64_t byte_count; /* of the whole segment */
    uint32_t id;         /* ring, or peer */
    uint32_t param_a;    /* ring: capacity in slots.  claims, outbox: lanes */
    uint32_t param_b;    /* ring: bytes of a slot */
    uint32_t reserved[7];
};
_Static_assert(sizeof(struct shmring_header) == 64, "one line");

/* ---- ring ----------------------------------------------------------------------------------- */

#define SHMRING_CAPACITY_MIN 16u
#define SHMRING_CAPACITY_MAX (1u << 20)
#define SHMRING_SLOT_BYTES_MIN 64u
#define SHMRING_SLOT_BYTES_MAX 1024u

/* Somebody waits until something is given back. */
struct shmring_bell {
    uint32_t waiters; /* who waits: 1 from before the second look on; who rings clears it */
    uint32_t rings;   /* who rings: futex, counts */
};
_Static_assert(sizeof(struct shmring_bell) == 8, "one word");

/* What a trust domain is charged for at a receiver, besides the slots of its ring. */
enum shmring_credit_kind {
    SHMRING_CREDIT_UNUSED = 0, /* messages need none: a domain has a ring, and that has slots */
    SHMRING_CREDIT_RIGHTS = 1, /* in messages that are not given back */
    SHMRING_CREDIT_DESCRIPTORS = 2,
    SHMRING_CREDIT_BYTES = 3, /* of segments that the receiver has to map */
};
#define SHMRING_CREDIT_KINDS 4u

struct shmring_ring_control {
    struct shmring_header header; /* fixed after init */
    uint64_t pad0[8];
    uint64_t tail; /* producers: the next position to claim; begins at capacity, like head, so that
                    * a slot of zeroes is unwritten */
    uint64_t pad1[15];
    uint64_t head;           /* consumer: every position below it is done with */
    uint64_t out_of_service; /* consumer: indices that resume[] takes out; published before head */
    uint32_t waiters;        /* producers: how many may wait for room; the consumer clears it */
    uint32_t room;           /* consumer: futex, counts the times that waiters were woken */
    struct shmring_bell credit_bell; /* producers wait for credit, the consumer rings */
    uint64_t credit[4];              /* consumer: how much may have been charged in all */
    uint64_t credit_limit[4];        /* consumer: how much may be outstanding at a time */
    uint64_t withheld; /* consumer: slots that producers must take for used */
    uint64_t pad2[3];
    uint64_t parked; /* consumer: park number, 0 when awake; producers swap it to 0 after ringing */
    uint64_t flags;  /* consumer takes, others set: see SHMRING_FLAG_... */
    uint64_t pad3[14];
    uint32_t doorbell; /* producers: futex, counts rings */
    uint32_t pad4a;
    uint64_t charged[4]; /* producers: how much was charged in all */
    uint64_t pad4[11];
};
_Static_assert(sizeof(struct shmring_ring_control) == 640, "five pairs of lines");
_Static_assert(offsetof(struct shmring_ring_control, tail) == 128, "apart from the fixed part");
_Static_assert(offsetof(struct shmring_ring_control, head) == 256, "apart from tail");
_Static_assert(offsetof(struct shmring_ring_control, parked) == 384, "apart from head");
_Static_assert(offsetof(struct shmring_ring_control, doorbell) == 512, "apart from parked");

#define SHMRING_FLAG_RELEASES UINT64_C(1) /* read the release words of those who write here */
#define SHMRING_FLAG_DROPS UINT64_C(2)    /* read the drop words of those who write here */

/* A park number's top bit says that the consumer sleeps on its event descriptor, not on the
 * futex. */
#define SHMRING_PARKED_ON_EVENT (UINT64_C(1) << 63)

/* Behind the control page: uint64_t resume[capacity], written by the consumer only. An index out of
 * service holds SHMRING_RESUME_NEVER | the position that was left unwritten, and later positions of
 * it are holes; back in service it holds the first position that is none. The position itself is
 * not a hole: its claimer may still write it. Behind that, from the next page on: the slots. */
#define SHMRING_RESUME_NEVER (UINT64_C(1) << 63)
#define SHMRING_RESUME_OFFSET SHMRING_PAGE_BYTES

/* A slot: three words, then the body. */
struct shmring_slot {
    uint64_t header; /* producer: position << 8 | class; its store makes the slot written */
    uint64_t stamp;  /* producer: unicast: its stamp; multicast: a commit reference */
    uint64_t route;  /* producer: grant, sender, length: see SHMRING_ROUTE */
    uint64_t body[]; /* producer: slot_bytes - 24 bytes */
};
_Static_assert(sizeof(struct shmring_slot) == 24, "40 bytes of a 64-byte slot are body");
#define SHMRING_SLOT_HEADER_BYTES 24u

#define SHMRING_POSITION_SHIFT 8
#define SHMRING_CLASS_MASK UINT64_C(0x0f)
#define SHMRING_CLASS_UNICAST UINT64_C(1)
#define SHMRING_CLASS_MULTICAST UINT64_C(2)
#define SHMRING_CLASS_VOID UINT64_C(3)
#define SHMRING_HEADER_SLICE UINT64_C(0x10) /* the body is a struct shmring_slice_ref */
#define SHMRING_HEADER_MORE UINT64_C(0x20)  /* another message of this transaction follows here */
#define SHMRING_HEADER_ATTACHED UINT64_C(0x40) /* the body begins with attachments */
/* What a message to one destination may bear beside its class. */
#define SHMRING_HEADER_MARKS (SHMRING_HEADER_SLICE | SHMRING_HEADER_ATTACHED)

/* route = grant << 32 | sender << 16 | length of the inline body in bytes */
#define SHMRING_ROUTE(grant, sender, length) \
    ((uint64_t)(grant) << 32 | (uint64_t)(sender) << 16 | (uint64_t)(length))
#define SHMRING_SENDERS_MAX 65536u

/* What a slot's body holds when the payload lies in a slice. */
struct shmring_slice_ref {
    uint32_t segment;    /* of the sender's pool toward this domain */
    uint32_t lend_index; /* word of the return board that gives it back */
    uint64_t lend;       /* lend number, to be written there */
    uint64_t offset;     /* bytes from the segment's begin */
    uint64_t byte_count; /* of the payload */
};
_Static_assert(sizeof(struct shmring_slice_ref) == 32, "fits the smallest slot");

/* ---- claims --------------------------------------------------------------------------------- */

#define SHMRING_LANES_MAX 64u
#define SHMRING_CLAIM_WORDS 256u /* of one lane: one for each ring of a transaction */

/* A claim word: count:12 | ring:20 | the position's low 32 bits; 0 when there is none. */
#define SHMRING_CLAIM(count, ring, position) \
    ((uint64_t)(count) << 52 | (uint64_t)(ring) << 32 | (uint64_t)(uint32_t)(position))
#define SHMRING_CLAIM_COUNT_MAX 4095u
#define SHMRING_RINGS_MAX (1u << 20)
/* Claims segment: header, padded to SHMRING_PAD_BYTES; then uint64_t
 * [lanes][SHMRING_CLAIM_WORDS]. */
#define SHMRING_CLAIMS_OFFSET SHMRING_PAD_BYTES

/* ---- outbox --------------------------------------------------------------------------------- */

#define SHMRING_COMMIT_WORDS 512u /* of one lane */

struct shmring_outbox {
    struct shmring_header header; /* fixed after init */
    uint64_t pad0[8];
    uint32_t attention; /* broker: futex, counts what it has sent to this peer's socket */
    uint32_t flagged;   /* broker: futex, the owner's latest request to flag others that it has
                         * carried out */
    uint64_t dead;      /* broker: stamp of this peer's death, 0 while it lives */
    uint64_t releases;  /* owner: counts the transactions that set release words */
    uint64_t drops;     /* owner: counts the drop words in use, from the first on */
    uint64_t given;     /* broker: counts to whom it gave something of the owner's */
    uint32_t queued;    /* broker: an enum shmring_queued */
    uint32_t pad1[21];
    /* owner, and the broker to abort: uint64_t commit[lanes][SHMRING_COMMIT_WORDS].
     * owner, from the next page on: uint64_t release[SHMRING_RELEASE_WORDS], then
     * struct shmring_drop drop[SHMRING_DROP_WORDS]; pages of both exist once used */
};
_Static_assert(sizeof(struct shmring_outbox) == 256, "commit words start on their own lines");

/* Whether all that the broker said to a peer is on its socket. 0: a broker that does not tell. */
enum shmring_queued { SHMRING_QUEUED_NOTHING = 1, SHMRING_QUEUED_SOMETHING = 2 };

/* A commit word: 0 never used; 2:2 | generation:30 | begun:32 pending; 1:2 | generation:30 | 0
 * aborted; else the stamp, whose two top bits are 0. begun counts 1,024-tick units of the clock. */
#define SHMRING_COMMIT_PENDING (UINT64_C(2) << 62)
#define SHMRING_COMMIT_ABORTED (UINT64_C(1) << 62)
#define SHMRING_COMMIT_STATE_MASK (UINT64_C(3) << 62)
#define SHMRING_COMMIT_GENERATION_MASK ((UINT64_C(1) << 30) - 1)
/* A commit reference in a slot: index of the word in the outbox << 32 | generation */
#define SHMRING_COMMIT_REF(index, generation) ((uint64_t)(index) << 32 | (uint64_t)(generation))

/* Something of the owner's that others name by index, and that can end. 0: it has not; a commit
 * word's reference: it ends if and when that one commits; else the stamp at which it ended. */
#define SHMRING_RELEASE_WORDS 65536u
#define SHMRING_RELEASE_REFERS (UINT64_C(2) << 62)
#define SHMRING_RELEASE_REF(index, generation) \
    (SHMRING_RELEASE_REFERS | (uint64_t)(index) << 30 | (uint64_t)(generation))

/* What the owner gives up of somebody else's, where that one's ring had no room for the message. */
#define SHMRING_DROP_WORDS 16384u
struct shmring_drop {
    uint64_t word; /* owner: as a release word */
    uint64_t what; /* owner: whose << 32 | which */
};
_Static_assert(sizeof(struct shmring_drop) == 16, "four to a line");

/* ---- return board --------------------------------------------------------------------------- */

#define SHMRING_LENDS 480u /* slices that may be lent on one link at a time */

/* A word for each slice lent, instead of a queue: it holds everything lent, so it cannot overflow,
 * and any number of threads may give back without meeting. */
struct shmring_board {
    struct shmring_header header; /* fixed after init */
    uint32_t waiters;             /* sender: waits for a slice; the receiver clears it */
    uint32_t returned;            /* receiver: futex, counts the times that a waiter was woken */
    uint64_t charged[4];          /* sender: its part of what its domain was charged */
    uint64_t pad0[3];
    uint64_t drops_seen;          /* receiver: how many of the sender's drop words for it are done
                                   * with */
    uint64_t credited[4];         /* receiver: how much of `charged` has been given back */
    uint64_t pad1[11];
    uint64_t lend[SHMRING_LENDS]; /* receiver: the lend number last given back here */
};
_Static_assert(sizeof(struct shmring_board) == SHMRING_PAGE_BYTES, "one page");

/* ---- bus page ------------------------------------------------------------------------------- */

enum shmring_clock_source { SHMRING_CLOCK_TSC = 1, SHMRING_CLOCK_MONOTONIC = 2 };

/* How the time goes on where the counter has gone back, see shmring_clock.h. */
struct shmring_clock_set {
    uint64_t offset; /* broker: what is added to the counter */
    uint64_t floor;  /* broker: a reading, */
    uint64_t at_ns;  /* broker: and CLOCK_MONOTONIC just before it */
    uint64_t rate;   /* broker: counted in 2^32 ns */
};

struct shmring_bus_page {
    struct shmring_header header; /* fixed after init */
    uint32_t clock_source;        /* broker: enum shmring_clock_source, fixed after init */
    uint32_t clock_coarse_ns;     /* broker: tests: round readings down to this; 0 in life */
    uint64_t epoch;               /* broker: counts sets; the last bit says which one holds */
    uint64_t ticks_base;          /* broker: a reading of the clock some time ago, */
    uint64_t ns_base;             /* broker: and CLOCK_BOOTTIME at that reading */
    uint32_t called;              /* nobody, stays 0: futex, where an heir waits to be called */
    uint32_t pad0;
    uint64_t offset; /* broker: that of the set; what readings of the counter are made with */
    uint64_t floor;  /* broker: that of the set; a reading below it is none */
    uint64_t pad1;
    uint64_t death; /* broker: commit word of the latest death; layout as in an outbox */
    uint64_t dead_peer; /* broker: whose */
    uint64_t pad2[6];
    struct shmring_clock_set sets[2]; /* broker: one is read while the other is written */
};
_Static_assert(sizeof(struct shmring_bus_page) == 256, "two pairs of lines");
