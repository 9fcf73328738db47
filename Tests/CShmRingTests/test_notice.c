/* test_notice.c - what is watched has its place in the order. Units, one process. */
#include <errno.h>

#include "ring_kit.h"

#define CAPACITY 64u
#define OWNERS 2u
#define WORDS 8u

struct fixture {
    struct shmring_clock clock;
    uint32_t ring_count;
    struct kit_ring rings[2];
    struct kit_inbox receiver;
    struct kit_sender owner[OWNERS];
    struct shmring_lane lane[OWNERS];
    struct shmring_producer producer[OWNERS]; /* owner o writes ring o, or the only one */
    bool watched[OWNERS][WORDS];
    uint32_t generation;
    uint32_t collected;
    uint64_t death_seen;
    int collect_result;
    union kit_message message;
};

/* What next says of a notice. */
#define NOTICE(kind, cookie) (100000 + (int64_t)(kind) * 1000 + (int64_t)(cookie))
#define RELEASED(o, w) NOTICE(SHMRING_WATCH_RELEASE, 100 * (o) + (w))
#define DEAD(o) NOTICE(SHMRING_WATCH_DEATH, o)

static uint64_t *word_of(struct fixture *f, uint32_t o, uint32_t w)
{
    return &kit_release_words(&f->owner[o])[w];
}

static int watch_release(struct fixture *f, uint32_t o, uint32_t w)
{
    f->watched[o][w] = true;
    return shmring_inbox_watch(&f->receiver.inbox, SHMRING_WATCH_RELEASE, word_of(f, o, w),
                               kit_commit_words(&f->owner[o]), SHMRING_COMMIT_WORDS, 1 + o, 0,
                               100 * o + w);
}

static int watch_death(struct fixture *f, uint32_t o, uint64_t seen)
{
    struct shmring_outbox *outbox = f->owner[o].outbox.base;
    return shmring_inbox_watch(&f->receiver.inbox, SHMRING_WATCH_DEATH, &f->receiver.death,
                               &outbox->dead, 0, 1 + o, seen, o);
}

/* As a receiver does that holds something of every owner. */
static int collect(struct shmring_inbox *inbox, uint32_t ring, uint64_t flags, void *context)
{
    struct fixture *f = context;
    f->collected++;
    if (f->collect_result)
        return f->collect_result;
    if (ring == UINT32_MAX) {
        f->death_seen = flags;
        return SHMRING_OK;
    }
    CHECK(ring < inbox->ring_count);
    CHECK_EQ(inbox->rings[ring]->control->flags, 0); /* taken before the words are read */
    for (uint32_t o = 0; o < OWNERS; o++)
        for (uint32_t w = 0; w < WORDS; w++)
            if (!f->watched[o][w] && shmring_load_acquire(word_of(f, o, w)) != 0)
                KIT_MUST(watch_release(f, o, w));
    return SHMRING_OK;
}

static void set_up(struct fixture *f, uint32_t ring_count)
{
    memset(f, 0, sizeof *f);
    f->clock = kit_clock(0, 0);
    f->ring_count = ring_count;
    for (uint32_t r = 0; r < ring_count; r++)
        kit_ring_open(&f->rings[r], 10 + r, CAPACITY, 64);
    for (uint32_t o = 0; o < OWNERS; o++) {
        struct kit_ring *ring = &f->rings[o % ring_count];
        kit_sender_open(&f->owner[o], 1 + o, 1);
        kit_introduce(ring, o, &f->owner[o]);
        KIT_MUST(shmring_lane_init(&f->lane[o], &f->owner[o].claims, &f->owner[o].outbox, 0));
        KIT_MUST(shmring_producer_init(&f->producer[o], &ring->mapping,
                                       shmring_lane_claim_word(&f->lane[o]), o));
    }
    kit_inbox_open(&f->receiver, &f->clock, f->rings, ring_count);
    f->receiver.inbox.collect = collect;
    f->receiver.inbox.collect_context = f;
}

static void tear_down(struct fixture *f)
{
    shmring_inbox_deinit(&f->receiver.inbox);
    for (uint32_t o = 0; o < OWNERS; o++) {
        shmring_lane_deinit(&f->lane[o]);
        kit_sender_close(&f->owner[o]);
    }
    for (uint32_t r = 0; r < f->ring_count; r++)
        kit_ring_close(&f->rings[r]);
}

