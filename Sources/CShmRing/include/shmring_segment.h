/*
 * shmring_segment.h - memory that processes share: made, sealed, mapped, checked.
 *
 * Guarantees:
 *   1. A segment has no name in any file system; its descriptor is close-on-exec.
 *   2. What shmring_segment_map returns has the kind, size, seals and layout version asked for,
 *      checked on the descriptor, before a byte of it is used.
 *   3. A mapping is not inherited by fork (MADV_DONTFORK).
 *   4. A refusal says which check failed (a positive SHMRING_E_... code); what the kernel refuses
 *      is a negative errno. In both cases nothing is left mapped or open.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shmring_layout.h"

/* Outcomes that the caller handles; negative values are -errno, forwarded. */
enum shmring_error {
    SHMRING_OK = 0,
    SHMRING_E_FULL = 1,      /* no room now */
    SHMRING_E_EMPTY = 2,     /* nothing to take now */
    SHMRING_E_SEALS = 3,     /* the descriptor lacks a seal, or has one too many */
    SHMRING_E_KIND = 4,      /* not a memfd, or another kind of segment */
    SHMRING_E_SIZE = 5,      /* fstat's size is not what was announced, or out of range */
    SHMRING_E_SPARSE = 6,    /* its blocks do not cover its size: a reader would pay for pages */
    SHMRING_E_VERSION = 7,   /* a layout version that this build does not read */
    SHMRING_E_FORKED = 8,    /* this process was forked from the one that made the mapping */
    SHMRING_E_CORRUPT = 9,   /* another process wrote what no honest one writes */
    SHMRING_E_ABORTED = 10,  /* the commit word was aborted: begin again */
    SHMRING_E_TOO_LARGE = 11, /* beyond a fixed limit */
    SHMRING_E_UNKNOWN_SENDER = 12, /* a message of somebody not introduced yet */
    SHMRING_E_ATTENTION = 13,      /* the broker wrote: read its socket */
    SHMRING_E_HELD = 14,           /* the inbox is held: the caller has something of its own
                                    * first */
    SHMRING_NOTICE = 15, /* no error: not a message, but something watched took its place */
};
/* The error's name and meaning, for messages. Never NULL. */
const char *shmring_error_text(int error);

/* How a mapping is to be placed. All are wishes: what can't be had falls back and is reported. */
struct shmring_placement {
    bool prefault;     /* touch every page now: no page fault later */
    bool lock;         /* keep it out of swap (mlock) */
    bool huge;         /* ask for huge pages */
    int32_t numa_node; /* bind to this node; negative: leave it to the kernel */
};

/* What became of the wishes, as /proc/self/smaps and the kernel say, not as return codes do. */
struct shmring_placement_report {
    bool prefaulted;
    bool locked;
    int32_t numa_node; /* of the first page; -1 unknown */
    int32_t lock_errno, huge_errno, numa_errno; /* why a wish was not met; 0 met or not asked */
    uint64_t huge_bytes;                        /* mapped by huge pages */
};

enum shmring_access { SHMRING_READ_ONLY = 0, SHMRING_READ_WRITE = 1 };

/* A mapping and its length; owns it. base is NULL when empty. */
struct shmring_mapping {
    void *base;
    uint64_t byte_count;
};

/*
 * Makes a memfd of byte_count bytes (rounded up to pages) with its blocks reserved when `reserve`,
 * sealed against SHRINK and GROW (not yet against SEAL). The label shows in /proc only.
 * Returns 0 and the descriptor, which the caller owns; or -errno.
 */
int shmring_segment_create(const char *label, uint64_t byte_count, bool reserve, int *fd_out);

/* Adds SEAL, and FUTURE_WRITE if asked: to be called when every writer has mapped it. */
int shmring_segment_seal(int fd, bool future_write);

/*
 * Maps a segment. Checks type, size (fstat == byte_count unless that is 0), seals (SHRINK and GROW;
 * no F_SEAL_WRITE), and, for kinds with a header, magic, kind, version and byte_count - after
 * copying it. `require_future_write`: refuse a segment that others could still map for writing.
 * `require_blocks`: refuse sparse ones. Does not close fd. placement and report may be NULL.
 */
int shmring_segment_map(int fd, enum shmring_segment_kind kind, enum shmring_access access,
                        uint64_t byte_count, bool require_future_write, bool require_blocks,
                        const struct shmring_placement *placement,
                        struct shmring_placement_report *report,
                        struct shmring_mapping *mapping_out);
void shmring_segment_unmap(struct shmring_mapping *mapping);

/* Sizes, in bytes. 0 when a parameter is out of range. */
uint64_t shmring_ring_bytes(uint32_t capacity, uint32_t slot_bytes);
uint64_t shmring_claims_bytes(uint32_t lanes);
/* Where the slots begin: behind the control page and resume[], on a page of their own. */
uint64_t shmring_ring_slots_offset(uint32_t capacity);
uint64_t shmring_outbox_bytes(uint32_t lanes);
/* Where release words and drop words begin in an outbox. */
uint64_t shmring_outbox_release_offset(uint32_t lanes);
uint64_t shmring_outbox_drop_offset(uint32_t lanes);

/* Brings the pages of words in an outbox into being, before their first use: memory that cannot be
 * had is an error here (-ENOMEM, or what the kernel says) and not SIGBUS at the first store. Only
 * the owner calls it. SHMRING_E_SIZE: not within the mapping. */
int shmring_outbox_reserve_words(const struct shmring_mapping *outbox, uint64_t offset,
                                 uint64_t byte_count);

/* Make, initialise and seal as the table in shmring_layout.h says (FUTURE_WRITE is added later by
 * shmring_segment_seal, once the writers have mapped). The caller owns the descriptor. */
int shmring_ring_create(uint32_t ring_id, uint32_t capacity, uint32_t slot_bytes, int *fd_out);
int shmring_claims_create(uint32_t peer_id, uint32_t lanes, int *fd_out);
int shmring_outbox_create(uint32_t peer_id, uint32_t lanes, int *fd_out);
int shmring_board_create(uint32_t id, int *fd_out);
int shmring_bus_page_create(int *fd_out);

/* True in a child of the process that loaded the library: every mapping is gone there. One load. */
bool shmring_forked(void);
