/*
 * shmring_checks.h - checks of what others write that a special build can leave out, one at a time,
 * to show that each attack does harm where nothing stops it (docs/trust.md).
 *
 * Built as the rules of shmring_switches.h are, with BUS1_SWITCHES=1; then BUS1_UNCHECKED in the
 * environment of the program names the check. In every other build SHMRING_UNCHECKED is the
 * constant 0, and nothing of this is left: a test looks for the symbols.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum shmring_check {
    SHMRING_CHECK_NONE,
    /* What a sender writes. */
    SHMRING_CHECK_TAIL,         /* lies within a lap of head, and never behind what was looked at */
    SHMRING_CHECK_CLASS,        /* of a slot: unicast, multicast or void */
    SHMRING_CHECK_LENGTH,       /* of a body: no more than a slot has */
    SHMRING_CHECK_LAP,          /* the header is of this position, not of an earlier lap */
    SHMRING_CHECK_FUTURE_STAMP, /* no stamp is ahead of the clock */
    SHMRING_CHECK_PAST_STAMP,   /* nor older than when its slot was seen unclaimed */
    SHMRING_CHECK_COMMIT_INDEX, /* of a commit word: one that the outbox has */
    SHMRING_CHECK_GENERATION,   /* of a commit word: that of the message */
    SHMRING_CHECK_COMMIT_KEPT,  /* a stamp, once read, is not read again */
    SHMRING_CHECK_CLAIMS,       /* so many indices are out of service, and no more */
    SHMRING_CHECK_SLICE,        /* a slice lies within its segment */
    SHMRING_CHECK_HELD,         /* a segment stays mapped while a slice of it is held */
    /* What a receiver writes. */
    SHMRING_CHECK_HEAD,   /* lies within a lap of tail */
    SHMRING_CHECK_LEDGER, /* what comes back is what was lent */
    SHMRING_CHECK_BELL,   /* who rings does not wait */
    SHMRING_CHECK_SLEEP,  /* who sleeps wakes by itself, a while later */
    SHMRING_CHECK_WAKE,   /* a wake is a hint: who finds nothing sleeps on */
    SHMRING_CHECK_QUOTA,  /* no more is lent than a pool may hold */
    /* What anybody hands over. */
    SHMRING_CHECK_KIND,     /* a descriptor is of a memfd */
    SHMRING_CHECK_SEALS,    /* that cannot shrink, or be written by others */
    SHMRING_CHECK_SIZE,     /* and has the size that was said */
    SHMRING_CHECK_BLOCKS,   /* and all of its blocks */
    SHMRING_CHECK_HOLES,    /* and no hole */
    SHMRING_CHECK_GEOMETRY, /* a ring's header says what its size says */
    /* What a peer says to the broker, or leaves standing. */
    SHMRING_CHECK_LEASE,   /* a commit word does not stay pending for long */
    SHMRING_CHECK_HANG_UP, /* who hangs up is not dead */
    SHMRING_CHECK_SHARE,   /* no user takes more than a share of a table that fills up */
    SHMRING_CHECK_NAMES,   /* a peer has so many names, and no more */
    /* What comes under rights that nobody gave. */
    SHMRING_CHECK_RIGHTS, /* so much from a foreign domain, and no more */
    /* What is sent through sockets. */
    SHMRING_CHECK_PEEK,   /* descriptors are looked at where they are until they are asked for */
    SHMRING_CHECK_PACKET, /* a packet for the broker is as long as it says, and of a kind */
};

#if defined(SHMRING_SWITCHES)
extern uint32_t shmring_unchecked;
#define SHMRING_UNCHECKED(check) (shmring_unchecked == SHMRING_CHECK_##check)
#else
#define SHMRING_UNCHECKED(check) 0
#endif

static inline bool shmring_unchecked_lease(void)
{
    return SHMRING_UNCHECKED(LEASE);
}
static inline bool shmring_unchecked_hang_up(void)
{
    return SHMRING_UNCHECKED(HANG_UP);
}
static inline bool shmring_unchecked_share(void)
{
    return SHMRING_UNCHECKED(SHARE);
}
static inline bool shmring_unchecked_names(void)
{
    return SHMRING_UNCHECKED(NAMES);
}
static inline bool shmring_unchecked_rights(void)
{
    return SHMRING_UNCHECKED(RIGHTS);
}
static inline bool shmring_unchecked_peek(void)
{
    return SHMRING_UNCHECKED(PEEK);
}
static inline bool shmring_unchecked_packet(void)
{
    return SHMRING_UNCHECKED(PACKET);
}
