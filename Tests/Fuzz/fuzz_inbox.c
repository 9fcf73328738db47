/*
 * An inbox of two rings, one of them of another domain, and the outboxes of their senders. Others
 * write any word of both rings, of commit, release and drop words and of the bus page; the receiver
 * takes, waits, scans, buries, watches, drops senders and takes rings in and out.
 */
#include <time.h>

#include "ring_memory.h"

#define CAPACITY 16u
#define SLOT_BYTES 64u
#define RINGS 2u
#define SENDERS 3u
#define WATCHES_MAX 32u

union message {
    struct shmring_message m;
    uint8_t bytes[sizeof(struct shmring_message) + SLOT_BYTES - SHMRING_SLOT_HEADER_BYTES];
};

static struct shmring_clock bus_clock;
static struct shmring_mapping rings[RINGS], outboxes[SENDERS];

static struct {
    struct shmring_consumer consumer[RINGS];
    bool added[RINGS];
    struct shmring_inbox inbox;
    uint64_t death;
    uint32_t attention;
    uint64_t sequence;
    uint64_t cookie;
    union message *message; /* from the heap: a byte too much is seen */
} r;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    bus_clock = fuzz_clock();
    for (uint32_t i = 0; i < RINGS; i++)
        rings[i] = fuzz_ring(7 + i, CAPACITY, SLOT_BYTES);
    for (uint32_t i = 0; i < SENDERS; i++)
        outboxes[i] = fuzz_outbox(20 + i, 1);
    return 0;
}

static uint64_t *release_word(uint32_t sender, uint32_t index)
{
    return (uint64_t *)(void *)((uint8_t *)outboxes[sender].base +
                                shmring_outbox_release_offset(1)) + index;
}

static void watch(uint32_t kind, uint32_t sender, uint32_t index, uint64_t stamp)
{
    if (r.inbox.watch_count >= WATCHES_MAX)
        return;
    const bool death = kind == SHMRING_WATCH_DEATH;
    struct shmring_outbox *outbox = outboxes[sender].base;
    const uint64_t *commits = death ? &outbox->dead : fuzz_commit_words(&outboxes[sender]);
    (void)shmring_inbox_watch(&r.inbox, kind, death ? &r.death : release_word(sender, index),
                              commits, SHMRING_COMMIT_WORDS, 20 + sender, death ? stamp : 0,
                              death ? sender : ++r.cookie);
}

/* As the layer above: takes in what the flags and the death word name. */
static int collect(struct shmring_inbox *inbox, uint32_t ring, uint64_t flags, void *context)
{
    (void)inbox, (void)context;
    if (ring == UINT32_MAX) {
        watch(SHMRING_WATCH_DEATH, (uint32_t)(flags % SENDERS), 0, flags);
        return SHMRING_OK;
    }
    FUZZ_CHECK(ring < r.inbox.ring_count);
    if (flags & SHMRING_FLAG_RELEASES)
        for (uint32_t i = 0; i < 4; i++)
            watch(SHMRING_WATCH_RELEASE, i % SENDERS, i, 0);
    if (flags & SHMRING_FLAG_DROPS)
        watch(SHMRING_WATCH_DROP, 0, 4, 0);
    return (flags >> 60) == 5 ? -12 : SHMRING_OK;
}

static void stalled(const struct shmring_blocker *blockers, uint32_t count, void *context)
{
    (void)context;
    FUZZ_CHECK(count <= SHMRING_BLOCKERS_MAX);
    (void)fuzz_touch(blockers, count * sizeof *blockers);
    for (uint32_t i = 0; i < count; i++)
        FUZZ_CHECK(blockers[i].ring == UINT32_MAX || blockers[i].ring < r.inbox.ring_count);
}

