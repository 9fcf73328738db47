/*
 * A look that waits for something pending whose sender stands still: says for what, so that the
 * layer above can ask for it to be made final. Not on the way of a message: only calls that find a
 * look waiting come here, and most of those only count.
 */
#include <time.h>

#include "inbox_private.h"
#include "shmring_settle.h"

/* So many turns between two looks at the clock: a commit is some hundred ns away mostly. */
#define TURNS_A_CLOCK 8u
#define PAUSE_MIN_NS (10 * SHMRING_STALL_NS)
#define PAUSE_MAX_NS UINT64_C(64000000)

static uint64_t monotonic_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static uint32_t add_blocker(const struct shmring_open *open, uint32_t r,
                            struct shmring_blocker *blockers, uint32_t count)
{
    if (open->state != SHMRING_OPEN_PENDING || count == SHMRING_BLOCKERS_MAX)
        return count;
    blockers[count] = (struct shmring_blocker){
        .ring = r,
        .sender = open->sender,
        .index = (uint32_t)(open->commit >> 32),
        .generation = (uint32_t)(open->commit & SHMRING_COMMIT_GENERATION_MASK)};
    return count + 1;
}

static uint32_t find_blockers(const struct shmring_inbox *inbox, struct shmring_blocker *blockers)
{
    /* What is watched first: there is less of it, and it holds back everything. */
    uint32_t count = shmring_watches_blockers(inbox, blockers, 0);
    for (uint32_t r = 0; r < inbox->ring_count && count < SHMRING_BLOCKERS_MAX; r++) {
        const struct shmring_consumer *consumer = inbox->rings[r];
        for (uint32_t i = 0; i < consumer->open_end; i++)
            count = add_blocker(&consumer->open[i], r, blockers, count);
        for (uint32_t i = 0; i < consumer->retired_count; i++)
            count = add_blocker(&consumer->retired[i], r, blockers, count);
    }
    return count;
}

void shmring_inbox_begin_to_wait(struct shmring_inbox *inbox)
{
    inbox->stalled_at_ns = 0;
    inbox->stall_turns = 0;
    inbox->stall_pause_ns = PAUSE_MIN_NS;
}

void shmring_inbox_goes_on_waiting(struct shmring_inbox *inbox, bool now)
{
    if (inbox->stalled == NULL || (++inbox->stall_turns % TURNS_A_CLOCK != 0 && !now))
        return;
    uint64_t now_ns = monotonic_ns();
    if (inbox->stalled_at_ns == 0)
        inbox->stalled_at_ns = now_ns + SHMRING_STALL_NS;
    if (now_ns < inbox->stalled_at_ns)
        return;
    struct shmring_blocker blockers[SHMRING_BLOCKERS_MAX];
    uint32_t count = find_blockers(inbox, blockers);
    /* There may be more of them: those are told as soon. */
    bool is_all = count < SHMRING_BLOCKERS_MAX;
    /* The broker has been told, and nothing has come of it: perhaps it stands still. */
    if (inbox->called != NULL && inbox->stall_pause_ns > PAUSE_MIN_NS)
        shmring_bus_call(inbox->called);
    inbox->stalled_at_ns = now_ns + (is_all ? inbox->stall_pause_ns : SHMRING_STALL_NS);
    if (inbox->stall_pause_ns < PAUSE_MAX_NS)
        inbox->stall_pause_ns *= 2;
    if (count == 0)
        return;
    inbox->counts.stalls++;
    inbox->stalled(blockers, count, inbox->stalled_context);
}

uint64_t shmring_inbox_sleeps_until(const struct shmring_inbox *inbox, uint64_t until_ns)
{
    bool is_earlier = inbox->waiting != 0 && inbox->stalled != NULL &&
                      inbox->stalled_at_ns != 0 && inbox->stalled_at_ns < until_ns;
    return is_earlier ? inbox->stalled_at_ns : until_ns;
}
