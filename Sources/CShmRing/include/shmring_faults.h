/*
 * shmring_faults.h - the points at which a special build can kill or stop its own process, for
 * `bus1-bench faults`.
 *
 * Only with BUS1_SWITCHES=1 in the environment of the build (shmring_switches.h): then every point
 * asks the process's control word whether it is the one. Else SHMRING_FAULT is nothing, and nothing
 * of this is left but types: a test looks for the symbols.
 *
 * A point is armed by whoever shares the control with the process; the process takes the order when
 * it arrives there, says so in the control, and sends itself the signal. So a hit has two
 * witnesses: the process, and the kernel, which tells its parent that it ended or stopped.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As what a process acts while it passes a point, as bits. */
enum shmring_fault_role {
    SHMRING_FAULT_SENDER = 1,   /* it sends, gives up, asks, joins */
    SHMRING_FAULT_RECEIVER = 2, /* it receives */
    SHMRING_FAULT_BROKER = 4,
    SHMRING_FAULT_HEIR = 8, /* it keeps a broker's tables, and takes its place */
};
#define SHMRING_FAULT_BOTH (SHMRING_FAULT_SENDER | SHMRING_FAULT_RECEIVER)

/*
 * POINT(name, what the table calls it, in which roles it must be hit). What a name says has just
 * been done, and nothing after it. The lines go the way of a message.
 */
