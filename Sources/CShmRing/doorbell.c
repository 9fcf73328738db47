/*
 * Sleep and wake. A receiver parks: a park number in each ring, a full barrier, one more look, then
 * the futex. A sender that sees the number rings first and only then swaps it to 0.
 *
 * Every word here is a hint: after each wake everything is looked at anew, and no wait is longer
 * than LONGEST_SLEEP_NS, so that a hostile writer of doorbell or parked delays its own domain at
 * most.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "CShmRing.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define LONGEST_SLEEP_NS UINT64_C(250000000)
#define POLL_NS UINT64_C(1000000) /* where several words cannot be waited for at once */
#define NS_PER_S UINT64_C(1000000000)

/* struct shmring_word is struct futex_waitv, which headers before 5.16 lack. */
#define WAITV_U32 2u

static uint32_t waitv_refused; /* 1 once the kernel said ENOSYS; relaxed: a late reader asks
                                * again */

static uint64_t monotonic_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static struct timespec to_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Waits until a word changes, a wake, a signal, or the time; which of them does not matter. */
static void sleep_on(const struct shmring_word *words, uint32_t count, uint64_t until_ns)
{
    struct timespec until = to_timespec(until_ns);
    if (count > 1 && !shmring_load_relaxed_u32(&waitv_refused)) { /* Relaxed: see there. */
        long r = syscall(SYS_futex_waitv, words, count, 0, &until, CLOCK_MONOTONIC);
        if (r >= 0 || errno != ENOSYS)
            return;
        shmring_store_relaxed_u32(&waitv_refused, 1); /* Relaxed: see there. */
    }
    if (count > 1)
        until = to_timespec(earlier(until_ns, monotonic_ns() + POLL_NS));
    (void)syscall(SYS_futex, words[0].address, FUTEX_WAIT_BITSET, (uint32_t)words[0].value,
                  &until, NULL, FUTEX_BITSET_MATCH_ANY);
}

const char *shmring_doorbell_name(void)
{
    struct timespec past = {0};
    uint32_t word = 0;
    struct shmring_word words = shmring_word_at(&word, 1);
    if (syscall(SYS_futex_waitv, &words, 1, 0, &past, CLOCK_MONOTONIC) < 0 && errno == ENOSYS)
        return "futex, polling every ms above one ring";
    return "futex_waitv";
}

static void announce(struct shmring_inbox *inbox, uint64_t number)
{
    for (uint32_t r = 0; r < inbox->ring_count; r++)
        shmring_store_relaxed(&inbox->rings[r]->control->parked, number); /* Relaxed: D2 orders
                                                                           * it. */
    /* SYNC D2 full barrier, pairs with D1 in shmring_producer_finish: the look that follows finds
     * the message, or its sender finds the number. Without it both miss, and the receiver
     * sleeps. */
    shmring_fence_full();
    SHMRING_FAULT(PARK_ANNOUNCED);
}

static bool attention_changed(const struct shmring_inbox *inbox)
{
    /* SYNC E2 acquire, pairs with B2 in shmring_outbox_attend: the broker's message is on the
     * socket before its count is seen. */
    return shmring_load_acquire_u32(inbox->attention) != inbox->attention_seen;
}

struct shmring_word shmring_word_at(const uint32_t *word, uint32_t value)
{
    return (struct shmring_word){
        .value = value, .address = (uint64_t)(uintptr_t)word, .flags = WAITV_U32};
}

void shmring_words_sleep(const struct shmring_word *words, uint32_t count, uint64_t until_ns)
{
    sleep_on(words, count, until_ns);
}

