/*
 * shmring_settle.h - what the broker does to shared words: it settles those of the dead, announces
 * their end, and tells the living that there is something to read.
 *
 * Guarantees:
 *   1. After shmring_outbox_settle no commit word of the outbox is pending, whatever its former
 *      owner had written there; each word was changed by one compare-and-swap, so that a commit is
 *      never undone.
 *   2. shmring_bus_announce is one transaction: all that is read from the bus page before its
 *      compare-and-swap says "not yet", all after it says "at this stamp".
 *
 * NOTE - everything in claims and outboxes is hostile; nothing here follows a value found there.
 */
#pragma once

#include "shmring_clock.h"
#include "shmring_layout.h"
#include "shmring_segment.h"

/* Aborts what is pending, keeping the generation. Returns how many words that were. */
uint32_t shmring_outbox_settle(const struct shmring_mapping *outbox, uint32_t lanes);
/* The word, if it is pending in this generation; else 0. */
uint64_t shmring_outbox_pending(const struct shmring_mapping *outbox, uint32_t lanes,
                                uint32_t index, uint32_t generation);
/* Aborts one word, if it is pending in this generation. True if so. */
bool shmring_outbox_abort(const struct shmring_mapping *outbox, uint32_t lanes, uint32_t index,
                          uint32_t generation);
/* Counts up the attention word and wakes whoever waits on it. */
void shmring_outbox_attend(const struct shmring_mapping *outbox);
/* Says whether something waits behind the owner's socket: before anybody else is told of what it
 * says, and after it is on the socket. */
void shmring_outbox_set_queued(const struct shmring_mapping *outbox, enum shmring_queued queued);
/* As the owner reads it, who then reads its socket. */
enum shmring_queued shmring_outbox_queued(const struct shmring_outbox *outbox);
/* The stamp of its owner's end, for those who look later. */
void shmring_outbox_set_dead(const struct shmring_mapping *outbox, uint64_t stamp);

/* Fills in a new bus page. `force_clock`: 0, or an enum shmring_clock_source. */
void shmring_bus_page_init(const struct shmring_mapping *page, uint32_t force_clock);
int shmring_bus_page_clock(const struct shmring_mapping *page, struct shmring_clock *clock);
/* Announces the end of `who` and returns its stamp. One at a time; generations go up by one. */
uint64_t shmring_bus_announce(const struct shmring_mapping *page,
                              const struct shmring_clock *clock, uint32_t generation,
                              uint32_t who);

/* The same for an end that another process may have begun to announce, and not gone on with: from
 * any point of it. That process is gone. */
uint64_t shmring_bus_announce_again(const struct shmring_mapping *page,
                                    const struct shmring_clock *clock, uint32_t generation,
                                    uint32_t who);

/* ---- in the place of a broker that stands still ---------------------------------------------- */

/* Goes on with an end that a broker has begun to announce and may go on with itself: whoever is
 * first commits it, and the other finds that. True: this call did. */
bool shmring_bus_announce_late(const struct shmring_mapping *page,
                               const struct shmring_clock *clock, uint32_t generation,
                               uint32_t who);
/* The next pending commit word, from *next on, which goes on behind it: its index and generation.
 * False: there is none. */
bool shmring_outbox_find_pending(const struct shmring_mapping *outbox, uint32_t lanes,
                                 uint32_t *next, uint32_t *index, uint32_t *generation);
/* Waits until somebody calls. False: nobody has, in that time. */
bool shmring_bus_wait_for_call(const struct shmring_mapping *page, uint32_t timeout_ms);
/* Calls whoever waits there: a hint, and nothing but that. `called` is the page's word. */
void shmring_bus_call(const uint32_t *called);

/* A claim word, taken apart. A word of zero has count 0. */
struct shmring_claim {
    uint32_t count, ring, position;
};
/* Copies claim words from `first` on, up to `capacity`, into private memory: only those that are
 * not zero. Returns how many, and in *next where to go on; at the end *next is the number of
 * words. */
uint32_t shmring_claims_copy(const struct shmring_mapping *claims, uint32_t lanes, uint32_t first,
                             struct shmring_claim *claims_out, uint32_t capacity, uint32_t *next);
/* Whether a word names this position of this ring. */
bool shmring_claim_names(struct shmring_claim claim, uint32_t ring, uint64_t position);