#define SHMRING_FAULT_POINTS(POINT)                                                                \
    POINT(CLAIM_NAMED, "claim: word stored", SHMRING_FAULT_BOTH)                                   \
    POINT(CLAIM_MOVED, "claim: tail moved", SHMRING_FAULT_BOTH)                                    \
    POINT(CLAIM_HOLE, "claim: hole met", SHMRING_FAULT_SENDER)                                     \
    POINT(WRITE_BODY, "write: body copied", SHMRING_FAULT_BOTH)                                    \
    POINT(STAMP_READ, "stamp: read", SHMRING_FAULT_BOTH)                                           \
    POINT(WRITE_HEADER, "write: header stored", SHMRING_FAULT_BOTH)                                \
    POINT(CLAIM_CLEARED, "claim: word cleared", SHMRING_FAULT_BOTH)                                \
    POINT(WAKE_RUNG, "wake: doorbell counted", SHMRING_FAULT_SENDER)                               \
    POINT(WAKE_WOKEN, "wake: receiver woken", SHMRING_FAULT_SENDER)                                \
    POINT(COMMIT_PENDING, "commit: word pending", SHMRING_FAULT_SENDER)                            \
    POINT(COMMIT_CLAIMED, "commit: a leg claimed", SHMRING_FAULT_SENDER)                           \
    POINT(COMMIT_VOID, "commit: a leg made void", SHMRING_FAULT_SENDER)                            \
    POINT(COMMIT_WRITTEN, "commit: a leg written", SHMRING_FAULT_SENDER)                           \
    POINT(COMMIT_STAMPED, "commit: stamp read", SHMRING_FAULT_SENDER)                              \
    POINT(COMMIT_DONE, "commit: swapped", SHMRING_FAULT_SENDER)                                    \
    POINT(COMMIT_CLEARED, "commit: claims cleared", SHMRING_FAULT_SENDER)                          \
    POINT(RELEASE_ENDED, "release: handle taken out", SHMRING_FAULT_BOTH)                          \
    POINT(RELEASE_REFERS, "release: a word refers", SHMRING_FAULT_SENDER)                          \
    POINT(RELEASE_COUNTED, "release: counted", SHMRING_FAULT_SENDER)                               \
    POINT(RELEASE_FLAGGED, "release: holders flagged", SHMRING_FAULT_SENDER)                       \
    POINT(RELEASE_SETTLED, "release: a word settled", SHMRING_FAULT_SENDER)                        \
    POINT(RELEASE_APPLIED, "release: counted by the owner", SHMRING_FAULT_RECEIVER)                \
    POINT(LEND_LENT, "lend: slice lent", SHMRING_FAULT_SENDER)                                     \
    POINT(LEND_ANNOUNCED, "lend: segment announced", SHMRING_FAULT_SENDER)                         \
    POINT(BACK_READ, "give back: slice read", SHMRING_FAULT_RECEIVER)                              \
    POINT(BACK_GIVEN, "give back: word stored", SHMRING_FAULT_RECEIVER)                            \
    POINT(OVER_GRANTED, "hand over: grant made", SHMRING_FAULT_SENDER)                             \
    POINT(OVER_INTRODUCED, "hand over: introduced", SHMRING_FAULT_SENDER)                          \
    POINT(OVER_APPLIED, "hand over: known to the owner", SHMRING_FAULT_RECEIVER)                   \
    POINT(OVER_TAKEN, "hand over: handle made", SHMRING_FAULT_RECEIVER)                            \
    POINT(OVER_BOUND, "hand over: handle bound", SHMRING_FAULT_SENDER)                             \
    POINT(TAKE_COPIED, "take: slot copied", SHMRING_FAULT_RECEIVER)                                \
    POINT(TAKE_LOOKED, "take: look begun", SHMRING_FAULT_RECEIVER)                                 \
    POINT(TAKE_FLAGS, "take: flags taken", SHMRING_FAULT_RECEIVER)                                 \
    POINT(TAKE_WAITS, "take: look waits", SHMRING_FAULT_RECEIVER)                                  \
    POINT(TAKE_ORDERED, "take: put in order", SHMRING_FAULT_RECEIVER)                              \
    POINT(HEAD_RETIRED, "head: index retired", SHMRING_FAULT_RECEIVER)                             \
    POINT(HEAD_STORED, "head: stored", SHMRING_FAULT_RECEIVER)                                     \
    POINT(HEAD_RETURNED, "head: index returned", SHMRING_FAULT_RECEIVER)                           \
    POINT(PARK_ANNOUNCED, "park: announced", SHMRING_FAULT_RECEIVER)                               \
    POINT(PARK_LOOKED, "park: about to sleep", SHMRING_FAULT_RECEIVER)                             \
    POINT(PARK_WOKEN, "park: awake again", SHMRING_FAULT_RECEIVER)                                 \
    POINT(PARK_ROOM, "park: wait for room told", SHMRING_FAULT_SENDER)                             \
    POINT(CONNECT_GREETED, "connect: welcome read", SHMRING_FAULT_SENDER)                          \
    POINT(CONNECT_MAPPED, "connect: memory mapped", SHMRING_FAULT_SENDER)                          \
    POINT(CONNECT_SEALED, "connect: member", SHMRING_FAULT_SENDER)                                 \
    POINT(INTRODUCE_ASKED, "introduce: name asked for", SHMRING_FAULT_SENDER)                      \
    POINT(INTRODUCE_GRANTED, "introduce: right granted", SHMRING_FAULT_SENDER)                     \
    POINT(INTRODUCE_RING, "introduce: ring mapped", SHMRING_FAULT_SENDER)                          \
    POINT(INTRODUCE_LINK, "introduce: link made", SHMRING_FAULT_BOTH)                              \
    POINT(AGAIN_SAID, "again: said", SHMRING_FAULT_RECEIVER)                                       \
    POINT(AGAIN_REPEATED, "again: requests repeated", SHMRING_FAULT_RECEIVER)                      \
    POINT(BROKER_WELCOMED, "broker: memory made", SHMRING_FAULT_BROKER)                            \
    POINT(BROKER_SEALED, "broker: memory sealed", SHMRING_FAULT_BROKER)                            \
    POINT(BROKER_PUBLISHED, "broker: name published", SHMRING_FAULT_BROKER)                        \
    POINT(BROKER_RING, "broker: ring made", SHMRING_FAULT_BROKER)                                  \
    POINT(BROKER_HALFWAY, "broker: one of two introduced", SHMRING_FAULT_BROKER)                   \
    POINT(BROKER_INTRODUCED, "broker: both introduced", SHMRING_FAULT_BROKER)                      \
    POINT(BROKER_HOLDER, "broker: owner told of holder", SHMRING_FAULT_BROKER)                     \
    POINT(BROKER_SENT, "broker: sent, not counted", SHMRING_FAULT_BROKER)                          \
    POINT(BROKER_SETTLED, "broker: dead one settled", SHMRING_FAULT_BROKER)                        \
    POINT(BROKER_DEATH, "broker: death pending", SHMRING_FAULT_BROKER)                             \
    POINT(BROKER_STAMPED, "broker: death stamped", SHMRING_FAULT_BROKER)                           \
    POINT(BROKER_MARKED, "broker: dead one marked", SHMRING_FAULT_BROKER)                          \
    POINT(BROKER_BURIED, "broker: burial answered", SHMRING_FAULT_BROKER)                          \
    POINT(JOURNAL_PACKET, "journal: part of an entry sent", SHMRING_FAULT_BROKER)                  \
    POINT(JOURNAL_ENTRY, "journal: entry sent", SHMRING_FAULT_BROKER)                              \
    POINT(JOURNAL_ASKED, "journal: process asked", SHMRING_FAULT_BROKER)                           \
    POINT(JOURNAL_WHOLE, "journal: new heir told all", SHMRING_FAULT_BROKER)                       \
    POINT(JOURNAL_DISMISSED, "journal: heir dismissed", SHMRING_FAULT_BROKER)                      \
    POINT(HEIR_ASKED, "heir: asked", SHMRING_FAULT_HEIR)                                           \
    POINT(HEIR_READY, "heir: said ready", SHMRING_FAULT_HEIR)                                      \
    POINT(HEIR_PACKET, "heir: part of an entry read", SHMRING_FAULT_HEIR)                          \
    POINT(HEIR_RECORD, "heir: part of an entry applied", SHMRING_FAULT_HEIR)                       \
    POINT(HEIR_ENTRY, "heir: entry applied", SHMRING_FAULT_HEIR)                                   \
    POINT(HEIR_KILLED, "heir: stopped broker killed", SHMRING_FAULT_HEIR)                          \
    POINT(HEIR_ALONE, "take over: broker has ended", SHMRING_FAULT_HEIR)                           \
    POINT(OVER_PLACE, "take over: place registered", SHMRING_FAULT_HEIR)                           \
    POINT(OVER_LISTENS, "take over: listens again", SHMRING_FAULT_HEIR)                            \
    POINT(OVER_WATCHES, "take over: one watched", SHMRING_FAULT_HEIR)                              \
    POINT(OVER_DEATH, "take over: begun death announced", SHMRING_FAULT_HEIR)                      \
    POINT(OVER_ATTENDED, "take over: all called", SHMRING_FAULT_HEIR)                              \
    POINT(OVER_RESENT, "take over: one message sent again", SHMRING_FAULT_HEIR)                    \
    POINT(OVER_TOLD, "take over: one told", SHMRING_FAULT_HEIR)                                    \
    POINT(OVER_DONE, "take over: heir looked for", SHMRING_FAULT_HEIR)