static int64_t next(struct fixture *f)
{
    int result = kit_take(&f->receiver, &f->message);
    if (result == SHMRING_NOTICE) {
        CHECK_EQ(f->message.m.length, 0);
        return NOTICE(f->receiver.inbox.notice_kind, f->receiver.inbox.notice_cookie);
    }
    return result == SHMRING_OK ? (int64_t)f->message.m.body[0] : -result;
}

static void send(struct fixture *f, uint32_t o, uint64_t value)
{
    CHECK_EQ(kit_send(&f->producer[o], &f->clock, value), SHMRING_OK);
}

struct flagging {
    struct fixture *f;
    void (*meanwhile)(struct fixture *f);
    uint32_t o;
};

static int flag(void *context)
{
    struct flagging *flagging = context;
    shmring_producer_flag(&flagging->f->producer[flagging->o], SHMRING_FLAG_RELEASES);
    if (flagging->meanwhile != NULL)
        flagging->meanwhile(flagging->f);
    return SHMRING_OK;
}

/* Releases words w .. w + count - 1 at one instant, and sends `value` with them unless negative. */
static int release_and_send(struct fixture *f, uint32_t o, uint32_t w, uint32_t count,
                            int64_t value, void (*meanwhile)(struct fixture *), uint64_t *stamp)
{
    uint64_t *words[WORDS];
    for (uint32_t i = 0; i < count; i++)
        words[i] = word_of(f, o, w + i);
    struct flagging flagging = {.f = f, .meanwhile = meanwhile, .o = o};
    struct shmring_outbox *outbox = f->owner[o].outbox.base;
    struct shmring_releases releases = {.words = words,
                                        .count = count,
                                        .counter = &outbox->releases,
                                        .flag = flag,
                                        .context = &flagging};
    struct shmring_leg leg = {
        .producer = &f->producer[o], .body = &value, .grant = 1, .length = sizeof value};
    uint32_t failed;
    return shmring_transaction_commit(&f->lane[o], &f->clock, &leg, value >= 0, false, &releases,
                                      stamp, &failed);
}

static uint64_t release(struct fixture *f, uint32_t o, uint32_t w)
{
    uint64_t stamp = 0;
    CHECK_EQ(release_and_send(f, o, w, 1, -1, NULL, &stamp), SHMRING_OK);
    return stamp;
}

/* The steps of a release, one by one, with a commit word that the lane does not use. */
#define COMMIT 500u

static void begin(struct fixture *f, uint32_t o, uint32_t w)
{
    f->generation++;
    shmring_store_release(&kit_commit_words(&f->owner[o])[COMMIT],
                          SHMRING_COMMIT_PENDING | (uint64_t)f->generation << 32 | 5);
    shmring_store_release(word_of(f, o, w), SHMRING_RELEASE_REF(COMMIT, f->generation));
    shmring_producer_flag(&f->producer[o], SHMRING_FLAG_RELEASES);
}

static void commit_at(struct fixture *f, uint32_t o, uint64_t stamp)
{
    shmring_store_release(&kit_commit_words(&f->owner[o])[COMMIT], stamp);
}

static void abort_it(struct fixture *f, uint32_t o)
{
    shmring_store_release(&kit_commit_words(&f->owner[o])[COMMIT],
                          SHMRING_COMMIT_ABORTED | (uint64_t)f->generation << 32);
}

/* ---- releases ------------------------------------------------------------------------------- */

static void a_release_stands_between_the_messages_before_and_after_it(void)
{
    for (uint32_t rings = 1; rings <= 2; rings++) {
        struct fixture f;
        set_up(&f, rings);
        send(&f, 0, 1);
        send(&f, 1, 2);
        uint64_t stamp = release(&f, 0, 3);
        send(&f, 1, 4);
        send(&f, 0, 5);
        CHECK_EQ(next(&f), 1);
        CHECK_EQ(next(&f), 2);
        CHECK_EQ(next(&f), RELEASED(0, 3));
        CHECK_EQ(f.message.m.stamp, stamp);
        CHECK_EQ(f.message.m.sequence, 3);
        CHECK(!shmring_message_has_more(&f.message.m));
        CHECK_EQ(next(&f), 4);
        CHECK(f.message.m.stamp > stamp);
        CHECK_EQ(next(&f), 5);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        CHECK_EQ(f.receiver.inbox.counts.notices, 1);
        CHECK_EQ(f.receiver.inbox.watch_count, 0);
        if (rings == 1)
            CHECK(f.receiver.inbox.only != NULL); /* the plainest case again */
        tear_down(&f);
    }
}

