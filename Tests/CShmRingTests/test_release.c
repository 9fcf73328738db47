/* test_release.c - words that end with a transaction, and the search through a ring. Units, one
 * process. */
#include <sched.h>

#include "ring_kit.h"

#define CAPACITY 64u
#define WORDS 8u

struct fixture {
    struct shmring_clock clock;
    struct kit_ring rings[2];
    struct kit_inbox receivers[2];
    struct kit_sender sender;
    struct shmring_lane lane;
    struct shmring_producer producers[2];
    struct shmring_leg legs[2];
    uint64_t *words[WORDS];
    struct shmring_releases releases;
    uint64_t value;
    /* What the callbacks saw, and do. */
    uint32_t flagged, woken;
    int flag_result;
    bool aborts;
    uint64_t reference;
    union kit_message message;
};

static uint64_t commit_word_of(struct fixture *f, uint64_t reference)
{
    return kit_commit_words(&f->sender)[reference >> 30 & UINT32_MAX];
}

static int flag(void *context)
{
    struct fixture *f = context;
    f->flagged++;
    f->reference = *f->words[0];
    /* Every word refers to one pending commit word, and the counter says so. */
    for (uint32_t i = 0; i < f->releases.count; i++)
        CHECK_EQ(*f->words[i], f->reference);
    CHECK_EQ(f->reference & SHMRING_COMMIT_STATE_MASK, SHMRING_RELEASE_REFERS);
    uint64_t commit = commit_word_of(f, f->reference);
    CHECK_EQ(commit & SHMRING_COMMIT_STATE_MASK, SHMRING_COMMIT_PENDING);
    CHECK_EQ(commit >> 32 & SHMRING_COMMIT_GENERATION_MASK,
             f->reference & SHMRING_COMMIT_GENERATION_MASK);
    CHECK_EQ(*f->releases.counter, f->flagged);
    for (uint32_t i = 0; i < 2; i++)
        shmring_producer_flag(&f->producers[i], SHMRING_FLAG_RELEASES);
    if (f->aborts)
        CHECK(shmring_outbox_abort(&f->sender.outbox, 1,
                                   (uint32_t)(f->reference >> 30 & UINT32_MAX),
                                   f->reference & SHMRING_COMMIT_GENERATION_MASK));
    return f->flag_result;
}

static void wake(void *context)
{
    struct fixture *f = context;
    f->woken++;
    for (uint32_t i = 0; i < f->releases.count; i++) /* nobody finds the commit word any more */
        CHECK(*f->words[i] == 0 || (*f->words[i] & SHMRING_COMMIT_STATE_MASK) == 0);
    for (uint32_t i = 0; i < 2; i++)
        shmring_producer_wake(&f->producers[i]);
}

static void set_up(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->clock = kit_clock(0, 0);
    kit_sender_open(&f->sender, 3, 1);
    KIT_MUST(shmring_lane_init(&f->lane, &f->sender.claims, &f->sender.outbox, 0));
    for (uint32_t i = 0; i < 2; i++) {
        kit_ring_open(&f->rings[i], 20 + i, CAPACITY, 64);
        kit_introduce(&f->rings[i], 5, &f->sender);
        KIT_MUST(shmring_producer_init(&f->producers[i], &f->rings[i].mapping,
                                       shmring_lane_claim_word(&f->lane), 5));
        kit_inbox_open(&f->receivers[i], &f->clock, &f->rings[i], 1);
        f->legs[i] = (struct shmring_leg){
            .producer = &f->producers[i], .body = &f->value, .grant = 1 + i, .length = 8};
    }
    for (uint32_t i = 0; i < WORDS; i++)
        f->words[i] = &kit_release_words(&f->sender)[i * 1000];
    struct shmring_outbox *outbox = f->sender.outbox.base;
    f->releases = (struct shmring_releases){.words = f->words,
                                            .count = WORDS,
                                            .counter = &outbox->releases,
                                            .flag = flag,
                                            .wake = wake,
                                            .context = f};
}