#define SHMRING_FAULT_IN_ENUM(name, text, roles) SHMRING_FAULT_##name,
enum shmring_fault_point {
    SHMRING_FAULT_NONE,
    SHMRING_FAULT_POINTS(SHMRING_FAULT_IN_ENUM) SHMRING_FAULT_COUNT,
};
#define SHMRING_FAULTS_MAX 96u
_Static_assert(SHMRING_FAULT_COUNT <= SHMRING_FAULTS_MAX, "the control has a count for each");

/* Of one process, in memory that it shares with whoever arms it. */
struct shmring_fault_control {
    uint32_t armed;   /* a point, 0: none. Who arms stores it last; the process takes it */
    uint32_t role;    /* who arms: only in one of these roles */
    uint32_t pass;    /* who arms: so many arrivals before the one that counts; counted down */
    int32_t signal;   /* who arms: SIGKILL or SIGSTOP */
    uint32_t arrived; /* the process: the point at which it sent itself the signal */
    uint32_t pad;
    uint64_t skew; /* who arms, while the process stands still: added to its counter */
    uint32_t arrivals[2][SHMRING_FAULTS_MAX]; /* the process: as receiver second, as all else
                                               * first */
};

#if defined(SHMRING_SWITCHES)
extern struct shmring_fault_control *shmring_fault_own;
extern __thread uint32_t shmring_fault_acts_as;
void shmring_fault_here(uint32_t point);
#define SHMRING_FAULT(point) shmring_fault_at(SHMRING_FAULT_##point)