void shmring_word_wake(const uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

int shmring_inbox_park(struct shmring_inbox *inbox, struct shmring_message *message,
                       struct shmring_word *words, uint32_t *count)
{
    bool by_futex = inbox->ring_count <= SHMRING_FUTEX_RINGS_MAX;
    uint32_t n = 0;
    for (uint32_t r = 0; by_futex && r < inbox->ring_count; r++) {
        uint32_t *bell = &inbox->rings[r]->control->doorbell;
        /* SYNC D4 acquire, pairs with D3 in shmring_producer_ring: read before the number is
         * announced, so that who rings for this number changes it against what is waited for. */
        words[n++] = shmring_word_at(bell, shmring_load_acquire_u32(bell));
    }
    words[n++] = shmring_word_at(inbox->attention, inbox->attention_seen);
    *count = n;
    uint64_t number = ++inbox->park_number & ~SHMRING_PARKED_ON_EVENT;
    announce(inbox, by_futex ? number : number | SHMRING_PARKED_ON_EVENT);
    for (uint32_t r = 0; r < inbox->ring_count; r++)
        shmring_consumer_publish_head(inbox->rings[r], true);
    int result = shmring_inbox_take_slow(inbox, message, true);
    if (result == SHMRING_E_EMPTY && attention_changed(inbox))
        return SHMRING_E_ATTENTION;
    return result;
}

void shmring_inbox_unpark(struct shmring_inbox *inbox)
{
    /* Relaxed: a hint. Who still sees the number rings in vain; who sees 0 finds this receiver
     * awake, or before its next announcement, whose D2 makes it look once more. */
    for (uint32_t r = 0; r < inbox->ring_count; r++)
        shmring_store_relaxed(&inbox->rings[r]->control->parked, 0);
}

/* One parking: SHMRING_E_EMPTY after a wake or the time, or what the second look found. */
static int park(struct shmring_inbox *inbox, struct shmring_message *message, uint64_t until_ns)
{
    struct shmring_word words[SHMRING_PARK_WORDS];
    uint32_t count = 0;
    int result = shmring_inbox_park(inbox, message, words, &count);
    if (result == SHMRING_E_EMPTY) {
        inbox->counts.parked++;
        until_ns = shmring_inbox_sleeps_until(inbox, until_ns);
        SHMRING_FAULT(PARK_LOOKED);
        if (inbox->ring_count <= SHMRING_FUTEX_RINGS_MAX)
            sleep_on(words, count, until_ns);
        else if (inbox->sleep != NULL)
            inbox->sleep(inbox->sleep_context, until_ns);
        else
            sleep_on(words, count, earlier(until_ns, monotonic_ns() + POLL_NS));
        SHMRING_FAULT(PARK_WOKEN);
    }
    shmring_inbox_unpark(inbox);
    return result == SHMRING_E_ATTENTION ? SHMRING_E_EMPTY : result;
}

int shmring_inbox_wait(struct shmring_inbox *inbox, struct shmring_message *message,
                       uint64_t spin_ns, uint64_t deadline_ns)
{
    uint64_t spin_until = 0;
    for (uint64_t turn = 1;; turn++) {
        int result = shmring_inbox_spin(inbox, message, spin_ns != 0 ? 1 : 0);
        if (result != SHMRING_E_EMPTY)
            return result;
        if (attention_changed(inbox))
            return SHMRING_E_ATTENTION;
        if (spin_ns == UINT64_MAX && deadline_ns == UINT64_MAX)
            continue;
        /* The first turns of a wait count nanoseconds: no clock, no pause. */
        if (spin_ns != 0 && (turn & 255) != 0)
            continue;
        uint64_t now = monotonic_ns();
        if (now >= deadline_ns)
            return shmring_inbox_take_slow(inbox, message, true);
        if (spin_until == 0)
            spin_until = spin_ns > UINT64_MAX - now ? UINT64_MAX : now + spin_ns;
        if (now < spin_until)
            continue;
        /* Several came since the last sleep: whoever shares this processor may go first, and more
         * has come when the turn is back. Receivers that share one would sleep and wake for each
         * message. */
        if (spin_ns == 0 && inbox->sequence - inbox->yielded_at >= 2) {
            inbox->yielded_at = inbox->sequence;
            (void)sched_yield();
            continue;
        }
        uint64_t longest_ns = SHMRING_UNCHECKED(SLEEP) ? 3600 * NS_PER_S : LONGEST_SLEEP_NS;
        result = park(inbox, message, earlier(now + longest_ns, deadline_ns));
        if (result != SHMRING_E_EMPTY)
            return result;
        if (SHMRING_UNCHECKED(WAKE))
            return SHMRING_E_EMPTY;
        spin_until = 0; /* a wake is news: what it announced may still be on its way */
    }
}

int shmring_inbox_arm(struct shmring_inbox *inbox, struct shmring_message *message)
{
    uint64_t number = ++inbox->park_number | SHMRING_PARKED_ON_EVENT;
    announce(inbox, number);
    for (uint32_t r = 0; r < inbox->ring_count; r++)
        shmring_consumer_publish_head(inbox->rings[r], true);
    int result = shmring_inbox_take_slow(inbox, message, true);
    if (result == SHMRING_E_EMPTY && attention_changed(inbox))
        return SHMRING_E_ATTENTION;
    return result;
}

int shmring_producer_wait_for_head(struct shmring_producer *producer, uint64_t deadline_ns)
{
    /* Relaxed: a guess at how many positions are in use. What changes in between bounds the wait
     * below, and is no reason to read them together. */
    uint64_t head = shmring_load_relaxed(&producer->control->head);
    uint64_t used = shmring_load_relaxed(&producer->control->tail) - head;
    if (used == 0 || used > producer->capacity)
        return SHMRING_OK;
    return shmring_producer_wait(producer, used + producer->withheld, deadline_ns);
}

int shmring_producer_announce(struct shmring_producer *producer, uint64_t room,
                              struct shmring_word *word)
{
    struct shmring_ring_control *control = producer->control;
    /* SYNC W3 acquire, pairs with W4 in shmring_consumer_publish_head: read before the wait is
     * announced, so that who wakes it changes what the futex compares, and strikes out none that
     * was announced after that. */
    *word = shmring_word_at(&control->room, shmring_load_acquire_u32(&control->room));
    /* Relaxed: W1 orders it. */
    shmring_store_relaxed_u32(&control->waiters, 1);
    /* SYNC W1 full barrier, pairs with W2 in shmring_consumer_publish_head: the look that follows
     * finds the new head, or the consumer finds the waiter. */
    shmring_fence_full();
    SHMRING_FAULT(PARK_ROOM);
    uint64_t tail;
    return shmring_producer_room(producer, 1, room, &tail);
}

int shmring_producer_wait(struct shmring_producer *producer, uint64_t room, uint64_t deadline_ns)
{
    struct shmring_word word;
    int result = shmring_producer_announce(producer, room, &word);
    if (result != SHMRING_E_FULL)
        return result;
    uint64_t now = monotonic_ns();
    if (now >= deadline_ns)
        return SHMRING_E_FULL;
    /* Bounded: a receiver that publishes head while it is idle reads `waiters` without a
     * barrier. */
    sleep_on(&word, 1, earlier(now + 10 * POLL_NS, deadline_ns));
    uint64_t tail;
    return shmring_producer_room(producer, 1, room, &tail);
}
