/*
 * A sender with two rings, a lane and credit. The receivers, and others of the sender's domain,
 * write any word of both rings and of the board; the broker aborts commit words. The sender sends,
 * claims, batches, does transactions with release words, charges credit and waits.
 */
#include "ring_memory.h"

#define CAPACITY 16u
#define SLOT_BYTES 64u
#define RINGS 2u

static struct shmring_clock bus_clock;
static struct shmring_mapping rings[RINGS], claims, outbox;
static struct shmring_board *board;
static struct shmring_producer producers[RINGS];
static struct shmring_lane lane;
static struct shmring_allowance allowances[RINGS];
static uint64_t last_stamp;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    bus_clock = fuzz_clock();
    for (uint32_t i = 0; i < RINGS; i++)
        rings[i] = fuzz_ring(7 + i, CAPACITY, SLOT_BYTES);
    claims = fuzz_claims(3, 1);
    outbox = fuzz_outbox(3, 1);
    board = fuzz_memory(sizeof *board);
    return 0;
}

/* Nothing of an earlier input may be left, or a crash could not be repeated. */
static void set_up(void)
{
    for (uint32_t i = 0; i < RINGS; i++) {
        struct shmring_ring_control *control = rings[i].base;
        memset(control, 0, rings[i].byte_count);
        control->header = (struct shmring_header){
            .id = 7 + i, .param_a = CAPACITY, .param_b = SLOT_BYTES};
        control->tail = control->head = CAPACITY;
        FUZZ_MUST(shmring_producer_init(&producers[i], &rings[i],
                                        (uint64_t *)claims.base + SHMRING_CLAIMS_OFFSET / 8, 5));
        shmring_allowance_init(&allowances[i], control);
    }
    memset(fuzz_commit_words(&outbox), 0, SHMRING_COMMIT_WORDS * sizeof(uint64_t));
    memset((uint64_t *)claims.base + SHMRING_CLAIMS_OFFSET / 8, 0,
           SHMRING_CLAIM_WORDS * sizeof(uint64_t));
    memset(board, 0, sizeof *board);
    FUZZ_MUST(shmring_lane_init(&lane, &claims, &outbox, 0));
    last_stamp = 0;
}

/* Headers and the bodies of slots are not what a sender reads; the rest is. */
static void write_word(struct fuzz_input *input, uint32_t ring)
{
    struct shmring_ring_control *control = rings[ring].base;
    uint64_t *words[] = {&control->head,           &control->tail,     &control->out_of_service,
                         &control->withheld,       &control->parked,   &control->flags,
                         &control->credit[0],      &control->credit[3], &control->credit_limit[0],
                         &control->credit_limit[3], &control->charged[0], &control->charged[3]};
    uint32_t what = fuzz_below(input, 16);
    uint64_t value = fuzz_word(input, control->tail);
    if (what < 12)
        *words[what] = value;
    else if (what == 12) /* resume[] */
        FUZZ_WORDS(rings[ring])[SHMRING_RESUME_OFFSET / 8 + fuzz_below(input, CAPACITY)] = value;
    else if (what == 13)
        ((uint64_t *)(void *)board)[8 + fuzz_below(input, 500)] = value;
    else
        FUZZ_WORDS(rings[ring])[fuzz_below(input, (uint32_t)(rings[0].byte_count / 8))] = value;
}

static void check_result(int result, uint64_t stamp)
{
    FUZZ_CHECK(result == SHMRING_OK || result == SHMRING_E_FULL || result == SHMRING_E_CORRUPT ||
               result == SHMRING_E_ABORTED);
    if (result != SHMRING_OK)
        return;
    FUZZ_CHECK(stamp > last_stamp && stamp <= shmring_clock_now(&bus_clock));
    last_stamp = stamp;
}

static int abort_all(void *context)
{
    struct fuzz_input *input = context;
    uint8_t how = fuzz_u8(input);
    if (how & 1)
        (void)shmring_outbox_settle(&outbox, 1);
    return how & 2 ? -12 : 0;
}

static void transact(struct fuzz_input *input)
{
    static const uint8_t body[SHMRING_SLOT_BYTES_MAX] = "a body";
    struct shmring_leg legs[SHMRING_CLAIM_WORDS + 1];
    uint64_t *release = (uint64_t *)(void *)((uint8_t *)outbox.base +
                                             shmring_outbox_release_offset(1));
    uint64_t *words[4] = {release, release + 1, release + 2, release + 3};
    memset(release, 0, sizeof words);
    uint8_t how = fuzz_u8(input);
    uint32_t count = fuzz_below(input, 8), failed = UINT32_MAX;
    if (how & 0x80)
        count = SHMRING_CLAIM_WORDS + (count & 1);
    for (uint32_t i = 0; i < count; i++)
        legs[i] = (struct shmring_leg){.producer = &producers[(i ^ how) & 1],
                                       .body = body,
                                       .grant = i,
                                       .length = how & 31,
                                       .bits = how & SHMRING_HEADER_MARKS};
    const struct shmring_releases releases = {
        .words = words, .count = how >> 2 & 3, .flag = abort_all, .context = input};
    uint64_t stamp = 0;
    int result = shmring_transaction_commit(&lane, &bus_clock, legs, count, how & 1,
                                            how & 2 ? &releases : NULL, &stamp, &failed);
    if (result == SHMRING_E_FULL || result == SHMRING_E_CORRUPT)
        FUZZ_CHECK(failed < count || count == 0);
    if (result == SHMRING_E_TOO_LARGE || result == -12 || (count == 0 && stamp == 0))
        return;
    check_result(result, stamp);
    for (uint32_t i = 0; how & 2 && i < releases.count; i++)
        FUZZ_CHECK(*words[i] == (result == SHMRING_OK ? stamp : 0));
}