/* By how much the counter of this machine has "jumped". */
static inline uint64_t shmring_clock_skew(void)
{
    return __builtin_expect(shmring_fault_own != NULL, 0)
               ? *(const volatile uint64_t *)&shmring_fault_own->skew
               : 0;
}

static inline void shmring_fault_at(enum shmring_fault_point point)
{
    if (__builtin_expect(shmring_fault_own != NULL, 0))
        shmring_fault_here((uint32_t)point);
}
/* From here on this process can be armed. */
static inline void shmring_fault_attach(struct shmring_fault_control *control)
{
    shmring_fault_own = control;
}
/* What this thread does from here on; returns what it did. */
static inline uint32_t shmring_fault_act_as(uint32_t role)
{
    uint32_t before = shmring_fault_acts_as;
    shmring_fault_acts_as = role;
    return before;
}
const char *shmring_fault_name(uint32_t point);
uint32_t shmring_fault_roles(uint32_t point);
/* How often it has come by, in this role. */
static inline uint32_t shmring_fault_arrivals(const struct shmring_fault_control *control,
                                              uint32_t point, uint32_t role)
{
    return ((const volatile uint32_t(*)[SHMRING_FAULTS_MAX])
                control->arrivals)[role == SHMRING_FAULT_RECEIVER][point];
}
/* Gives an order. The process has none, or it was taken back. */
void shmring_fault_arm(struct shmring_fault_control *control, uint32_t point, uint32_t role,
                       uint32_t pass, int32_t signal);
/* Takes it back. False: the process has arrived. */
bool shmring_fault_disarm(struct shmring_fault_control *control);
/* The point at which it arrived, or 0. */
uint32_t shmring_fault_arrived(struct shmring_fault_control *control);
/* 0: this is no special build. */
static inline uint32_t shmring_fault_count(void)
{
    return SHMRING_FAULT_COUNT;
}
#else
#define SHMRING_FAULT(point) ((void)0)
#define shmring_clock_skew() 0
static inline __attribute__((always_inline)) void shmring_fault_at(enum shmring_fault_point point)
{
    (void)point;
}
static inline void shmring_fault_attach(struct shmring_fault_control *control)
{
    (void)control;
}
static inline uint32_t shmring_fault_act_as(uint32_t role)
{
    return role;
}
static inline const char *shmring_fault_name(uint32_t point)
{
    (void)point;
    return "";
}
static inline uint32_t shmring_fault_roles(uint32_t point)
{
    return point & 0;
}
static inline void shmring_fault_arm(struct shmring_fault_control *control, uint32_t point,
                                     uint32_t role, uint32_t pass, int32_t signal)
{
    (void)control, (void)point, (void)role, (void)pass, (void)signal;
}
static inline uint32_t shmring_fault_arrivals(const struct shmring_fault_control *control,
                                              uint32_t point, uint32_t role)
{
    (void)control, (void)point;
    return role & 0;
}
static inline bool shmring_fault_disarm(struct shmring_fault_control *control)
{
    return control != NULL;
}
static inline uint32_t shmring_fault_arrived(struct shmring_fault_control *control)
{
    return control == NULL;
}
static inline uint32_t shmring_fault_count(void)
{
    return 0;
}
#endif
