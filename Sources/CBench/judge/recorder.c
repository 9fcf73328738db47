#include <string.h>

#include "CShmRing.h"
#include "bench_history.h"

static struct shmring_clock recorder_clock;

/* The bus's own kind of clock, chosen as a broker would: the same in all processes of a machine. */
static void choose_clock(void)
{
    static struct shmring_bus_page page;
    shmring_clock_choose(0, &page);
    page.clock_coarse_ns = 0; /* whatever the bus's clock is made to do */
    (void)shmring_clock_attach(&page, &recorder_clock);
}

uint64_t bench_recorder_now(void)
{
    if (shmring_unlikely(recorder_clock.source == 0))
        choose_clock();
    uint64_t now;
#if defined(__x86_64__)
    /* Not as the bus reads it, whose counter may be made to jump. */
    if (shmring_likely(recorder_clock.source == SHMRING_CLOCK_TSC))
        now = shmring_clock_counter();
    else
#endif
        now = shmring_clock_monotonic(0);
    /* Nothing of the call that follows may come before the reading. */
    shmring_fence_clock_read();
    return now;
}

void bench_recorder_init(struct bench_recorder *recorder, uint64_t byte_count)
{
    *recorder = (struct bench_recorder){.room = byte_count - sizeof *recorder};
}

static struct bench_record *append(struct bench_recorder *recorder, uint32_t kind,
                                   uint64_t transaction, const uint32_t *items, uint32_t item_count)
{
    uint64_t bytes = bench_record_bytes(item_count);
    if (recorder->room - recorder->used < bytes) {
        recorder->full++;
        return NULL;
    }
    struct bench_record *record =
        (struct bench_record *)(void *)((uint8_t *)(recorder + 1) + recorder->used);
    record->end = 0;
    record->transaction = transaction;
    record->kind = kind;
    record->item_count = item_count;
    for (uint32_t i = 0; i < item_count; i++)
        record->items[i] = items[i];
    recorder->open_at = recorder->used;
    return record;
}

/* A reader looks after the peer's process has ended: program order is enough, if the compiler keeps
 * it. */
static void publish(struct bench_recorder *recorder, uint32_t item_count)
{
    __asm__ volatile("" ::: "memory");
    recorder->used += bench_record_bytes(item_count);
    __asm__ volatile("" ::: "memory");
}

void bench_recorder_begin(struct bench_recorder *recorder, uint32_t kind, uint64_t transaction,
                          const uint32_t *items, uint32_t item_count)
{
    struct bench_record *record = append(recorder, kind, transaction, items, item_count);
    if (record == NULL)
        return;
    publish(recorder, item_count);
    record->begin = bench_recorder_now();
}

static struct bench_record *open_record(const struct bench_recorder *recorder)
{
    return (struct bench_record *)(void *)((uint8_t *)(uintptr_t)(recorder + 1) +
                                           recorder->open_at);
}

void bench_recorder_end(struct bench_recorder *recorder, uint32_t kind)
{
    uint64_t now = bench_recorder_now();
    if (recorder->full > 0)
        return;
    if (kind != 0)
        open_record(recorder)->kind = kind;
    open_record(recorder)->end = now;
}

void bench_recorder_forget(struct bench_recorder *recorder)
{
    if (recorder->full == 0)
        recorder->used = recorder->open_at;
}

void bench_recorder_shorten(struct bench_recorder *recorder, uint32_t item_count)
{
    if (recorder->full > 0)
        return;
    open_record(recorder)->item_count = item_count;
    recorder->used = recorder->open_at + bench_record_bytes(item_count);
}

void bench_recorder_add(struct bench_recorder *recorder, uint32_t kind, uint64_t begin,
                        uint64_t transaction, const uint32_t *items, uint32_t item_count)
{
    uint64_t now = bench_recorder_now();
    struct bench_record *record = append(recorder, kind, transaction, items, item_count);
    if (record == NULL)
        return;
    record->begin = begin;
    record->end = now;
    publish(recorder, item_count);
}
