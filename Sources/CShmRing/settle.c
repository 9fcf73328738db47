#include "shmring_settle.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shmring_atomics.h"
#include "shmring_faults.h"

/* The commit words of an outbox, and how many there are: by the broker's own knowledge of the
 * lanes, never by the header, and never beyond the mapping. */
static uint64_t *commit_words(const struct shmring_mapping *outbox, uint32_t lanes,
                              uint32_t *count_out)
{
    uint64_t room = (outbox->byte_count - sizeof(struct shmring_outbox)) / sizeof(uint64_t);
    uint64_t count = (uint64_t)lanes * SHMRING_COMMIT_WORDS;
    *count_out = (uint32_t)(count < room ? count : room);
    return (uint64_t *)(void *)((uint8_t *)outbox->base + sizeof(struct shmring_outbox));
}

/* True when a pending word became aborted. `every`: whatever its generation becomes meanwhile. */
static bool abort_word(uint64_t *word, uint64_t expected, bool every)
{
    const uint64_t asked = expected >> 32;
    while ((expected & SHMRING_COMMIT_STATE_MASK) == SHMRING_COMMIT_PENDING) {
        if (!every && expected >> 32 != asked)
            return false; /* its sender has gone on: this one is younger than the question */
        uint64_t generation = expected >> 32 & SHMRING_COMMIT_GENERATION_MASK;
        uint64_t aborted = SHMRING_COMMIT_ABORTED | generation << 32;
        /* SYNC B1 acq_rel, pairs with C1 in shmring_transaction_commit and C2 in resolve: the
         * sender's own commit or this abort happens, never both. */
        if (shmring_cas_acq_rel(word, &expected, aborted))
            return true;
    }
    return false;
}

uint32_t shmring_outbox_settle(const struct shmring_mapping *outbox, uint32_t lanes)
{
    uint32_t count, aborted = 0;
    uint64_t *words = commit_words(outbox, lanes, &count);
    for (uint32_t i = 0; i < count; i++)
        /* SYNC B1 acquire: no commit that was over before its process ended may be taken for
         * pending; the kernel's word that it ended orders that already. */
        if (abort_word(&words[i], shmring_load_acquire(&words[i]), true))
            aborted++;
    return aborted;
}

uint64_t shmring_outbox_pending(const struct shmring_mapping *outbox, uint32_t lanes,
                                uint32_t index, uint32_t generation)
{
    uint32_t count;
    uint64_t *words = commit_words(outbox, lanes, &count);
    if (index >= count)
        return 0;
    /* SYNC B12 acquire, pairs with C4: whoever sees a word of a lane pending sees that its words
     * before are not. */
    uint64_t word = shmring_load_acquire(&words[index]);
    bool is_pending = (word & SHMRING_COMMIT_STATE_MASK) == SHMRING_COMMIT_PENDING;
    return is_pending && (word >> 32 & SHMRING_COMMIT_GENERATION_MASK) == generation ? word : 0;
}

bool shmring_outbox_abort(const struct shmring_mapping *outbox, uint32_t lanes, uint32_t index,
                          uint32_t generation)
{
    uint32_t count;
    uint64_t *words = commit_words(outbox, lanes, &count);
    uint64_t word = shmring_outbox_pending(outbox, lanes, index, generation);
    return word != 0 && abort_word(&words[index], word, false);
}