static void set_up(void)
{
    for (uint32_t i = 0; i < RINGS; i++) {
        struct shmring_ring_control *control = rings[i].base;
        struct shmring_header header = control->header;
        memset(rings[i].base, 0, rings[i].byte_count);
        header.param_a = CAPACITY;
        header.param_b = SLOT_BYTES;
        header.id = 7 + i;
        control->header = header;
        control->tail = control->head = CAPACITY;
        FUZZ_MUST(shmring_consumer_init(&r.consumer[i], &rings[i], i == 1));
    }
    for (uint32_t i = 0; i < SENDERS; i++) {
        struct shmring_outbox *outbox = outboxes[i].base;
        outbox->dead = 0;
        memset(fuzz_commit_words(&outboxes[i]), 0, 16 * sizeof(uint64_t));
        memset(release_word(i, 0), 0, 16 * sizeof(uint64_t));
        for (uint32_t k = 0; k < RINGS; k++)
            if (i != 2) /* introduced later, by the script */
                FUZZ_MUST(shmring_consumer_set_sender(&r.consumer[k], i, outbox, 1));
    }
    r.death = 0;
    r.attention = 0;
    r.sequence = 0;
    r.cookie = 0;
    shmring_inbox_init(&r.inbox, &bus_clock, &r.death, &r.attention);
    r.inbox.collect = collect;
    r.inbox.stalled = stalled;
    FUZZ_MUST(shmring_inbox_add(&r.inbox, &r.consumer[0]));
    r.added[0] = true;
    r.added[1] = false;
    r.message = malloc(sizeof *r.message);
    FUZZ_CHECK(r.message != NULL);
}

static void tear_down(void)
{
    shmring_inbox_deinit(&r.inbox);
    for (uint32_t i = 0; i < RINGS; i++)
        shmring_consumer_deinit(&r.consumer[i]);
    free(r.message);
}

static void check_result(int result)
{
    const struct shmring_message *message = &r.message->m;
    switch (result) {
    case SHMRING_OK:
        FUZZ_CHECK(message->length <= r.inbox.body_bytes_max);
        FUZZ_CHECK(message->ring < r.inbox.ring_count);
        FUZZ_CHECK(message->sender < SHMRING_SENDERS_MAX);
        FUZZ_CHECK(message->sequence == r.sequence + 1);
        r.sequence++;
        return;
    case SHMRING_NOTICE:
        FUZZ_CHECK(message->length == 0 && message->sequence >= r.sequence);
        r.sequence = message->sequence;
        return;
    case SHMRING_E_CORRUPT:
    case SHMRING_E_UNKNOWN_SENDER:
        FUZZ_CHECK(r.inbox.trouble_ring < r.inbox.ring_count);
        return;
    default:
        FUZZ_CHECK(result == SHMRING_E_EMPTY || result == SHMRING_E_HELD ||
                   result == SHMRING_E_ATTENTION || result == -12);
    }
}

static void found(void *context, uint32_t sender, const void *body, uint32_t length)
{
    (void)context;
    FUZZ_CHECK(sender < SHMRING_SENDERS_MAX && length <= SLOT_BYTES - SHMRING_SLOT_HEADER_BYTES);
    (void)fuzz_touch(body, length);
}

/* A slot that is plausible as far as the script wants it to be. */
static void write_slot(struct fuzz_input *input, uint32_t ring, uint64_t now)
{
    struct shmring_consumer *consumer = &r.consumer[ring];
    uint8_t how = fuzz_u8(input);
    uint64_t position = consumer->next + (how & 15) - 4;
    struct shmring_slot *slot =
        (struct shmring_slot *)(uintptr_t)shmring_consumer_slot(consumer, position);
    uint64_t bits = how & 0x80 ? fuzz_u8(input) : 1 + (how >> 4 & 1);
    slot->stamp = (bits & SHMRING_CLASS_MASK) == SHMRING_CLASS_MULTICAST && !(how & 0x40)
                      ? SHMRING_COMMIT_REF(fuzz_below(input, 16), fuzz_u8(input) & 3)
                      : fuzz_word(input, now);
    slot->route = SHMRING_ROUTE(1, how >> 5 & 1, 8) ^ (how & 0x40 ? fuzz_word(input, 0) : 0);
    slot->header = position << SHMRING_POSITION_SHIFT | bits;
    struct shmring_ring_control *control = consumer->control;
    if (!(how & 0x08) && (int64_t)(control->tail - position) <= 0)
        control->tail = position + 1;
}

