/*
 * bench_history.h - what each peer of a run did and got, in the order in which it did: the material
 * of `bus1-bench check`.
 *
 * A peer's history is a row of records in memory that its process shares with the coordinator, so
 * that it outlives a killed process; as text it is described in docs/trace-format.md.
 *
 * Guarantees:
 *   1. A call's record is there, without an end, before the call can have any effect: a process
 *      that is killed in the middle leaves an open record.
 *   2. The begin of a call is a reading that no part of the call precedes; its end is a reading
 *      that follows whatever the call had completed. Reading does not drain the store buffer: a
 *      store that is late stays late.
 *
 * NOTE - stamps do not occur here: order is what calls and receivers show, nothing else.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bench_record_kind {
    BENCH_RECORD_NODE = 1, /* made this node */
    BENCH_RECORD_HANDLE,   /* made a handle to this own node, for itself */
    BENCH_RECORD_PUBLISH,  /* published this own node: whoever looks it up is given a handle */
    BENCH_RECORD_LOOKUP,   /* got a handle to this node by its name */
    BENCH_RECORD_SEND,     /* a transaction: items. Open: it may have happened or not */
    BENCH_RECORD_FAILED,   /* the same, and the call said that nothing happened */
    BENCH_RECORD_RECEIVE,  /* a message: the node it came to, then the nodes of handles it
                            * carried */
    BENCH_RECORD_DROP,     /* released one handle to this node */
    BENCH_RECORD_GONE,     /* a notice: the node of one handle is released */
    BENCH_RECORD_NONE,     /* a notice: no handles are left to this own node */
    BENCH_RECORD_KILLED,   /* the peer was about to be killed then; written by another process */
    BENCH_RECORD_DRAINED,  /* the peer had received everything that it was ever to get */
    BENCH_RECORD_KINDS
};

/* What an item of a transaction, or of a message, says of its node. */
enum bench_item_kind {
    BENCH_ITEM_TO = 0,      /* a message to it */
    BENCH_ITEM_WITH = 1,    /* the message before carries a handle to it */
    BENCH_ITEM_RELEASE = 2, /* this own node is released */
    BENCH_ITEM_DROP = 3,    /* one handle to it is released */
};
#define BENCH_ITEM_SHIFT 30
#define BENCH_NODE_MAX ((UINT32_C(1) << BENCH_ITEM_SHIFT) - 1)
#define BENCH_ITEMS_MAX 1024u
#define BENCH_PEERS_MAX 4096u

/* Times are ticks of any clock that all peers share, and never 0. Other kinds than SEND, FAILED and
 * RECEIVE have one item, or none, and no transaction. */
struct bench_record {
    uint64_t begin;
    uint64_t end;         /* 0: open */
    uint64_t transaction; /* named by whoever wrote the history, once in all histories */
    uint32_t kind;
    uint32_t item_count;
    uint32_t items[]; /* kind << BENCH_ITEM_SHIFT | node; then up to a multiple of 8 bytes */
};

static inline uint64_t bench_record_bytes(uint32_t item_count)
{
    return (sizeof(struct bench_record) + item_count * sizeof(uint32_t) + 7) & ~UINT64_C(7);
}

/* All histories of a run, to be judged. */
struct bench_peer_history {
    uint32_t peer; /* its number */
    const uint8_t *records;
    uint64_t byte_count;
    uint64_t room; /* of memory that belongs to the history; 0: it belongs to somebody else */
};
struct bench_histories {
    struct bench_peer_history *peers;
    uint32_t peer_count;
};

/* Adds a peer whose records lie elsewhere, and stay there. -EBADMSG: they are no whole records.
 * 0 or -errno. */
int bench_histories_add(struct bench_histories *all, uint32_t peer, const void *records,
                        uint64_t byte_count);
/* Reads text. 0; -errno; or the number of the first bad line, with what is wrong with it. */
int64_t bench_histories_read(struct bench_histories *all, const char *path, const char **wrong);
/* Writes text. 0 or -errno. */
int bench_histories_write(const struct bench_histories *all, const char *path);
void bench_histories_free(struct bench_histories *all);

/* ---- recording ------------------------------------------------------------------------------ */

/* The beginning of a peer's shared memory; the records follow. */
struct bench_recorder {
    uint64_t used;    /* bytes of records; the peer */
    uint64_t room;    /* bytes for records; fixed */
    uint64_t open_at; /* offset of the record that is open, for the next end; the peer */
    uint64_t full;    /* records that found no room; the peer */
    uint64_t pad[4];
};

void bench_recorder_init(struct bench_recorder *recorder, uint64_t byte_count);
/* The clock of all recorders of a machine. */
uint64_t bench_recorder_now(void);
/* Reads the clock and writes an open record. */
void bench_recorder_begin(struct bench_recorder *recorder, uint32_t kind, uint64_t transaction,
                          const uint32_t *items, uint32_t item_count);
/* Reads the clock and ends the open record, as this kind (BENCH_RECORD_FAILED, or as it was: 0). */
void bench_recorder_end(struct bench_recorder *recorder, uint32_t kind);
/* Takes the open record back: the call has done nothing. */
void bench_recorder_forget(struct bench_recorder *recorder);
/* The open record's first items are all that there is to it. */
void bench_recorder_shorten(struct bench_recorder *recorder, uint32_t item_count);
/* Writes a whole record of a call that began at `begin` and has returned. */
void bench_recorder_add(struct bench_recorder *recorder, uint32_t kind, uint64_t begin,
                        uint64_t transaction, const uint32_t *items, uint32_t item_count);
static inline const void *bench_recorder_records(const struct bench_recorder *recorder)
{
    return recorder + 1;
}
