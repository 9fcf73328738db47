/*
 * A descriptor that somebody sent: a file of any size, seals and first bytes, mapped as each kind
 * of segment, and what is then made of its header: consumer, producer, lane, clock, the broker's
 * words.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "CShmRing.h"
#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

static uint64_t size_of(uint32_t kind, uint32_t capacity, uint32_t slot_bytes)
{
    switch (kind) {
    case SHMRING_SEGMENT_RING: return shmring_ring_bytes(capacity, slot_bytes);
    case SHMRING_SEGMENT_CLAIMS: return shmring_claims_bytes(capacity);
    case SHMRING_SEGMENT_OUTBOX: return shmring_outbox_bytes(capacity);
    default: return SHMRING_PAGE_BYTES;
    }
}

static void use_ring(const struct shmring_mapping *ring)
{
    struct shmring_consumer consumer;
    struct shmring_producer producer;
    uint64_t claim = 0, position;
    if (shmring_consumer_init(&consumer, ring, true) == SHMRING_OK) {
        (void)fuzz_touch(consumer.slots, consumer.capacity << consumer.slot_shift);
        shmring_consumer_deinit(&consumer);
    }
    if (shmring_producer_init(&producer, ring, &claim, 1) != SHMRING_OK)
        return;
    if (shmring_producer_claim(&producer, &claim, producer.unicast_room, &position) == SHMRING_OK)
        memset(shmring_producer_slot(&producer, position), 1, 1u << producer.slot_shift);
}

static void use_outbox(const struct shmring_mapping *outbox)
{
    struct shmring_lane lane;
    for (uint32_t lanes = 1; lanes <= SHMRING_LANES_MAX; lanes *= 2) {
        if (shmring_outbox_bytes(lanes) != outbox->byte_count)
            continue;
        (void)shmring_outbox_settle(outbox, lanes);
        (void)shmring_outbox_reserve_words(outbox, shmring_outbox_drop_offset(lanes), 4096);
        if (shmring_lane_init(&lane, outbox, outbox, lanes - 1) == SHMRING_OK)
            lane.commits[SHMRING_COMMIT_WORDS - 1] = 1;
    }
}

static void use(uint32_t kind, const struct shmring_mapping *mapping)
{
    struct shmring_clock clock;
    struct shmring_claim claims[8];
    uint32_t next = 0;
    switch (kind) {
    case SHMRING_SEGMENT_RING: use_ring(mapping); return;
    case SHMRING_SEGMENT_CLAIMS:
        for (uint32_t from = 0; from <= next && from < 64; from++)
            (void)shmring_claims_copy(mapping, SHMRING_LANES_MAX, next, claims, 8, &next);
        return;
    case SHMRING_SEGMENT_OUTBOX: use_outbox(mapping); return;
    case SHMRING_SEGMENT_BUS:
        if (shmring_bus_page_clock(mapping, &clock) == SHMRING_OK)
            (void)shmring_clock_ns(&clock, shmring_clock_now(&clock));
        return;
    default: (void)fuzz_touch(mapping->base, mapping->byte_count);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int seals[] = {0, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, 0x10, F_SEAL_SEAL};
    struct fuzz_input input = {data, size};
    uint8_t how = fuzz_u8(&input);
    uint32_t kind = how & 7, param_a = 1u << fuzz_below(&input, 8),
             param_b = 64u << fuzz_below(&input, 6);
    uint64_t byte_count = size_of(kind, param_a, param_b);
    if (how & 8)
        byte_count = fuzz_word(&input, byte_count) & 0xfffff;
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    FUZZ_CHECK(fd >= 0 && ftruncate(fd, (off_t)byte_count) == 0);
    struct shmring_header header = {SHMRING_MAGIC, SHMRING_LAYOUT_VERSION, kind, byte_count, 3,
                                    param_a, param_b, {0}};
    uint8_t edits = fuzz_u8(&input);
    for (uint32_t i = 0; i < (edits & 3); i++)
        ((uint8_t *)&header)[fuzz_below(&input, sizeof header)] = fuzz_u8(&input);
    if (byte_count >= sizeof header)
        FUZZ_CHECK(pwrite(fd, &header, sizeof header, 0) == sizeof header);
    if (input.left != 0 && byte_count >= 4096)
        FUZZ_CHECK(pwrite(fd, input.at, input.left < 2048 ? input.left : 2048, 64) > 0);
    int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
    if (edits & 4)
        wanted ^= seals[fuzz_below(&input, 6)];
    (void)fcntl(fd, F_ADD_SEALS, wanted);

    struct shmring_mapping mapping;
    uint32_t asked = edits & 8 ? fuzz_below(&input, 8) : kind;
    uint64_t said = edits & 16 ? byte_count : edits & 32 ? fuzz_word(&input, byte_count) : 0;
    int result = shmring_segment_map(fd, asked, SHMRING_READ_WRITE, said, edits & 64, edits & 128,
                                     NULL, NULL, &mapping);
    FUZZ_CHECK((result == 0) == (mapping.base != NULL));
    if (result == 0) {
        FUZZ_CHECK(mapping.byte_count == byte_count);
        use(asked, &mapping);
        shmring_segment_unmap(&mapping);
    }
    (void)close(fd);
    return 0;
}
