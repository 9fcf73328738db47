/* A consumer: one ring as its receiver sees it, and the head it publishes. */
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "CShmRing.h"

int shmring_consumer_init(struct shmring_consumer *consumer, const struct shmring_mapping *ring,
                          bool foreign)
{
    struct shmring_ring_control *control = ring->base;
    /* Copied once: another process may write it. Relaxed: its maker wrote it before it was sent. */
    uint32_t capacity = shmring_load_relaxed_u32(&control->header.param_a);
    uint32_t slot_bytes = shmring_load_relaxed_u32(&control->header.param_b);
    uint64_t byte_count = shmring_ring_bytes(capacity, slot_bytes);
    if ((byte_count == 0 || byte_count != ring->byte_count) && !SHMRING_UNCHECKED(GEOMETRY))
        return SHMRING_E_CORRUPT;
    *consumer = (struct shmring_consumer){
        .control = control,
        .resume = (uint64_t *)(void *)((uint8_t *)ring->base + SHMRING_RESUME_OFFSET),
        .slots = (const uint8_t *)ring->base + shmring_ring_slots_offset(capacity),
        .mask = capacity - 1,
        .capacity = capacity,
        .publish_every = capacity / 8,
        .slot_shift = (uint32_t)__builtin_ctz(slot_bytes),
        .body_bytes = slot_bytes - SHMRING_SLOT_HEADER_BYTES,
        .ring_id = shmring_load_relaxed_u32(&control->header.id), /* Relaxed, as above. */
        .foreign = foreign,
    };
    /* A new ring: its head is where its maker put it, and nobody but this consumer moves it.
     * Relaxed: the ring came through the kernel. */
    consumer->head = shmring_load_relaxed(&control->head);
    consumer->next = consumer->head;
    return SHMRING_OK;
}

void shmring_consumer_deinit(struct shmring_consumer *consumer)
{
    free(consumer->open);
    free(consumer->retired);
    free(consumer->senders);
    *consumer = (struct shmring_consumer){0};
}

static int grow_senders(struct shmring_consumer *consumer, uint32_t sender)
{
    if (sender >= SHMRING_SENDERS_MAX)
        return SHMRING_E_CORRUPT;
    if (sender < consumer->sender_count)
        return SHMRING_OK;
    uint32_t count = consumer->sender_count ? consumer->sender_count : 8;
    while (count <= sender)
        count *= 2;
    struct shmring_sender_view *grown = realloc(consumer->senders, count * sizeof *grown);
    if (grown == NULL)
        return -ENOMEM;
    memset(grown + consumer->sender_count, 0,
           (count - consumer->sender_count) * sizeof *grown);
    consumer->senders = grown;
    consumer->sender_count = count;
    return SHMRING_OK;
}

int shmring_consumer_set_sender(struct shmring_consumer *consumer, uint32_t sender,
                                const struct shmring_outbox *outbox, uint32_t lanes)
{
    int result = grow_senders(consumer, sender);
    if (result)
        return result;
    consumer->senders[sender] = (struct shmring_sender_view){
        .outbox = outbox,
        .commit_words = lanes * SHMRING_COMMIT_WORDS,
        /* Copied once: its owner could write it, and an order must not change while it sorts.
         * Relaxed: its maker wrote it before it was sent. */
        .owner_id = outbox == NULL ? 0 : shmring_load_relaxed_u32(&outbox->header.id),
    };
    return SHMRING_OK;
}

int shmring_consumer_drop_sender(struct shmring_consumer *consumer, uint32_t sender)
{
    int result = grow_senders(consumer, sender);
    if (result)
        return result;
    consumer->senders[sender] = (struct shmring_sender_view){.gone = 1};
    return SHMRING_OK;
}

/* The index of this position goes back into service, a full lap behind everything claimed so far:
 * any nearer, a claim made while it was out could fall on it. */