static void tear_down(struct fixture *f)
{
    shmring_lane_deinit(&f->lane);
    for (uint32_t i = 0; i < 2; i++) {
        shmring_inbox_deinit(&f->receivers[i].inbox);
        kit_ring_close(&f->rings[i]);
    }
    kit_sender_close(&f->sender);
}

static int commit(struct fixture *f, uint32_t count, uint64_t *stamp)
{
    uint32_t failed = UINT32_MAX;
    return shmring_transaction_commit(&f->lane, &f->clock, f->legs, count, false, &f->releases,
                                      stamp, &failed);
}

static int64_t next_value(struct fixture *f, uint32_t receiver)
{
    int result = kit_take(&f->receivers[receiver], &f->message);
    return result == SHMRING_OK ? (int64_t)f->message.m.body[0] : -result;
}

static void no_claim_is_left(const struct fixture *f)
{
    for (uint32_t i = 0; i < SHMRING_CLAIM_WORDS; i++)
        CHECK_EQ(f->lane.claims[i], 0);
}

/* ---- words ---------------------------------------------------------------------------------- */

static void all_words_end_at_the_stamp_of_the_messages(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    set_up(&f);
    f.value = 7;
    CHECK_EQ(commit(&f, 2, &stamp), SHMRING_OK);
    CHECK_EQ(f.flagged, 1);
    CHECK_EQ(f.woken, 1);
    for (uint32_t i = 0; i < WORDS; i++)
        CHECK_EQ(*f.words[i], stamp);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQ(next_value(&f, i), 7);
        CHECK_EQ(f.message.m.stamp, stamp);
        CHECK_EQ(f.rings[i].control->flags, 0); /* the look has taken it */
    }
    no_claim_is_left(&f);
    tear_down(&f);
}

static void words_end_without_any_message_as_often_as_one_likes(void)
{
    struct fixture f;
    uint64_t last = 0;
    set_up(&f);
    for (uint32_t i = 0; i < 3000; i++) {
        uint64_t stamp = 0;
        for (uint32_t w = 0; w < WORDS; w++)
            *f.words[w] = 0;
        CHECK_EQ(commit(&f, 0, &stamp), SHMRING_OK);
        CHECK(stamp > last);
        CHECK_EQ(*f.words[WORDS - 1], stamp);
        last = stamp;
    }
    CHECK_EQ(f.flagged, 3000);
    CHECK_EQ(f.rings[0].control->tail, CAPACITY);
    f.releases.count = 0;
    CHECK_EQ(commit(&f, 0, &last), SHMRING_OK); /* nothing at all */
    CHECK_EQ(f.flagged, 3000);
    tear_down(&f);
}

static void a_full_destination_leaves_the_words_alone(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    set_up(&f);
    while (kit_send(&f.producers[1], &f.clock, 7) == SHMRING_OK)
        ;
    CHECK_EQ(commit(&f, 2, &stamp), SHMRING_E_FULL);
    CHECK_EQ(f.flagged, 0);
    CHECK_EQ(f.woken, 0);
    CHECK_EQ(*f.words[0], 0);
    CHECK_EQ(*f.releases.counter, 0);
    tear_down(&f);
}

static void a_flag_that_fails_undoes_everything(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    set_up(&f);
    f.flag_result = -28;
    CHECK_EQ(commit(&f, 2, &stamp), -28);
    CHECK_EQ(f.woken, 1);
    for (uint32_t i = 0; i < WORDS; i++)
        CHECK_EQ(*f.words[i], 0);
    CHECK_EQ(commit_word_of(&f, f.reference),
             SHMRING_COMMIT_ABORTED | (f.reference & SHMRING_COMMIT_GENERATION_MASK) << 32);
    no_claim_is_left(&f);
    for (uint32_t i = 0; i < 2; i++)
        CHECK_EQ(next_value(&f, i), -SHMRING_E_EMPTY);
    f.flag_result = 0;
    f.value = 8;
    CHECK_EQ(commit(&f, 2, &stamp), SHMRING_OK);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQ(next_value(&f, i), 8);
        CHECK_EQ(next_value(&f, i), -SHMRING_E_EMPTY);
    }
    tear_down(&f);
}

