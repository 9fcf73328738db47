/*
 * shmring_newcomers.h - those to whom the broker gave something of an outbox's owner, and of whom
 * that owner has not read yet.
 *
 * Whoever ends what they were given must tell them, and cannot: it does not know them. It sees by a
 * count in its own outbox that there are such, and asks the broker, which knows everybody and can
 * reach every ring, to set their flags.
 *
 * Guarantees:
 *   1. The count is there before the newcomer is told. So a newcomer that reads a word before it
 *      was pending was counted before the word's owner looks (N7), which then asks.
 *   2. shmring_newcomers_wait returns true only when the flags are set.
 *
 * NOTE - the owner waits for the broker here, for nobody else, and not for ever.
 */
#pragma once

#include "shmring_layout.h"
#include "shmring_segment.h"

/* The broker's: counts a newcomer. Before that one learns what it was given. */
void shmring_newcomers_count(const struct shmring_mapping *outbox);
/* A successor's of the broker: how many have been told, or will be before anybody else is. */
void shmring_newcomers_set(const struct shmring_mapping *outbox, uint64_t count);
/* The broker's: sets a flag in a ring's control and wakes who sleeps there. event_fd: by which it
 * wants to be woken, or -1. */
void shmring_newcomers_flag(const struct shmring_mapping *ring, uint64_t flag, int32_t event_fd);
/* The broker's: all flags are set that were asked for by this number. */
void shmring_newcomers_answer(const struct shmring_mapping *outbox, uint32_t number);

/* The owner's: how many have been counted. */
uint64_t shmring_newcomers_counted(const struct shmring_outbox *outbox);
/* The owner's: waits until that number is answered. False when it is not by then. */
bool shmring_newcomers_wait(const struct shmring_outbox *outbox, uint32_t number,
                            uint64_t deadline_ns);
