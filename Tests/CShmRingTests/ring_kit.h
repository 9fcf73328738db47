/*
 * ring_kit.h - rings, senders and an inbox for tests, made as the broker makes them.
 *
 * What cannot be made ends the test program: no test goes on without it. Descriptors stay open, so
 * that a forked process, which inherits no mapping of a segment, can map it again.
 */
#pragma once

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "CShmRing.h"
#include "check.h"

#define KIT_BODY_BYTES_MAX (SHMRING_SLOT_BYTES_MAX - SHMRING_SLOT_HEADER_BYTES)

/* A message with room for the largest body. */
union kit_message {
    struct shmring_message m;
    uint64_t words[(sizeof(struct shmring_message) + KIT_BODY_BYTES_MAX) / 8 + 1];
};

struct kit_ring {
    int fd;
    struct shmring_mapping mapping;
    struct shmring_ring_control *control;
    struct shmring_consumer consumer;
};

/* What one peer owns to send: claim words and an outbox of some lanes. */
struct kit_sender {
    int claims_fd, outbox_fd;
    struct shmring_mapping claims, outbox;
    uint32_t lanes;
};

/* One receiver and what it looks at besides its rings. */
struct kit_inbox {
    struct shmring_inbox inbox;
    uint64_t death;
    uint32_t attention;
};

static inline void kit_must(int result, const char *what)
{
    if (result == 0)
        return;
    (void)fprintf(stderr, "%s: %s: %s\n", check_current, what, shmring_error_text(result));
    exit(1);
}
#define KIT_MUST(call) kit_must((call), #call)

static inline struct shmring_mapping kit_map(int fd, enum shmring_segment_kind kind)
{
    struct shmring_mapping mapping;
    KIT_MUST(shmring_segment_map(fd, kind, SHMRING_READ_WRITE, 0, false, false, NULL, NULL,
                                 &mapping));
    return mapping;
}

/* source: an enum shmring_clock_source, or 0 for the machine's choice. */
static inline struct shmring_clock kit_clock(uint32_t source, uint32_t coarse_ns)
{
    static struct shmring_bus_page pages[64]; /* A clock asks its page. */
    static uint32_t page_count;
    struct shmring_bus_page *page = &pages[page_count++ % 64];
    struct shmring_clock clock;
    shmring_clock_choose(source, page);
    page->clock_coarse_ns = coarse_ns;
    KIT_MUST(shmring_clock_attach(page, &clock));
    return clock;
}

static inline void kit_ring_open(struct kit_ring *ring, uint32_t id, uint32_t capacity,
                                 uint32_t slot_bytes)
{
    KIT_MUST(shmring_ring_create(id, capacity, slot_bytes, &ring->fd));
    ring->mapping = kit_map(ring->fd, SHMRING_SEGMENT_RING);
    ring->control = ring->mapping.base;
    KIT_MUST(shmring_consumer_init(&ring->consumer, &ring->mapping, false));
}

/* As if the ring had been used up to `position`: empty there. */
static inline void kit_ring_begin_at(struct kit_ring *ring, uint64_t position)
{
    bool foreign = ring->consumer.foreign;
    shmring_store_relaxed(&ring->control->tail, position);
    shmring_store_relaxed(&ring->control->head, position);
    shmring_consumer_deinit(&ring->consumer);
    KIT_MUST(shmring_consumer_init(&ring->consumer, &ring->mapping, foreign));
}

static inline void kit_ring_close(struct kit_ring *ring)
{
    shmring_consumer_deinit(&ring->consumer);
    shmring_segment_unmap(&ring->mapping);
    (void)close(ring->fd);
}