static void what_another_aborts_leaves_words_that_may_begin_again(void)
{
    for (uint32_t legs = 0; legs <= 2; legs += 2) {
        struct fixture f;
        uint64_t stamp = 0;
        set_up(&f);
        f.aborts = true;
        CHECK_EQ(commit(&f, legs, &stamp), SHMRING_E_ABORTED);
        CHECK_EQ(f.woken, 1);
        for (uint32_t i = 0; i < WORDS; i++)
            CHECK_EQ(*f.words[i], 0);
        no_claim_is_left(&f);
        f.aborts = false;
        CHECK_EQ(commit(&f, legs, &stamp), SHMRING_OK);
        for (uint32_t i = 0; i < WORDS; i++)
            CHECK_EQ(*f.words[i], stamp);
        tear_down(&f);
    }
}

static void who_sleeps_is_woken_for_words_alone(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    set_up(&f);
    CHECK_EQ(shmring_inbox_arm(&f.receivers[0].inbox, &f.message.m), SHMRING_E_EMPTY);
    uint32_t rung = f.rings[0].control->doorbell;
    f.rings[1].control->parked = 9;
    CHECK_EQ(commit(&f, 0, &stamp), SHMRING_OK);
    CHECK_EQ(f.rings[0].control->doorbell, rung); /* no descriptor yet: the number stays */
    CHECK(f.rings[0].control->parked != 0);
    CHECK_EQ(f.rings[1].control->doorbell, 1);
    CHECK_EQ(f.rings[1].control->parked, 0);
    f.rings[1].control->parked = 10;
    shmring_consumer_flag(&f.rings[1].consumer, SHMRING_FLAG_DROPS);
    shmring_consumer_wake(&f.rings[1].consumer, -1);
    CHECK_EQ(f.rings[1].control->flags, SHMRING_FLAG_RELEASES | SHMRING_FLAG_DROPS);
    CHECK_EQ(f.rings[1].control->doorbell, 2);
    CHECK_EQ(f.rings[1].control->parked, 0);
    tear_down(&f);
}

static void words_are_reserved_before_they_are_used(void)
{
    struct fixture f;
    set_up(&f);
    uint64_t offset = shmring_outbox_release_offset(1);
    unsigned char there[3] = {0};
    uint8_t *base = f.sender.outbox.base;
    CHECK_EQ(shmring_outbox_reserve_words(&f.sender.outbox, offset + 8 * SHMRING_PAGE_BYTES + 64,
                                          2 * SHMRING_PAGE_BYTES),
             SHMRING_OK);
    CHECK_EQ(mincore(base + offset + 8 * SHMRING_PAGE_BYTES, sizeof there * SHMRING_PAGE_BYTES,
                     there),
             0);
    /* qemu-user knows nothing of what is resident. */
    for (uint32_t i = 0; i < sizeof there && getenv("CHECK_RUNNER") == NULL; i++)
        CHECK_EQ(there[i] & 1, 1);
    CHECK_EQ(shmring_outbox_reserve_words(&f.sender.outbox, f.sender.outbox.byte_count, 0),
             SHMRING_OK);
    CHECK_EQ(shmring_outbox_reserve_words(&f.sender.outbox, f.sender.outbox.byte_count, 1),
             SHMRING_E_SIZE);
    CHECK_EQ(shmring_outbox_reserve_words(&f.sender.outbox, UINT64_MAX, 2), SHMRING_E_SIZE);
    tear_down(&f);
}

