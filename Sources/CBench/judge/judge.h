/* judge.h - what the parts of the judge share: collect.c, rights.c, relation.c, cycle.c. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_judge.h"

#define JUDGE_NOBODY UINT32_MAX
#define JUDGE_NEVER UINT64_MAX
#define JUDGE_TOLD_MAX 20u /* violations that are told in words */

/* Open addressing; grows. Keys are anything but UINT64_MAX. */
struct judge_map {
    uint64_t *keys; /* key + 1; 0: empty */
    uint32_t *values;
    uint64_t size, used;
};
int judge_map_put(struct judge_map *map, uint64_t key, uint32_t value, uint32_t *existing);
uint32_t judge_map_get(const struct judge_map *map, uint64_t key); /* JUDGE_NOBODY */
void judge_map_free(struct judge_map *map);

enum judge_act_flag {
    JUDGE_RETURNED = 1,     /* the call said that it happened */
    JUDGE_FAILED = 2,       /* the call said that nothing happened */
    JUDGE_SEEN = 4,         /* somebody received a part of it */
    JUDGE_BY_RECEIPT = 8,   /* `known` is when somebody had received it */
    JUDGE_DEATH = 16,       /* a peer's end */
    JUDGE_NO_RIGHT = 32,    /* a destination to which the sender held no handle */
};

/* What stands in the order: a transaction, or the death of a peer. */
struct judge_act {
    uint64_t begin;
    uint64_t known;                    /* when it surely had happened; JUDGE_NEVER */
    const struct bench_record *record; /* NULL: a death */
    uint32_t arrived_at;               /* its first bit in `arrived`: one for each item */
    uint16_t peer;                     /* whose act: an index */
    uint16_t known_by;                 /* who knew first */
    uint32_t flags;
};

struct judge_node {
    uint32_t number, owner;
    uint32_t released_by;    /* an act */
    uint32_t last_delivered; /* an act */
    uint64_t published;      /* since when; JUDGE_NEVER */
};

struct judge_peer {
    uint64_t killed; /* JUDGE_NEVER */
    bool drained;
    uint32_t death;          /* an act */
    uint32_t sequence_first; /* of what it received */
    uint32_t sequence_end;
};

enum judge_link_kind { JUDGE_BEFORE_RELEASE, JUDGE_AFTER_RELEASE, JUDGE_BEFORE_DEATH };
struct judge_link {
    uint32_t from, to; /* acts */
    uint32_t kind, node;
};

struct judge {
    const struct bench_histories *all;
    struct bench_verdict *verdict;
    FILE *text;
    struct judge_peer *peers;

    struct judge_map act_ids, node_ids;
    struct judge_act *acts;
    uint64_t act_count, act_room;
    struct judge_node *nodes;
    uint64_t node_count, node_room;
    uint8_t *arrived; /* bits: this item's message was received */
    uint64_t item_count;

    uint32_t *sequence; /* acts in the order in which each peer got them; JUDGE_NOBODY ends each */
    uint64_t sequence_count;
    struct judge_link *links;
    uint64_t link_count, link_room;
};

/* Makes room for one more element; false: no memory. */
bool judge_grow(void **array, uint64_t count, uint64_t *room, size_t element);
/* Counts a violation; the first ones are told. */
void judge_violation(struct judge *judge, uint32_t rules, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* "transaction 7 of peer 1 (to 3 4)", into a buffer that the next four calls leave alone. */
const char *judge_act_name(const struct judge *judge, uint32_t act);
uint32_t judge_peer_number(const struct judge *judge, uint32_t peer);
int judge_link_add(struct judge *judge, uint32_t from, uint32_t to, uint32_t kind, uint32_t node);

static inline bool judge_happened(const struct judge_act *act)
{
    return (act->flags & (JUDGE_RETURNED | JUDGE_SEEN)) != 0;
}
static inline uint32_t judge_item_kind(uint32_t item)
{
    return item >> BENCH_ITEM_SHIFT;
}
static inline uint32_t judge_item_node(uint32_t item)
{
    return item & BENCH_NODE_MAX;
}
static inline bool judge_bit(const uint8_t *bits, uint64_t i)
{
    return (bits[i / 8] >> i % 8 & 1) != 0;
}

/* Calls `body` for each record of one peer's history. */
#define JUDGE_EACH_RECORD(history, record, body)                                                   \
    for (uint64_t record_at_ = 0; record_at_ < (history)->byte_count;) {                           \
        const struct bench_record *record =                                                        \
            (const struct bench_record *)(const void *)((history)->records + record_at_);          \
        record_at_ += bench_record_bytes(record->item_count);                                      \
        if (record->begin != 0)                                                                    \
            body                                                                                   \
    }

/* The parts, in this order. 0 or -ENOMEM. */
int judge_collect(struct judge *judge);  /* acts and nodes */
int judge_receipts(struct judge *judge); /* sequences; invented, doubled */
int judge_rights(struct judge *judge);   /* authority, handles, notices */
int judge_missing(struct judge *judge);  /* lost, atomicity, releases */
int judge_relation(struct judge *judge); /* the order */

/* The relation's graph, for relation.c and cycle.c. Vertices: acts, then the line of begins. */
struct judge_graph {
    struct judge *judge;
    uint32_t act_count;
    uint32_t *order;       /* acts by begin */
    uint32_t *enters;      /* where an act's end enters the line; act_count: nowhere */
    uint32_t *place_first; /* places of an act in `sequence`: an index into `places` */
    uint32_t *places;
    uint32_t *link_first; /* of an act, in judge->links, which are sorted by `from` */
};
#define JUDGE_EDGE_END UINT32_MAX
#define JUDGE_EDGE_SKIP (UINT32_MAX - 1)
/* The edge number `k` of a vertex; JUDGE_EDGE_END after the last, JUDGE_EDGE_SKIP: none here. */
uint32_t judge_edge(const struct judge_graph *graph, uint32_t vertex, uint32_t k);
/* `left`: of each vertex, whether a sort could not reach it. */
int judge_cycles(const struct judge_graph *graph, const uint32_t *left);