static inline void kit_sender_open(struct kit_sender *sender, uint32_t peer_id, uint32_t lanes)
{
    sender->lanes = lanes;
    KIT_MUST(shmring_claims_create(peer_id, lanes, &sender->claims_fd));
    KIT_MUST(shmring_outbox_create(peer_id, lanes, &sender->outbox_fd));
    sender->claims = kit_map(sender->claims_fd, SHMRING_SEGMENT_CLAIMS);
    sender->outbox = kit_map(sender->outbox_fd, SHMRING_SEGMENT_OUTBOX);
}

static inline void kit_sender_close(struct kit_sender *sender)
{
    shmring_segment_unmap(&sender->claims);
    shmring_segment_unmap(&sender->outbox);
    (void)close(sender->claims_fd);
    (void)close(sender->outbox_fd);
}

static inline uint64_t *kit_claim_words(const struct kit_sender *sender, uint32_t lane)
{
    uint8_t *base = sender->claims.base;
    return (uint64_t *)(void *)(base + SHMRING_CLAIMS_OFFSET) + (size_t)lane * SHMRING_CLAIM_WORDS;
}

static inline uint64_t *kit_commit_words(const struct kit_sender *sender)
{
    return (uint64_t *)(void *)((uint8_t *)sender->outbox.base + sizeof(struct shmring_outbox));
}

static inline uint64_t *kit_release_words(const struct kit_sender *sender)
{
    uint8_t *base = sender->outbox.base;
    return (uint64_t *)(void *)(base + shmring_outbox_release_offset(sender->lanes));
}

static inline void kit_introduce(struct kit_ring *ring, uint32_t index,
                                 const struct kit_sender *sender)
{
    KIT_MUST(shmring_consumer_set_sender(&ring->consumer, index, sender->outbox.base,
                                         sender->lanes));
}

static inline void kit_inbox_open(struct kit_inbox *kit, const struct shmring_clock *clock,
                                  struct kit_ring *rings, uint32_t count)
{
    kit->death = 0;
    kit->attention = 0;
    shmring_inbox_init(&kit->inbox, clock, &kit->death, &kit->attention);
    for (uint32_t i = 0; i < count; i++)
        KIT_MUST(shmring_inbox_add(&kit->inbox, &rings[i].consumer));
}

/* The next message, if there is one: found now, not some calls later. */
static inline int kit_take(struct kit_inbox *kit, union kit_message *message)
{
    return shmring_inbox_take_slow(&kit->inbox, &message->m, true);
}

/* Sends an 8-byte value. */
static inline int kit_send(struct shmring_producer *producer, const struct shmring_clock *clock,
                           uint64_t value)
{
    uint64_t stamp;
    return shmring_producer_send(producer, clock, 1, 0, &value, sizeof value, &stamp);
}

/* Claims a position as a sender does that is then stopped; the claim word stays. */
static inline uint64_t kit_claim(struct shmring_producer *producer, uint64_t *claim_word)
{
    uint64_t position = 0;
    KIT_MUST(shmring_producer_claim(producer, claim_word, producer->unicast_room, &position));
    return position;
}

/* Writes an 8-byte value at a claimed position; with the class unicast `stamp` is its stamp. */
static inline void kit_write(struct shmring_producer *producer, uint64_t position, uint64_t class,
                             uint64_t stamp, uint64_t value)
{
    struct shmring_slot *slot = shmring_producer_slot(producer, position);
    shmring_copy(slot->body, &value, sizeof value);
    shmring_slot_publish(slot, position, class, stamp,
                         SHMRING_ROUTE(1, producer->sender, sizeof value));
}

/* A process of its own, which dies with this one and whose watchdog is shorter than ours. */
static inline pid_t kit_fork(void)
{
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)alarm(20u * CHECK_SLOW);
    }
    return pid;
}

/* 0 when it ended by exit(0), else what waitpid said. */
static inline int kit_join(pid_t pid)
{
    int status = -1;
    (void)waitpid(pid, &status, 0);
    return status;
}

/* Zeroed memory that forked processes share. */
static inline void *kit_shared(size_t byte_count)
{
    void *base = mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        kit_must(-1, "mmap");
    return base;
}