/* ---- the search through a ring -------------------------------------------------------------- */

struct found {
    uint64_t values[2 * CAPACITY];
    uint32_t count;
};

static void on_found(void *context, uint32_t sender, const void *body, uint32_t length)
{
    struct found *found = context;
    CHECK_EQ(sender, 5);
    CHECK_EQ(length, 8);
    memcpy(&found->values[found->count++], body, 8);
}

static struct found scan(struct fixture *f, uint32_t grant)
{
    struct found found = {.count = 0};
    CHECK_EQ(shmring_ring_scan(&f->rings[0].consumer, grant, on_found, &found), SHMRING_OK);
    return found;
}

static void send(struct fixture *f, uint32_t grant, uint64_t value)
{
    uint64_t stamp;
    CHECK_EQ(shmring_producer_send(&f->producers[0], &f->clock, grant, 0, &value, sizeof value,
                                   &stamp),
             SHMRING_OK);
}

static int flag_and_scan(void *context)
{
    struct fixture *f = context;
    struct found found = scan(f, 1); /* the own slots are not written yet */
    CHECK_EQ(found.count, 0);
    return SHMRING_OK;
}

static void a_scan_finds_what_is_written_and_what_is_in_hand(void)
{
    struct fixture f;
    uint64_t stamp;
    uint32_t failed;
    set_up(&f);
    f.releases.flag = flag_and_scan;
    f.value = 1;
    CHECK_EQ(commit(&f, 2, &stamp), SHMRING_OK); /* grant 1 */
    (void)kit_claim(&f.producers[0], kit_claim_words(&f.sender, 0) + 9);
    send(&f, 9, 2);
    send(&f, 1, 3);
    /* A pending one counts. */
    kit_commit_words(&f.sender)[500] = SHMRING_COMMIT_PENDING | UINT64_C(1) << 32;
    kit_write(&f.producers[0],
              kit_claim(&f.producers[0], kit_claim_words(&f.sender, 0) + 10),
              SHMRING_CLASS_MULTICAST, SHMRING_COMMIT_REF(500, 1), 4);
    struct found found = scan(&f, 1);
    REQUIRE(found.count == 3);
    CHECK_EQ(found.values[0], 1);
    CHECK_EQ(found.values[1], 3);
    CHECK_EQ(found.values[2], 4);
    CHECK_EQ(scan(&f, 9).count, 1);
    CHECK_EQ(scan(&f, 8).count, 0);
    /* An aborted one is void for the receiver; what is void is found by nobody. */
    kit_commit_words(&f.sender)[500] = SHMRING_COMMIT_ABORTED | UINT64_C(1) << 32;
    const int64_t values[] = {1, 2, 3};
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQ(next_value(&f, 0), values[i]);
        found = scan(&f, i == 1 ? 9 : 1);
        CHECK(found.count > 0 && found.values[i == 2 ? found.count - 2 : 0] == (uint64_t)values[i]);
    }
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
    (void)failed;
    tear_down(&f);
}

static void what_is_in_hand_is_found_by_every_way_of_taking(void)
{
    for (uint32_t way = 0; way < 3; way++) {
        struct fixture f;
        set_up(&f);
        if (way == 2) { /* by looks */
            kit_ring_close(&f.rings[1]);
            kit_ring_open(&f.rings[1], 30, CAPACITY, 64);
            KIT_MUST(shmring_inbox_add(&f.receivers[0].inbox, &f.rings[1].consumer));
        }
        for (uint32_t i = 0; i < 3 * CAPACITY; i++) {
            send(&f, 1, i);
            int result = way == 0 ? shmring_inbox_take(&f.receivers[0].inbox, &f.message.m)
                                  : kit_take(&f.receivers[0], &f.message);
            CHECK_EQ(result, SHMRING_OK);
            struct found found = scan(&f, 1);
            CHECK(found.count >= 1 && found.values[found.count - 1] == i);
            shmring_inbox_hold(&f.receivers[0].inbox, true); /* it stays in hand */
            CHECK_EQ(shmring_inbox_take(&f.receivers[0].inbox, &f.message.m), SHMRING_E_HELD);
            found = scan(&f, 1);
            CHECK(found.count >= 1 && found.values[found.count - 1] == i);
            shmring_inbox_hold(&f.receivers[0].inbox, false);
        }
        CHECK_EQ(shmring_inbox_arm(&f.receivers[0].inbox, &f.message.m), SHMRING_E_EMPTY);
        CHECK_EQ(scan(&f, 1).count, 0); /* dealt with */
        CHECK_EQ(f.rings[0].control->head, f.rings[0].control->tail);
        tear_down(&f);
    }
}