void shmring_consumer_return_to_service(struct shmring_consumer *consumer, uint32_t retired_index,
                                        struct shmring_inbox_counts *counts)
{
    uint64_t position = consumer->retired[retired_index].position;
    /* SYNC R7 acquire, as in look_at_ring. */
    uint64_t tail = shmring_load_acquire(&consumer->control->tail);
    uint64_t laps = (tail + consumer->capacity - position + consumer->mask) / consumer->capacity;
    uint64_t from = position + laps * consumer->capacity;
    if (from > consumer->in_service_from)
        consumer->in_service_from = from;
    /* SYNC R8 release, pairs with R9 in is_passed: the slot and its commit word were read
     * before. */
    shmring_store_release(&consumer->resume[position & consumer->mask], from);
    SHMRING_FAULT(HEAD_RETURNED);
    /* They stay in the order of their positions, in which a look reads them backwards: a batch. */
    consumer->retired_count--;
    for (uint32_t i = retired_index; i < consumer->retired_count; i++)
        consumer->retired[i] = consumer->retired[i + 1];
    counts->returned_to_service++;
}

void shmring_consumer_bury(struct shmring_consumer *consumer, uint64_t position)
{
    if (shmring_consumer_header(consumer, position) >> SHMRING_POSITION_SHIFT == position)
        return; /* written after all */
    for (uint32_t i = consumer->open_first; i < consumer->open_end; i++)
        if (consumer->open[i].position == position &&
            consumer->open[i].state == SHMRING_OPEN_UNRESOLVED)
            consumer->open[i].state = SHMRING_OPEN_DONE;
    for (uint32_t i = 0; i < consumer->retired_count; i++)
        if (consumer->retired[i].position == position)
            consumer->retired[i].state = SHMRING_OPEN_DONE; /* the next look returns it to
                                                             * service */
}

/* An eighth of a lap has gone by and the first open slot is still unwritten. */
static bool first_is_late(const struct shmring_consumer *consumer)
{
    const struct shmring_open *first = &consumer->open[consumer->open_first];
    return first->state == SHMRING_OPEN_UNRESOLVED &&
           consumer->next - first->position >= consumer->publish_every;
}

bool shmring_consumer_bears_no_more(const struct shmring_consumer *consumer)
{
    return consumer->retired_count == SHMRING_RETIRED_MAX &&
           consumer->open_first < consumer->open_end && first_is_late(consumer);
}

/* The index of the first open slot goes out of service, so that head, and with it everybody else,
 * can go on. */
static bool retire_first(struct shmring_consumer *consumer)
{
    struct shmring_open *first = &consumer->open[consumer->open_first];
    bool full = consumer->retired_count == SHMRING_RETIRED_MAX && !SHMRING_UNCHECKED(CLAIMS);
    if (!first_is_late(consumer) || full || consumer->retired == NULL ||
        shmring_consumer_header(consumer, first->position) >> SHMRING_POSITION_SHIFT ==
            first->position)
        return false;
    /* SYNC R5a relaxed (released by R5), pairs with R4: who reads the head that makes room on this
     * index for the next lap finds the index out of service, and the word that says that one is. */
    shmring_store_relaxed(&consumer->resume[first->position & consumer->mask],
                          SHMRING_RESUME_NEVER | first->position);
    consumer->retired[consumer->retired_count++] = *first;
    shmring_store_relaxed(&consumer->control->out_of_service, 1);
    consumer->open_first++;
    if (consumer->retirements != NULL)
        ++*consumer->retirements;
    SHMRING_FAULT(HEAD_RETIRED);
    return true;
}

