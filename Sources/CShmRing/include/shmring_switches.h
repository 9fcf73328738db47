/*
 * shmring_switches.h - rules of the order that a special build can break, one at a time, to show
 * that `bus1-bench check` finds out.
 *
 * Only with BUS1_SWITCHES=1 in the environment of the build; then BUS1_BREAK in the environment of
 * the program names the rule. In every other build SHMRING_BROKEN is the constant 0, and nothing of
 * this is left: a test looks for the symbols.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum shmring_switch {
    SHMRING_SWITCH_NONE,
    SHMRING_SWITCH_SLOW,        /* the delays that go with the others, and nothing broken */
    SHMRING_SWITCH_NO_RE_READ,           /* what was passed over is not read again */
    SHMRING_SWITCH_NO_LOOK_AHEAD,        /* a multicast is delivered where it stands */
    SHMRING_SWITCH_STAMP_BEFORE_BARRIER, /* a transaction's stamp is read before it is written */
    SHMRING_SWITCH_T0_AFTER_SCAN,        /* a look's t0 is read behind what it looks at */
    SHMRING_SWITCH_PAST_PENDING,         /* a look does not wait for pending commits */
    SHMRING_SWITCH_WORD_REUSED_EARLY,    /* a commit word is used again while it is asked */
    SHMRING_SWITCH_NO_COMMIT_WAIT,       /* and a coarse clock, without which it has no work */
    SHMRING_SWITCH_COARSE_CLOCK,         /* that clock alone: breaks nothing */
    SHMRING_SWITCH_BURIED_THOUGH_NAMED,  /* a dead claim is buried that a living word names */
    SHMRING_SWITCH_HOLDER_CHECK_OFF,     /* a grant admits whoever names it */
    SHMRING_SWITCH_NOTICE_NOT_WITHDRAWN, /* "no handles left" stays when one was made meanwhile */
    SHMRING_SWITCH_NO_FLOOR,             /* a clock that has gone back is believed */
};

#if defined(SHMRING_SWITCHES)
extern uint32_t shmring_switched;
void shmring_switch_dawdle(uint32_t one_in, uint32_t microseconds);
#define SHMRING_BROKEN(rule) (shmring_switched == SHMRING_SWITCH_##rule)
#define SHMRING_DAWDLE(rule, one_in, microseconds)                                                 \
    do                                                                                             \
        if (SHMRING_BROKEN(rule) || SHMRING_BROKEN(SLOW))                                          \
            shmring_switch_dawdle(one_in, microseconds);                                           \
    while (0)
#else
#define SHMRING_BROKEN(rule) 0
#define SHMRING_DAWDLE(rule, one_in, microseconds) ((void)0)
#endif

static inline __attribute__((always_inline)) bool shmring_broken_holder_check(void)
{
    return SHMRING_BROKEN(HOLDER_CHECK_OFF);
}
static inline bool shmring_broken_burial(void)
{
    return SHMRING_BROKEN(BURIED_THOUGH_NAMED);
}
static inline bool shmring_broken_withdrawal(void)
{
    return SHMRING_BROKEN(NOTICE_NOT_WITHDRAWN);
}
