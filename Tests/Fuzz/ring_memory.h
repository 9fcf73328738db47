/* ring_memory.h - rings and outboxes as the broker makes them, in memory from the heap. */
#pragma once

#include "CShmRing.h"
#include "fuzz.h"

static inline struct shmring_mapping fuzz_segment(uint32_t kind, uint64_t byte_count, uint32_t id,
                                                  uint32_t param_a, uint32_t param_b)
{
    struct shmring_header *header = fuzz_memory(byte_count);
    *header = (struct shmring_header){.magic = SHMRING_MAGIC,
                                      .layout_version = SHMRING_LAYOUT_VERSION,
                                      .kind = kind,
                                      .byte_count = byte_count,
                                      .id = id,
                                      .param_a = param_a,
                                      .param_b = param_b};
    return (struct shmring_mapping){header, byte_count};
}

/* Empty, at its first position. */
static inline struct shmring_mapping fuzz_ring(uint32_t id, uint32_t capacity, uint32_t slot_bytes)
{
    struct shmring_mapping ring = fuzz_segment(
        SHMRING_SEGMENT_RING, shmring_ring_bytes(capacity, slot_bytes), id, capacity, slot_bytes);
    struct shmring_ring_control *control = ring.base;
    control->tail = control->head = capacity;
    return ring;
}

static inline struct shmring_mapping fuzz_outbox(uint32_t id, uint32_t lanes)
{
    return fuzz_segment(SHMRING_SEGMENT_OUTBOX, shmring_outbox_bytes(lanes), id, lanes, 0);
}

static inline struct shmring_mapping fuzz_claims(uint32_t id, uint32_t lanes)
{
    return fuzz_segment(SHMRING_SEGMENT_CLAIMS, shmring_claims_bytes(lanes), id, lanes, 0);
}

static inline uint64_t *fuzz_commit_words(const struct shmring_mapping *outbox)
{
    return (uint64_t *)(void *)((uint8_t *)outbox->base + sizeof(struct shmring_outbox));
}

static inline struct shmring_clock fuzz_clock(void)
{
    static struct shmring_bus_page page; /* A clock asks its page. */
    struct shmring_clock clock;
    shmring_clock_choose(0, &page);
    FUZZ_MUST(shmring_clock_attach(&page, &clock));
    return clock;
}

#define FUZZ_WORDS(memory) ((uint64_t *)(memory).base)