void shmring_consumer_publish_head(struct shmring_consumer *consumer, bool check_waiters)
{
    for (;;) {
        while (consumer->open_first < consumer->open_end &&
               consumer->open[consumer->open_first].state == SHMRING_OPEN_DONE)
            consumer->open_first++;
        if (consumer->open_first == consumer->open_end || !retire_first(consumer))
            break;
    }
    uint64_t head = consumer->next;
    if (consumer->open_first < consumer->open_end)
        head = consumer->open[consumer->open_first].position;
    else
        consumer->open_first = consumer->open_end = 0;
    if (consumer->in_service_from != 0 && consumer->retired_count == 0 &&
        head >= consumer->in_service_from) {
        consumer->in_service_from = 0;
        /* Relaxed: seen early it does no harm; see shmring_producer_refresh. */
        shmring_store_relaxed(&consumer->control->out_of_service, 0);
    }
    if (head != consumer->head) {
        consumer->head = head;
        /* SYNC R5 release, pairs with R4 in shmring_producer_refresh: every slot below head has
         * been copied, and resume[] and out_of_service stand as they are to be. */
        shmring_store_release(&consumer->control->head, head);
        SHMRING_FAULT(HEAD_STORED);
    }
    if (!check_waiters)
        return;
    /* SYNC W2 full barrier, pairs with W1 in shmring_producer_announce: either the waiter's second
     * look finds this head, or the load below finds the waiter. */
    shmring_fence_full();
    if (shmring_load_relaxed_u32(&consumer->control->waiters) != 0) { /* Relaxed: W2 orders it. */
        shmring_store_relaxed_u32(&consumer->control->waiters, 0); /* Relaxed: W4 releases it. */
        /* SYNC W4 acq_rel, pairs with W3 in shmring_producer_announce: who reads the count before
         * it does not sleep on it; who reads it after announces itself after the 0. */
        (void)shmring_fetch_add_acq_rel_u32(&consumer->control->room, 1);
        (void)syscall(SYS_futex, &consumer->control->room, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    }
}

/* ---- scan ----------------------------------------------------------------------------------- */

/* Copies a slot that its receiver may finish with, and a producer write anew, meanwhile: the second
 * reading of the header says whether that was so. Then the copy is of another message, or torn, and
 * no harm: it is thrown away. The thread sanitizer cannot know that. */
__attribute__((no_sanitize("thread"), noinline)) static void
copy_racing(uint64_t *to, const volatile uint64_t *from, uint32_t words)
{
    for (uint32_t i = 0; i < words; i++)
        to[i] = from[i];
}

int shmring_ring_scan(const struct shmring_consumer *consumer, uint32_t grant,
                      void (*found)(void *context, uint32_t sender, const void *body,
                                    uint32_t length),
                      void *context)
{
    const struct shmring_ring_control *control = consumer->control;
    uint64_t body[(SHMRING_SLOT_BYTES_MAX - SHMRING_SLOT_HEADER_BYTES) / sizeof(uint64_t)];
    /* SYNC N9 acquire, pairs with R5: what lies below head has been dealt with, and what its
     * receiver made of it is visible. */
    uint64_t head = shmring_load_acquire(&control->head);
    /* Relaxed: R5a stored it before the head just read; a zero says that whatever was written late
     * has been dealt with. */
    uint64_t out_of_service = shmring_load_relaxed(&control->out_of_service);
    /* SYNC R7 acquire, as in look_at_ring. */
    uint64_t tail = shmring_load_acquire(&control->tail);
    int result = tail - head <= consumer->capacity ? SHMRING_OK : SHMRING_E_CORRUPT;
    uint64_t first = head, count = tail - head;
    if (result || out_of_service != 0) {
        first = 0; /* every index, whatever position was written there last */
        count = consumer->capacity;
    }
    bool every = count == consumer->capacity;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t header = shmring_consumer_header(consumer, first + i);
        uint64_t position = header >> SHMRING_POSITION_SHIFT;
        uint64_t class = header & SHMRING_CLASS_MASK;
        if ((position != first + i && !every) || header == 0 ||
            (class != SHMRING_CLASS_UNICAST && class != SHMRING_CLASS_MULTICAST))
            continue;
        const struct shmring_slot *slot = shmring_consumer_slot(consumer, first + i);
        uint64_t route = shmring_load_relaxed(&slot->route); /* Relaxed: behind R6. */
        uint32_t length = (uint32_t)route & 0xffff;
        if ((uint32_t)(route >> 32) != grant || length > consumer->body_bytes)
            continue;
        copy_racing(body, slot->body, (length + 7) / 8);
        /* SYNC N10 full barrier, pairs with R3: the header is read again behind the copy. */
        shmring_fence_full();
        if (shmring_consumer_header(consumer, first + i) == header)
            found(context, (uint32_t)(route >> 16) & 0xffff, body, length);
    }
    return result;
}
