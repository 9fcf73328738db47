#include "bench_ring.h"

#include <unistd.h>

#include "bench_work.h"

int bench_ring_make(uint32_t slots, uint32_t slot_bytes, int fds[BENCH_RING_FDS])
{
    struct shmring_mapping page = {0};
    int made = 0;
    int result = shmring_ring_create(1, slots, slot_bytes, &fds[0]);
    if (result == 0 && ++made && (result = shmring_claims_create(1, 1, &fds[1])) == 0 && ++made &&
        (result = shmring_bus_page_create(&fds[2])) == 0 && ++made)
        result = shmring_segment_map(fds[2], SHMRING_SEGMENT_BUS, SHMRING_READ_WRITE, 0, false,
                                     false, NULL, NULL, &page);
    if (result == 0) {
        shmring_clock_choose(0, page.base);
        shmring_segment_unmap(&page);
        return 0;
    }
    while (made > 0)
        close(fds[--made]);
    return result;
}

static int map(int fd, enum shmring_segment_kind kind, enum shmring_access access,
               struct shmring_mapping *mapping)
{
    struct shmring_placement placement = {.prefault = true, .numa_node = -1};
    return shmring_segment_map(fd, kind, access, 0, false, false, &placement, NULL, mapping);
}

static int open_sender(struct bench_ring *ring)
{
    uint64_t *claim_word = (uint64_t *)(void *)((char *)ring->claims.base + SHMRING_CLAIMS_OFFSET);
    return shmring_producer_init(&ring->producer, &ring->ring, claim_word, 0);
}

static int open_receiver(struct bench_ring *ring)
{
    const struct shmring_bus_page *page = ring->page.base;
    int result = shmring_consumer_init(&ring->consumer, &ring->ring, false);
    if (result != 0)
        return result;
    shmring_inbox_init(&ring->inbox, &ring->clock, &page->death, &ring->attention);
    ring->message = calloc(1, sizeof *ring->message + SHMRING_SLOT_BYTES_MAX);
    if (ring->message == NULL)
        return SHMRING_E_FULL;
    return shmring_inbox_add(&ring->inbox, &ring->consumer);
}

int bench_ring_open(const int fds[BENCH_RING_FDS], bool sends, struct bench_ring **ring_out)
{
    struct bench_ring *ring = aligned_alloc(128, (sizeof *ring + 127) / 128 * 128);
    if (ring == NULL)
        return SHMRING_E_FULL;
    memset(ring, 0, sizeof *ring);
    int result = map(fds[0], SHMRING_SEGMENT_RING, SHMRING_READ_WRITE, &ring->ring);
    if (result == 0)
        result = map(fds[1], SHMRING_SEGMENT_CLAIMS, SHMRING_READ_WRITE, &ring->claims);
    if (result == 0)
        result = map(fds[2], SHMRING_SEGMENT_BUS, SHMRING_READ_ONLY, &ring->page);
    if (result == 0)
        result = shmring_clock_attach(ring->page.base, &ring->clock);
    if (result == 0)
        result = sends ? open_sender(ring) : open_receiver(ring);
    if (result != 0) {
        bench_ring_close(ring);
        return result;
    }
    *ring_out = ring;
    return 0;
}

void bench_ring_close(struct bench_ring *ring)
{
    if (ring->message != NULL) {
        shmring_inbox_deinit(&ring->inbox);
        shmring_consumer_deinit(&ring->consumer);
        free(ring->message);
    }
    shmring_segment_unmap(&ring->ring);
    shmring_segment_unmap(&ring->claims);
    shmring_segment_unmap(&ring->page);
    free(ring);
}

int bench_ring_send(struct bench_ring *ring, const struct bench_job *job,
                    struct bench_outcome *outcome)
{
    uint64_t scratch[SHMRING_SLOT_BYTES_MAX / 8] = {0}, bytes = job->payload_bytes, sum = 0, stamp;
    outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count; i++) {
        sum += bench_fill(scratch, bytes, job->first_sequence + i);
        int result;
        while ((result = shmring_producer_send(&ring->producer, &ring->clock, 1, 0, scratch, bytes,
                                               &stamp)) == SHMRING_E_FULL)
            shmring_pause();
        if (result != 0)
            return result;
    }
    outcome->end = bench_ticks();
    outcome->sum = sum;
    outcome->messages = job->count;
    return 0;
}

int bench_ring_receive(struct bench_ring *ring, const struct bench_job *job,
                       struct bench_outcome *outcome)
{
    struct bench_check check;
    uint64_t bytes = job->payload_bytes;
    bench_check_begin(&check, job);
    while (check.remaining) {
        int result;
        while ((result = shmring_inbox_take(&ring->inbox, ring->message)) == SHMRING_E_EMPTY)
            ;
        if (result != 0)
            return result;
        uint64_t sequence, sum = bench_read(shmring_message_body(ring->message), bytes, &sequence);
        bench_check_note(&check, sequence, sum);
    }
    outcome->end = bench_ticks();
    bench_check_end(&check, outcome);
    return 0;
}
