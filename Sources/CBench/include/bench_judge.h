/*
 * bench_judge.h - decides whether histories show one order.
 *
 * The relation: A stands before B when B began after A was known to have happened (A's call had
 * returned, or somebody had received it), or when a peer received A and then B. O1 to O5 hold if
 * and only if it has no cycle. Real time is an interval order, so that it needs no more edges than
 * there are transactions: a line of all begins, which each transaction enters where its end lies.
 *
 * NOTE - time and memory grow with the number of records times its logarithm; about 250 bytes a
 * transaction.
 */
#pragma once

#include "bench_history.h"

/* The rules, as bits of a violation: what a cycle breaks, or what else is wrong. */
enum bench_rule {
    BENCH_RULE_O1 = 1 << 0,
    BENCH_RULE_O2 = 1 << 1,
    BENCH_RULE_O3 = 1 << 2,
    BENCH_RULE_O4 = 1 << 3,
    BENCH_RULE_O5 = 1 << 4,
    BENCH_RULE_RELEASED = 1 << 5,   /* what was sent before a node's release came, later not */
    BENCH_RULE_NOTICES = 1 << 6,    /* notices stand in the same order */
    BENCH_RULE_ATOMICITY = 1 << 7,  /* all or nothing */
    BENCH_RULE_AUTHORITY = 1 << 8,  /* no message without a handle */
    BENCH_RULE_LOST = 1 << 9,       /* a message or notice that never came */
    BENCH_RULE_DOUBLED = 1 << 10,   /* or came twice */
    BENCH_RULE_INVENTED = 1 << 11,  /* or was never sent */
    BENCH_RULE_EARLY = 1 << 12,     /* "no handles left" while there was one */
    BENCH_RULE_HISTORY = 1 << 13,   /* no history that a peer can have */
};
#define BENCH_RULES 14

struct bench_verdict {
    uint64_t violations;
    uint64_t by_rule[BENCH_RULES]; /* one violation may break several */
    uint64_t transactions;         /* that happened, releases and deaths among them */
    uint64_t overlapped;           /* those that began while another peer's was going on */
    uint64_t messages;             /* received */
    uint64_t notices;              /* received */
    uint64_t several;              /* transactions with several destinations */
    uint64_t unfinished;           /* calls that were cut off by a kill */
    char *text;                    /* the first violations in words; the caller frees it */
};

/* Short names: "O1" and so on. */
const char *bench_rule_name(uint32_t bit);
/* 0, or -ENOMEM. */
int bench_judge(const struct bench_histories *all, struct bench_verdict *verdict);