static void a_pending_release_holds_unicasts(void)
{
    for (uint32_t i = 0; i < 4; i++) {
        struct fixture f;
        set_up(&f, 1 + i % 2);
        uint64_t before = shmring_clock_now(&f.clock);
        begin(&f, 0, 3);
        send(&f, 1, 1);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        CHECK_EQ(f.receiver.inbox.counts.notice_waits, 1);
        CHECK_EQ(f.receiver.inbox.counts.rings_waits, i % 2);
        commit_at(&f, 0, i < 2 ? before : shmring_clock_now(&f.clock));
        if (i < 2) /* its stamp was read before the message's */
            CHECK_EQ(next(&f), RELEASED(0, 3));
        CHECK_EQ(next(&f), 1);
        if (i >= 2)
            CHECK_EQ(next(&f), RELEASED(0, 3));
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

static void an_aborted_release_lets_go_and_is_told_once_begun_again(void)
{
    for (uint32_t rings = 1; rings <= 2; rings++) {
        struct fixture f;
        set_up(&f, rings);
        begin(&f, 0, 3);
        send(&f, 1, 1);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        abort_it(&f, 0);
        CHECK_EQ(next(&f), 1);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        CHECK_EQ(f.receiver.inbox.watch_count, 1); /* it stays watched */
        send(&f, 1, 2);
        CHECK_EQ(next(&f), 2);
        begin(&f, 0, 3);
        send(&f, 1, 3);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        abort_it(&f, 0);
        begin(&f, 0, 3); /* younger than the look that waits: not waited for */
        CHECK_EQ(next(&f), 3);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        commit_at(&f, 0, shmring_clock_now(&f.clock));
        CHECK_EQ(next(&f), RELEASED(0, 3));
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

static void a_stamp_is_found_in_the_word_once_its_commit_word_serves_another(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t stamp = shmring_clock_now(&f.clock);
    begin(&f, 0, 3);
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    shmring_store_release(word_of(&f, 0, 3), stamp);
    f.generation++;
    shmring_store_release(&kit_commit_words(&f.owner[0])[COMMIT],
                          SHMRING_COMMIT_PENDING | (uint64_t)f.generation << 32 | 5);
    CHECK_EQ(next(&f), RELEASED(0, 3));
    CHECK_EQ(f.message.m.stamp, stamp);
    tear_down(&f);
}

static void several_releases_of_one_transaction_say_that_more_follow(void)
{
    for (uint32_t rings = 1; rings <= 2; rings++) {
        struct fixture f;
        uint64_t stamp = 0;
        set_up(&f, rings);
        send(&f, 1, 1);
        CHECK_EQ(release_and_send(&f, 0, 2, 3, 7, NULL, &stamp), SHMRING_OK);
        send(&f, 1, 8);
        CHECK_EQ(next(&f), 1);
        CHECK(!shmring_message_has_more(&f.message.m));
        const int64_t told[] = {7, RELEASED(0, 2), RELEASED(0, 3), RELEASED(0, 4)};
        for (uint32_t i = 0; i < 4; i++) {
            CHECK_EQ(next(&f), told[i]);
            CHECK_EQ(f.message.m.stamp, stamp);
            CHECK_EQ(shmring_message_has_more(&f.message.m), i < 3);
        }
        CHECK_EQ(next(&f), 8);
        tear_down(&f);
    }
}

static void what_happens_at_one_instant_has_an_order(void)
{
    struct fixture f;
    set_up(&f, 2);
    uint64_t at = shmring_clock_now(&f.clock);
    for (uint32_t o = OWNERS; o-- > 0;) {
        kit_write(&f.producer[o], kit_claim(&f.producer[o], kit_claim_words(&f.owner[o], 0)),
                  SHMRING_CLASS_MULTICAST, SHMRING_COMMIT_REF(COMMIT, 1), 10 + o);
        kit_write(&f.producer[o], kit_claim(&f.producer[o], kit_claim_words(&f.owner[o], 0)),
                  SHMRING_CLASS_UNICAST, at, 20 + o);
    }
    KIT_MUST(shmring_inbox_watch(&f.receiver.inbox, SHMRING_WATCH_DEATH, NULL, NULL, 0, 1, at, 0));
    for (uint32_t o = OWNERS; o-- > 0;) {
        f.generation = 0;
        begin(&f, o, o);
        commit_at(&f, o, at);
    }
    const int64_t told[] = {20, 21, 10, RELEASED(0, 0), 11, RELEASED(1, 1), DEAD(0)};
    for (uint32_t i = 0; i < 7; i++) {
        CHECK_EQ(next(&f), told[i]);
        /* Only of one transaction: 10 and the release are, by what they show. */
        CHECK_EQ(shmring_message_has_more(&f.message.m), i == 2 || i == 4);
    }
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    tear_down(&f);
}

/* ---- between two deliveries ----------------------------------------------------------------- */

static void what_is_watched_between_two_deliveries_takes_its_place(void)
{
    for (uint32_t i = 0; i < 4; i++) {
        struct fixture f;
        uint64_t stamp = 0;
        set_up(&f, 1 + i % 2);
        f.receiver.inbox.collect = NULL; /* holds nothing yet */
        /* Transactions, so that one look puts all in order. */
        CHECK_EQ(release_and_send(&f, 0, 0, 1, 1, NULL, &stamp), SHMRING_OK);
        uint64_t between = shmring_clock_now(&f.clock);
        CHECK_EQ(release_and_send(&f, 1, 0, 1, 2, NULL, &stamp), SHMRING_OK);
        CHECK_EQ(next(&f), 1);
        begin(&f, 0, 5);
        CHECK_EQ(watch_release(&f, 0, 5), SHMRING_OK);
        if (i >= 2)
            CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        commit_at(&f, 0, between);
        CHECK_EQ(next(&f), RELEASED(0, 5));
        CHECK_EQ(next(&f), 2);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

static void a_word_that_was_stamped_before_it_is_watched_is_told(void)
{
    struct fixture f;
    set_up(&f, 1);
    f.receiver.inbox.collect = NULL;
    (void)release(&f, 0, 1);
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    CHECK_EQ(watch_release(&f, 0, 1), SHMRING_OK);
    CHECK(f.receiver.inbox.only == NULL);
    CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), SHMRING_NOTICE);
    CHECK_EQ(watch_release(&f, 0, 2), SHMRING_OK); /* 0: nothing to tell */
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    CHECK(f.receiver.inbox.only != NULL);
    tear_down(&f);
}

static void what_is_unwatched_is_not_told_and_not_waited_for(void)
{
    struct fixture f;
    uint64_t stamp = 0;
    set_up(&f, 1);
    CHECK_EQ(release_and_send(&f, 0, 0, 3, 7, NULL, &stamp), SHMRING_OK);
    CHECK_EQ(next(&f), 7);
    shmring_inbox_unwatch(&f.receiver.inbox, SHMRING_WATCH_RELEASE, 0);
    shmring_inbox_unwatch(&f.receiver.inbox, SHMRING_WATCH_RELEASE, 2);
    CHECK_EQ(next(&f), RELEASED(0, 1));
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    begin(&f, 0, 5);
    send(&f, 0, 8);
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    shmring_inbox_unwatch(&f.receiver.inbox, SHMRING_WATCH_RELEASE, 5);
    CHECK_EQ(next(&f), 8);
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    CHECK_EQ(f.receiver.inbox.watch_count, 0);
    tear_down(&f);
}

static void what_could_not_be_collected_is_collected_by_the_next_look(void)
{
    for (uint32_t rings = 1; rings <= 2; rings++) {
        struct fixture f;
        set_up(&f, rings);
        f.collect_result = -ENOMEM;
        (void)release(&f, 0, 1);
        send(&f, 1, 2);
        CHECK_EQ(next(&f), ENOMEM);
        CHECK_EQ(shmring_inbox_take(&f.receiver.inbox, &f.message.m), -ENOMEM);
        f.receiver.death = 77; /* and so is a death */
        CHECK_EQ(next(&f), ENOMEM);
        f.collect_result = 0;
        CHECK_EQ(next(&f), RELEASED(0, 1));
        CHECK_EQ(f.death_seen, 77);
        CHECK_EQ(next(&f), 2);
        tear_down(&f);
    }
}

/* ---- deaths --------------------------------------------------------------------------------- */

static void a_pending_death_holds_and_has_its_place(void)
{
    for (uint32_t i = 0; i < 4; i++) {
        struct fixture f;
        set_up(&f, 1 + i % 2);
        struct shmring_outbox *outbox = f.owner[0].outbox.base;
        send(&f, 0, 1);
        uint64_t pending = SHMRING_COMMIT_PENDING | UINT64_C(1) << 32;
        shmring_store_release(&f.receiver.death, pending);
        CHECK_EQ(watch_death(&f, 0, pending), SHMRING_OK);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        uint64_t stamp = shmring_clock_now(&f.clock);
        send(&f, 1, 2);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        shmring_store_release(&f.receiver.death, stamp);
        if (i >= 2) { /* and the next death has begun */
            shmring_store_release(&outbox->dead, stamp);
            shmring_store_release(&f.receiver.death, pending + (UINT64_C(1) << 32));
        }
        CHECK_EQ(next(&f), 1);
        CHECK_EQ(next(&f), DEAD(0));
        CHECK_EQ(f.message.m.stamp, stamp);
        CHECK_EQ(next(&f), 2);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        CHECK_EQ(f.death_seen, f.receiver.death);
        tear_down(&f);
    }
}

static void an_aborted_death_begins_again_and_is_told_once(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t pending = SHMRING_COMMIT_PENDING | UINT64_C(1) << 32;
    f.receiver.death = pending;
    CHECK_EQ(watch_death(&f, 0, pending), SHMRING_OK);
    send(&f, 1, 1);
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    f.receiver.death = SHMRING_COMMIT_ABORTED | UINT64_C(1) << 32;
    CHECK_EQ(next(&f), 1);
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    pending += UINT64_C(1) << 32;
    f.receiver.death = pending;
    CHECK_EQ(watch_death(&f, 0, pending), SHMRING_OK);
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    uint64_t stamp = shmring_clock_now(&f.clock);
    f.receiver.death = stamp;
    CHECK_EQ(watch_death(&f, 0, stamp), SHMRING_OK); /* seen twice */
    CHECK_EQ(next(&f), DEAD(0));
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    tear_down(&f);
}

static void a_death_is_collected_when_its_word_changes(void)
{
    struct fixture f;
    struct shmring_mapping page;
    int fd;
    KIT_MUST(shmring_bus_page_create(&fd));
    page = kit_map(fd, SHMRING_SEGMENT_BUS);
    set_up(&f, 1);
    f.receiver.inbox.death = &((struct shmring_bus_page *)page.base)->death;
    send(&f, 0, 1);
    uint64_t stamp = shmring_bus_announce(&page, &f.clock, 1, 1);
    send(&f, 1, 2);
    CHECK_EQ(next(&f), 1);
    CHECK_EQ(f.death_seen, stamp);
    CHECK_EQ(f.collected, 1);
    CHECK_EQ(next(&f), 2);
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    CHECK_EQ(f.collected, 1);
    tear_down(&f);
    shmring_segment_unmap(&page);
    (void)close(fd);
}

/* A broker stands still in the middle: its heir goes on with it, and so does it itself later. */
static void a_death_that_somebody_else_goes_on_with_is_announced_once(void)
{
    struct fixture f;
    int fd;
    KIT_MUST(shmring_bus_page_create(&fd));
    struct shmring_mapping page = kit_map(fd, SHMRING_SEGMENT_BUS);
    struct shmring_bus_page *shared = page.base;
    set_up(&f, 1);
    CHECK(!shmring_bus_announce_late(&page, &f.clock, 3, 7)); /* not begun */
    shared->death = SHMRING_COMMIT_PENDING | UINT64_C(3) << 32;
    CHECK(!shmring_bus_announce_late(&page, &f.clock, 3, 7)); /* not named yet */
    shared->dead_peer = 7;
    CHECK(!shmring_bus_announce_late(&page, &f.clock, 2, 7));
    CHECK(!shmring_bus_announce_late(&page, &f.clock, 3, 8));
    CHECK(shmring_bus_announce_late(&page, &f.clock, 3, 7));
    uint64_t stamp = shared->death;
    CHECK_EQ(stamp & SHMRING_COMMIT_STATE_MASK, 0);
    CHECK(!shmring_bus_announce_late(&page, &f.clock, 3, 7));
    CHECK_EQ(shmring_bus_announce_again(&page, &f.clock, 3, 7), stamp);
    tear_down(&f);
    shmring_segment_unmap(&page);
    (void)close(fd);
}

/* Its name may not have been there when the word was first seen. */
static void a_pending_death_is_collected_by_every_look(void)
{
    for (uint32_t rings = 1; rings <= 2; rings++) {
        struct fixture f;
        set_up(&f, rings);
        f.receiver.death = SHMRING_COMMIT_PENDING | UINT64_C(1) << 32;
        for (uint32_t i = 1; i <= 3; i++) {
            uint32_t collected = f.collected;
            uint64_t stamp;
            CHECK_EQ(release_and_send(&f, 0, 0, 0, i, NULL, &stamp), SHMRING_OK);
            CHECK_EQ(next(&f), i);
            CHECK_EQ(f.death_seen, f.receiver.death);
            CHECK(f.collected > collected);
        }
        tear_down(&f);
    }
}

/* ---- hostile words -------------------------------------------------------------------------- */

static void a_word_that_no_honest_owner_writes_has_not_happened(void)
{
    const uint64_t words[] = {
        SHMRING_RELEASE_REF(SHMRING_COMMIT_WORDS, 1), /* beyond the commit words */
        SHMRING_RELEASE_REF(UINT32_MAX, 1),
        SHMRING_RELEASE_REF(COMMIT, 9), /* a generation that never was */
        SHMRING_COMMIT_ABORTED | 7,
        SHMRING_COMMIT_STATE_MASK | 7,
        UINT64_MAX,
    };
    for (uint32_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        struct fixture f;
        set_up(&f, 1 + i % 2);
        begin(&f, 0, 3);
        shmring_store_release(word_of(&f, 0, 3), words[i]);
        send(&f, 1, 1);
        CHECK_EQ(next(&f), 1);
        CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
        CHECK_EQ(f.receiver.inbox.unsettled, 0); /* and costs nothing further */
        tear_down(&f);
    }
}

static void a_stamp_that_the_clock_has_not_reached_blocks_nobody(void)
{
    struct fixture f;
    set_up(&f, 1);
    begin(&f, 0, 3);
    shmring_store_release(word_of(&f, 0, 3), UINT64_MAX >> 2);
    send(&f, 1, 1);
    CHECK_EQ(next(&f), 1);
    CHECK_EQ(next(&f), RELEASED(0, 3));
    CHECK(f.message.m.stamp < shmring_clock_now(&f.clock));
    CHECK_EQ(f.receiver.inbox.counts.clamped, 1);
    CHECK_EQ(next(&f), -SHMRING_E_EMPTY);
    tear_down(&f);
}

CHECK_MAIN(RUN(a_release_stands_between_the_messages_before_and_after_it),
           RUN(a_pending_release_holds_unicasts),
           RUN(an_aborted_release_lets_go_and_is_told_once_begun_again),
           RUN(a_stamp_is_found_in_the_word_once_its_commit_word_serves_another),
           RUN(several_releases_of_one_transaction_say_that_more_follow),
           RUN(what_happens_at_one_instant_has_an_order),
           RUN(what_is_watched_between_two_deliveries_takes_its_place),
           RUN(a_word_that_was_stamped_before_it_is_watched_is_told),
           RUN(what_is_unwatched_is_not_told_and_not_waited_for),
           RUN(what_could_not_be_collected_is_collected_by_the_next_look),
           RUN(a_pending_death_holds_and_has_its_place),
           RUN(an_aborted_death_begins_again_and_is_told_once),
           RUN(a_death_is_collected_when_its_word_changes),
           RUN(a_death_that_somebody_else_goes_on_with_is_announced_once),
           RUN(a_pending_death_is_collected_by_every_look),
           RUN(a_word_that_no_honest_owner_writes_has_not_happened),
           RUN(a_stamp_that_the_clock_has_not_reached_blocks_nobody))