void shmring_outbox_attend(const struct shmring_mapping *outbox)
{
    struct shmring_outbox *shared = outbox->base;
    /* SYNC B2 acq_rel, pairs with E1 in PeerCore.readEvents: who sees the new count
     * finds what was put on its socket before. */
    (void)shmring_fetch_add_acq_rel_u32(&shared->attention, 1);
    (void)syscall(SYS_futex, &shared->attention, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void shmring_outbox_set_queued(const struct shmring_mapping *outbox, enum shmring_queued queued)
{
    struct shmring_outbox *shared = outbox->base;
    /* SYNC B13 release, pairs with E3: nothing waits any more means that it is on the socket; that
     * something waits is visible before the kernel's packets that tell others of it. */
    shmring_store_release_u32(&shared->queued, (uint32_t)queued);
}

enum shmring_queued shmring_outbox_queued(const struct shmring_outbox *outbox)
{
    /* SYNC E3 acquire, pairs with B13: read before the socket. */
    return (enum shmring_queued)shmring_load_acquire_u32(&outbox->queued);
}

void shmring_outbox_set_dead(const struct shmring_mapping *outbox, uint64_t stamp)
{
    struct shmring_outbox *shared = outbox->base;
    /* SYNC B4 release, pairs with the loads of `dead` before each send, which may be relaxed: zero
     * or not is all they ask. Who asks with acquire sees the outbox settled. */
    shmring_store_release(&shared->dead, stamp);
}

void shmring_bus_page_init(const struct shmring_mapping *page, uint32_t force_clock)
{
    struct shmring_bus_page *shared = page->base;
    shmring_clock_choose(force_clock, shared);
    shared->epoch = 1;
}

int shmring_bus_page_clock(const struct shmring_mapping *page, struct shmring_clock *clock)
{
    return shmring_clock_attach(page->base, clock);
}

/* From a pending death word to the stamp, which *word is then. False: somebody else was faster. */
static bool announce_commit(struct shmring_bus_page *shared, const struct shmring_clock *clock,
                            uint64_t *word)
{
    /* SYNC B7 full barrier, as C3: the stamp is younger than the visibility of the pending word. */
    shmring_fence_full();
    uint64_t stamp = shmring_clock_now(clock);
    shmring_clock_wait_past(clock, stamp);
    /* SYNC B8 acq_rel, pairs with the receiver's acquire of death: the instant of the death. An
     * heir may have been faster. */
    bool is_own = shmring_cas_acq_rel(&shared->death, word, stamp);
    *word = is_own ? stamp : *word & ~SHMRING_COMMIT_STATE_MASK;
    SHMRING_FAULT(BROKER_STAMPED);
    return is_own;
}

uint64_t shmring_bus_announce(const struct shmring_mapping *page,
                              const struct shmring_clock *clock, uint32_t generation,
                              uint32_t who)
{
    struct shmring_bus_page *shared = page->base;
    uint64_t begun = shmring_clock_now(clock) >> 10 & UINT32_MAX;
    uint64_t pending = SHMRING_COMMIT_PENDING |
                       ((uint64_t)generation & SHMRING_COMMIT_GENERATION_MASK) << 32 | begun;
    /* SYNC B5 release, pairs with the receiver's acquire of death: the outbox of the dead before
     * was marked before this death began. */
    shmring_store_release(&shared->death, pending);
    /* SYNC B6 release, pairs with the receiver's acquire of dead_peer: who reads this name between
     * two readings of death finds the second one changed, and so never takes it for the
     * former's. */
    shmring_store_release(&shared->dead_peer, who);
    SHMRING_FAULT(BROKER_DEATH);
    (void)announce_commit(shared, clock, &pending);
    return pending;
}

uint64_t shmring_bus_announce_again(const struct shmring_mapping *page,
                                    const struct shmring_clock *clock, uint32_t generation,
                                    uint32_t who)
{
    struct shmring_bus_page *shared = page->base;
    /* Relaxed: whoever wrote these words is gone, which the kernel said. A peer dies once, so that
     * its name stands with its own word. */
    uint64_t word = shmring_load_relaxed(&shared->death);
    if (shmring_load_relaxed(&shared->dead_peer) != who)
        return shmring_bus_announce(page, clock, generation, who);
    if ((word & SHMRING_COMMIT_STATE_MASK) != SHMRING_COMMIT_PENDING)
        return word & ~SHMRING_COMMIT_STATE_MASK;
    (void)announce_commit(shared, clock, &word);
    return word;
}

bool shmring_bus_announce_late(const struct shmring_mapping *page,
                               const struct shmring_clock *clock, uint32_t generation,
                               uint32_t who)
{
    struct shmring_bus_page *shared = page->base;
    /* SYNC B14 acquire, pairs with B5: who announces others afterwards changes the word first, so
     * that a name read behind it, of somebody who dies once, is this word's or a later one's. */
    uint64_t word = shmring_load_acquire(&shared->death);
    if ((word & SHMRING_COMMIT_STATE_MASK) != SHMRING_COMMIT_PENDING ||
        (word >> 32 & SHMRING_COMMIT_GENERATION_MASK) !=
            (generation & SHMRING_COMMIT_GENERATION_MASK))
        return false;
    /* Relaxed: behind B14. Not named yet, nobody waits for it. */
    if (shmring_load_relaxed(&shared->dead_peer) != who)
        return false;
    return announce_commit(shared, clock, &word);
}

bool shmring_outbox_find_pending(const struct shmring_mapping *outbox, uint32_t lanes,
                                 uint32_t *next, uint32_t *index, uint32_t *generation)
{
    uint32_t count;
    uint64_t *words = commit_words(outbox, lanes, &count);
    while (*next < count) {
        uint32_t i = (*next)++;
        /* Relaxed: what is found is read again before anything is done to it. */
        uint64_t word = shmring_load_relaxed(&words[i]);
        if ((word & SHMRING_COMMIT_STATE_MASK) != SHMRING_COMMIT_PENDING)
            continue;
        *index = i;
        *generation = (uint32_t)(word >> 32 & SHMRING_COMMIT_GENERATION_MASK);
        return true;
    }
    return false;
}

bool shmring_bus_wait_for_call(const struct shmring_mapping *page, uint32_t timeout_ms)
{
    const struct shmring_bus_page *shared = page->base;
    const struct timespec timeout = {.tv_sec = timeout_ms / 1000,
                                     .tv_nsec = (long)(timeout_ms % 1000) * 1000000};
    return syscall(SYS_futex, &shared->called, FUTEX_WAIT, 0, &timeout, NULL, 0) == 0;
}

void shmring_bus_call(const uint32_t *called)
{
    (void)syscall(SYS_futex, called, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

uint32_t shmring_claims_copy(const struct shmring_mapping *claims, uint32_t lanes, uint32_t first,
                             struct shmring_claim *claims_out, uint32_t capacity, uint32_t *next)
{
    const uint8_t *base = claims->base;
    const uint64_t *words = (const uint64_t *)(const void *)(base + SHMRING_CLAIMS_OFFSET);
    uint64_t room = (claims->byte_count - SHMRING_CLAIMS_OFFSET) / sizeof(uint64_t);
    uint64_t count = (uint64_t)lanes * SHMRING_CLAIM_WORDS;
    uint32_t copied = 0;

    if (count > room)
        count = room;
    uint32_t i = first;
    for (; i < count && copied < capacity; i++) {
        /* SYNC B9 acquire, pairs with R1: the receiver saw tail pass the position and asked through
         * the kernel, so that its claimer's word is visible here. */
        uint64_t word = shmring_load_acquire(&words[i]);
        if (word == 0)
            continue;
        claims_out[copied++] = (struct shmring_claim){.count = (uint32_t)(word >> 52),
                                                      .ring = (uint32_t)(word >> 32) & 0xfffff,
                                                      .position = (uint32_t)word};
    }
    *next = i;
    return copied;
}

bool shmring_claim_names(struct shmring_claim claim, uint32_t ring, uint64_t position)
{
    /* A word bears the low half of its position; a ring is far shorter than what that can tell. */
    return claim.ring == ring && (uint32_t)position - claim.position < claim.count;
}