static void what_is_in_hand_survives_a_change_of_rings(void)
{
    for (uint32_t way = 0; way < 2; way++) {
        struct fixture f;
        uint64_t positions[CAPACITY];
        uint32_t count;
        set_up(&f);
        kit_ring_close(&f.rings[1]);
        kit_ring_open(&f.rings[1], 30, CAPACITY, 64);
        KIT_MUST(shmring_inbox_add(&f.receivers[0].inbox, &f.rings[1].consumer));
        send(&f, 1, 1);
        if (way == 0)
            send(&f, 1, 2);
        CHECK_EQ(next_value(&f, 0), 1);
        if (way == 0)
            shmring_inbox_remove(&f.receivers[0].inbox, &f.rings[1].consumer);
        else
            CHECK_EQ(shmring_inbox_stuck(&f.receivers[0].inbox, &f.rings[0].consumer, positions,
                                         CAPACITY, &count),
                     SHMRING_OK);
        CHECK_EQ(scan(&f, 1).count, 2 - way); /* head was not published */
        if (way == 0)
            CHECK_EQ(next_value(&f, 0), 2);
        CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY); /* none twice */
        tear_down(&f);
    }
}

static void a_late_message_below_head_is_found_while_its_index_is_out_of_service(void)
{
    struct fixture f;
    set_up(&f);
    uint64_t late = kit_claim(&f.producers[0], kit_claim_words(&f.sender, 0) + 9);
    for (uint32_t i = 0; i < CAPACITY; i++) {
        send(&f, 9, i);
        CHECK_EQ(next_value(&f, 0), i);
    }
    CHECK(f.rings[0].control->head > late);
    kit_write(&f.producers[0], late, SHMRING_CLASS_UNICAST, shmring_clock_now(&f.clock), 77);
    struct found found = scan(&f, 1);
    CHECK(found.count == 1 && found.values[0] == 77);
    CHECK_EQ(next_value(&f, 0), 77);
    found = scan(&f, 1);
    CHECK(found.count == 1 && found.values[0] == 77); /* in hand */
    CHECK_EQ(next_value(&f, 0), -SHMRING_E_EMPTY);
    f.rings[0].control->tail += 3 * CAPACITY;
    CHECK_EQ(shmring_ring_scan(&f.rings[0].consumer, 1, on_found, &found), SHMRING_E_CORRUPT);
    tear_down(&f);
}

CHECK_MAIN(RUN(all_words_end_at_the_stamp_of_the_messages),
           RUN(words_end_without_any_message_as_often_as_one_likes),
           RUN(a_full_destination_leaves_the_words_alone), RUN(a_flag_that_fails_undoes_everything),
           RUN(what_another_aborts_leaves_words_that_may_begin_again),
           RUN(who_sleeps_is_woken_for_words_alone), RUN(words_are_reserved_before_they_are_used),
           RUN(a_scan_finds_what_is_written_and_what_is_in_hand),
           RUN(what_is_in_hand_is_found_by_every_way_of_taking),
           RUN(what_is_in_hand_survives_a_change_of_rings),
           RUN(a_late_message_below_head_is_found_while_its_index_is_out_of_service))