static void write_word(struct fuzz_input *input, uint64_t now)
{
    uint32_t what = fuzz_below(input, 6), index = fuzz_below(input, 16);
    struct shmring_ring_control *control = rings[index & 1].base;
    uint64_t pending = SHMRING_COMMIT_PENDING | (uint64_t)(index & 3) << 32;
    switch (what) {
    case 0: { /* any word of the control, resume[] or the slots */
        uint32_t at = fuzz_below(input, (uint32_t)(rings[0].byte_count / 8));
        FUZZ_WORDS(rings[index & 1])[at] = fuzz_word(input, control->tail);
        break;
    }
    case 1: { /* a word that means something */
        uint64_t *words[] = {&control->tail, &control->head, &control->parked, &control->flags,
                             &control->out_of_service};
        *words[index % 5] = fuzz_word(input, control->tail);
        break;
    }
    case 2: /* a commit word */
        fuzz_commit_words(&outboxes[index % SENDERS])[fuzz_below(input, 16)] =
            index & 8 ? fuzz_word(input, now) : pending;
        break;
    case 3: /* a release word, or a drop word's */
        *release_word(index % SENDERS, fuzz_below(input, 16)) =
            index & 8 ? fuzz_word(input, now)
                      : SHMRING_RELEASE_REF(fuzz_below(input, 16), index & 3);
        break;
    case 4:
        r.death = index & 8 ? fuzz_word(input, now) : pending;
        break;
    default:
        ((struct shmring_outbox *)outboxes[index % SENDERS].base)->dead = fuzz_word(input, now);
    }
}

static void step(struct fuzz_input *input)
{
    uint64_t now = shmring_clock_now(&bus_clock);
    uint8_t operation = fuzz_u8(input);
    uint32_t ring = operation >> 7;
    struct shmring_consumer *consumer = &r.consumer[ring];
    uint64_t positions[8];
    uint32_t count = 0;
    switch (operation & 15) {
    case 0: case 1: case 2: check_result(shmring_inbox_take(&r.inbox, &r.message->m)); break;
    case 3: check_result(shmring_inbox_take_slow(&r.inbox, &r.message->m, true)); break;
    case 4: case 5: case 6: write_slot(input, ring, now); break;
    case 7: case 8: write_word(input, now); break;
    case 9: { /* the second ring comes and goes */
        if (r.added[1])
            shmring_inbox_remove(&r.inbox, &r.consumer[1]);
        else
            FUZZ_MUST(shmring_inbox_add(&r.inbox, &r.consumer[1]));
        r.added[1] = !r.added[1];
        break;
    }
    case 10:
        if (r.added[ring] &&
            shmring_inbox_stuck(&r.inbox, consumer, positions, 8, &count) == SHMRING_OK) {
            FUZZ_CHECK(count <= 8);
            for (uint32_t i = 0; i < count; i++)
                shmring_consumer_bury(consumer, positions[i]);
        }
        break;
    case 11: (void)shmring_ring_scan(consumer, 1, found, NULL); break;
    case 12:
        if (operation & 0x40)
            (void)shmring_consumer_drop_sender(consumer, fuzz_u8(input));
        else
            FUZZ_MUST(shmring_consumer_set_sender(consumer, 2, outboxes[2].base, 1));
        break;
    case 13:
        if (operation & 0x40)
            watch(1 + fuzz_below(input, 3), fuzz_below(input, SENDERS), fuzz_below(input, 16),
                  fuzz_word(input, now));
        else
            shmring_inbox_unwatch(&r.inbox, 1 + fuzz_below(input, 3), fuzz_u8(input));
        break;
    case 14:
        if (operation & 0x40)
            shmring_inbox_hold(&r.inbox, operation >> 5 & 1);
        else
            check_result(shmring_inbox_arm(&r.inbox, &r.message->m));
        break;
    default: /* a wait whose deadline has passed; or a look that waits for long is to say so */
        if (operation & 0x40) {
            r.inbox.stalled_at_ns = 1;
            r.inbox.stall_turns = UINT32_MAX;
        }
        check_result(shmring_inbox_wait(&r.inbox, &r.message->m, 0, 1));
        if (r.added[ring])
            shmring_consumer_publish_head(consumer, true);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    set_up();
    for (uint32_t steps = 0; input.left != 0 && steps < 256; steps++)
        step(&input);
    tear_down();
    return 0;
}