static void batch(struct fuzz_input *input, struct shmring_producer *producer)
{
    static const uint8_t body[SHMRING_SLOT_BYTES_MAX] = "a body";
    struct shmring_batch batch;
    uint64_t wanted = fuzz_word(input, CAPACITY);
    int result = shmring_batch_begin(producer, wanted, &batch);
    if (result != SHMRING_OK) {
        check_result(result, 0);
        return;
    }
    FUZZ_CHECK(batch.count <= CAPACITY);
    for (uint32_t i = fuzz_below(input, CAPACITY); i > 0; i--)
        if (shmring_batch_put(producer, &batch, 1, body, i) != SHMRING_OK)
            break;
    check_result(SHMRING_OK, shmring_batch_commit(producer, &bus_clock, &batch));
}

/* The receiver's side of credit, whose domain charges what it likes. */
static void allow(struct fuzz_input *input, struct shmring_allowance *allowance)
{
    static struct shmring_amounts of_link;
    struct shmring_amounts amounts = shmring_amounts_make(fuzz_u8(input) & 7, fuzz_u8(input) & 7, 0,
                                                          fuzz_word(input, 4096) & UINT32_MAX);
    uint32_t kind = fuzz_below(input, SHMRING_CREDIT_KINDS);
    switch (fuzz_u8(input) & 7) {
    case 0:
        shmring_allowance_init(allowance, allowance->control);
        of_link = shmring_amounts_make(0, 0, 0, 0);
        break;
    case 1: shmring_allowance_set(allowance, kind, 1 + (fuzz_word(input, 100) >> 2)); break;
    case 2: case 3: {
        bool admitted = shmring_allowance_admits(allowance, &amounts);
        int result = shmring_allowance_receive(allowance, &of_link, &amounts);
        FUZZ_CHECK(result == SHMRING_OK || (result == SHMRING_E_FULL && !admitted));
        shmring_allowance_give_back(allowance, board, &amounts);
        break;
    }
    case 4: shmring_allowance_bury(allowance, board, &of_link); break;
    default:
        FUZZ_CHECK(shmring_allowance_held(allowance, kind) == 0);
        (void)shmring_allowance_outstanding(allowance, kind);
        (void)shmring_credit_share(amounts.of[3], 1 + kind, fuzz_word(input, 0));
    }
}

static void step(struct fuzz_input *input)
{
    static const uint8_t body[SHMRING_SLOT_BYTES_MAX] = "a body";
    uint8_t operation = fuzz_u8(input);
    uint32_t ring = operation >> 7;
    struct shmring_producer *producer = &producers[ring];
    struct shmring_ring_control *control = rings[ring].base;
    uint64_t stamp = 0;
    if ((operation & 0x30) == 0x30) {
        allow(input, &allowances[ring]);
        return;
    }
    switch (operation & 15) {
    case 0: case 1: case 2: case 3: write_word(input, ring); break;
    case 4: case 5: {
        uint32_t length = fuzz_below(input, producer->body_bytes + 1);
        int result = shmring_producer_send(producer, &bus_clock, 1, 0, body, length, &stamp);
        check_result(result, stamp);
        break;
    }
    case 6: batch(input, producer); break;
    case 7: case 8: transact(input); break;
    case 9: { /* the receiver has taken all */
        control->head = control->tail;
        break;
    }
    case 10: {
        struct shmring_amounts amounts =
            shmring_amounts_make(fuzz_u8(input) & 3, 0, 0, fuzz_word(input, 0) & UINT32_MAX);
        struct shmring_shortage shortage;
        int result = shmring_credit_charge(producer, board, &amounts, &shortage);
        FUZZ_CHECK(result == SHMRING_OK || result == SHMRING_E_FULL);
        if (result == SHMRING_OK && (operation & 0x40))
            shmring_credit_take_back(control, board, &amounts);
        if (result == SHMRING_E_FULL)
            FUZZ_CHECK(shortage.kind < SHMRING_CREDIT_KINDS);
        break;
    }
    case 11: { /* a wait whose deadline has passed */
        int result = shmring_producer_wait(producer, producer->unicast_room, 1);
        FUZZ_CHECK(result == SHMRING_OK || result == SHMRING_E_FULL || result == SHMRING_E_CORRUPT);
        break;
    }
    case 12: /* joins anew */
        shmring_lane_forget(&lane, producer);
        (void)shmring_producer_init(producer, &rings[ring], producer->claim_word, 5);
        break;
    case 13:
        shmring_producer_flag(producer, fuzz_word(input, 0));
        shmring_producer_wake(producer);
        break;
    case 14:
        (void)shmring_outbox_abort(&outbox, 1, fuzz_u16(input), fuzz_u8(input));
        break;
    default: {
        struct shmring_bell *bell = operation & 0x40 ? &control->credit_bell
                                                     : (struct shmring_bell *)&board->waiters;
        shmring_bell_sleep(bell, shmring_bell_announce(bell), 1);
        shmring_bell_ring(bell);
    }
    }
    /* Joined anew it may be of another geometry, if that fits. */
    FUZZ_CHECK(producer->capacity << producer->slot_shift <= SHMRING_PAGE_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    set_up();
    for (uint32_t steps = 0; input.left != 0 && steps < 128; steps++)
        step(&input);
    /* Whatever the receiver wrote: an attempt that has ended names nothing. */
    for (uint32_t i = 0; i < SHMRING_CLAIM_WORDS; i++)
        FUZZ_CHECK(FUZZ_WORDS(claims)[SHMRING_CLAIMS_OFFSET / 8 + i] == 0);
    shmring_lane_deinit(&lane);
    return 0;
}
