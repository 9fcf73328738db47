/* The order of what a look has found: by stamp, what has one below the look's t0. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inbox_private.h"

/* A stamp that the clock has not reached yet is a lie; it is read when its slot was visible. So is
 * one of before its slot was claimed. */
static int check_stamp(struct shmring_inbox *inbox, uint32_t r, struct shmring_open *open)
{
    if (open->stamp < open->unclaimed && !SHMRING_UNCHECKED(PAST_STAMP))
        return shmring_inbox_breach(inbox, r, open->sender, SHMRING_BREACH_STAMP);
    if (open->stamp < inbox->look_t0 || open->stamp <= shmring_clock_now(&inbox->clock))
        return SHMRING_OK;
    if (SHMRING_UNCHECKED(FUTURE_STAMP)) {
        inbox->look_t0 = open->stamp + 1;
        return SHMRING_OK;
    }
    if (inbox->rings[r]->foreign)
        return shmring_inbox_breach(inbox, r, open->sender, SHMRING_BREACH_STAMP);
    open->stamp = inbox->look_t0 - 1; /* within the domain: misplaced, as its sender wished */
    inbox->counts.clamped++;
    return SHMRING_OK;
}

static int reserve_ready(struct shmring_inbox *inbox)
{
    uint32_t needed = inbox->ready_needed + inbox->watch_count;
    if (needed > inbox->ready_capacity) {
        struct shmring_ready *grown = realloc(inbox->ready, needed * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        inbox->ready = grown;
        inbox->ready_capacity = needed;
    }
    return SHMRING_OK;
}

/* By stamp. Equal stamps are of transactions that went on at the same time, or of one: multicasts
 * go by who sent them, the same everywhere, behind them what else that one's transaction ended, and
 * deaths last; what shares a stamp and a sender as it was claimed. */
static bool comes_after(const struct shmring_ready *a, const struct shmring_ready *b)
{
    if (a->stamp != b->stamp)
        return a->stamp > b->stamp;
    if (a->tie != b->tie)
        return a->tie > b->tie;
    if (a->ring != b->ring)
        return a->ring > b->ring;
    return a->position > b->position;
}

static void sift(struct shmring_ready *heap, uint32_t at, uint32_t count)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            return;
        if (child + 1 < count && comes_after(&heap[child + 1], &heap[child]))
            child++;
        if (!comes_after(&heap[child], &heap[at]))
            return;
        struct shmring_ready swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
        at = child;
    }
}

/* In place, no worse than n log n whatever a hostile sender stamps; nothing to do when sorted. */
static bool sort_ready(struct shmring_ready *ready, uint32_t count)
{
    uint32_t sorted = 1;
    while (sorted < count && !comes_after(&ready[sorted - 1], &ready[sorted]))
        sorted++;
    if (sorted >= count)
        return false;
    if (count <= 16) {
        for (uint32_t i = 1; i < count; i++) {
            struct shmring_ready one = ready[i];
            uint32_t j = i;
            for (; j > 0 && comes_after(&ready[j - 1], &one); j--)
                ready[j] = ready[j - 1];
            ready[j] = one;
        }
        return true;
    }
    for (uint32_t i = count / 2; i-- > 0;)
        sift(ready, i, count);
    for (uint32_t i = count; i-- > 1;) {
        struct shmring_ready swap = ready[0];
        ready[0] = ready[i];
        ready[i] = swap;
        sift(ready, 0, i);
    }
    return true;
}

/* A look that was begun anew between two parts of one transaction: the rest of it comes first. What
 * had been passed over may have a lower stamp, and has its place behind what was told before it. */
static void finish_transaction(struct shmring_inbox *inbox)
{
    if (inbox->told_tie == 0 || inbox->told_stamp != inbox->last_stamp)
        return;
    struct shmring_ready *ready = inbox->ready;
    uint32_t first = 0;
    for (uint32_t i = 0; i < inbox->ready_end && ready[i].stamp <= inbox->told_stamp; i++) {
        if (ready[i].stamp != inbox->told_stamp || ready[i].tie == UINT64_MAX ||
            ready[i].tie >> 32 != inbox->told_tie >> 32)
            continue;
        struct shmring_ready one = ready[i];
        memmove(&ready[first + 1], &ready[first], (i - first) * sizeof one);
        ready[first++] = one;
    }
}

int shmring_inbox_gather(struct shmring_inbox *inbox)
{
    inbox->ready_first = inbox->ready_end = 0;
    inbox->waiting = 0;
    int result = reserve_ready(inbox);
    if (result)
        return result;
    for (uint32_t r = 0; r < inbox->ring_count; r++) {
        struct shmring_consumer *consumer = inbox->rings[r];
        uint32_t open_count = consumer->open_end;
        for (uint32_t i = 0; i < open_count + consumer->retired_count; i++) {
            bool retired = i >= open_count;
            uint32_t index = retired ? i - open_count : i;
            struct shmring_open *open =
                retired ? &consumer->retired[index] : &consumer->open[index];
            if (open->state != SHMRING_OPEN_HAPPENED)
                continue;
            result = check_stamp(inbox, r, open);
            if (result) {
                inbox->ready_end = 0; /* half a gathering is none: the next look reads all again */
                return result;
            }
            if (open->stamp >= inbox->look_t0) {
                open->state = SHMRING_OPEN_UNRESOLVED; /* the next look's */
                continue;
            }
            inbox->ready[inbox->ready_end++] = (struct shmring_ready){
                .stamp = open->stamp,
                .tie = open->tie,
                .position = open->position,
                .ring = r,
                .index = index | (retired ? READY_RETIRED : 0)};
        }
    }
    shmring_watches_gather(inbox);
    if (SHMRING_BROKEN(NO_LOOK_AHEAD))
        return SHMRING_OK;
    if (sort_ready(inbox->ready, inbox->ready_end))
        inbox->counts.reordered++;
    finish_transaction(inbox);
    return SHMRING_OK;
}
