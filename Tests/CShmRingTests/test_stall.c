/* test_stall.c - for what a look waits, when that is said, and that nobody sleeps meanwhile. */
#include "ring_kit.h"

#define CAPACITY 64u
#define RINGS 2u
#define GENERATION UINT64_C(77)
#define PENDING (SHMRING_COMMIT_PENDING | GENERATION << 32)
#define ABORTED (SHMRING_COMMIT_ABORTED | GENERATION << 32)
#define NEVER UINT64_MAX

struct fixture {
    struct shmring_clock clock;
    struct kit_ring rings[RINGS];
    struct kit_sender sender;
    struct shmring_producer producer[RINGS];
    uint64_t *words, *commits;
    struct kit_inbox receiver;
    union kit_message message;
    struct shmring_blocker blockers[SHMRING_BLOCKERS_MAX];
    uint32_t count;  /* of the latest */
    uint32_t stalls; /* how often it was said */
    bool aborts;     /* what is said becomes aborted at once */
    uint64_t said_ns;
};

static void stalled(const struct shmring_blocker *blockers, uint32_t count, void *context)
{
    struct fixture *f = context;
    CHECK(count > 0 && count <= SHMRING_BLOCKERS_MAX);
    memcpy(f->blockers, blockers, count * sizeof *blockers);
    f->count = count;
    f->stalls++;
    f->said_ns = check_now_ns();
    for (uint32_t i = 0; i < count && f->aborts; i++)
        f->commits[blockers[i].index] = ABORTED;
}

static void set_up(struct fixture *f, uint32_t ring_count)
{
    memset(f, 0, sizeof *f);
    f->clock = kit_clock(0, 0);
    kit_sender_open(&f->sender, 3, 1);
    f->words = kit_claim_words(&f->sender, 0);
    f->commits = kit_commit_words(&f->sender);
    for (uint32_t r = 0; r < RINGS; r++) {
        kit_ring_open(&f->rings[r], 7 + r, CAPACITY, 64);
        kit_introduce(&f->rings[r], 5, &f->sender);
        KIT_MUST(shmring_producer_init(&f->producer[r], &f->rings[r].mapping, f->words, 5));
    }
    kit_inbox_open(&f->receiver, &f->clock, f->rings, ring_count);
    f->receiver.inbox.stalled = stalled;
    f->receiver.inbox.stalled_context = f;
}

static void tear_down(struct fixture *f)
{
    shmring_inbox_deinit(&f->receiver.inbox);
    for (uint32_t r = 0; r < RINGS; r++)
        kit_ring_close(&f->rings[r]);
    kit_sender_close(&f->sender);
}

/* A multicast that refers to this commit word of generation 77. */
static void write_pending(struct fixture *f, uint32_t ring, uint32_t index)
{
    f->commits[index] = PENDING;
    kit_write(&f->producer[ring], kit_claim(&f->producer[ring], f->words),
              SHMRING_CLASS_MULTICAST, SHMRING_COMMIT_REF(index, GENERATION), index);
}

static int take(struct fixture *f)
{
    return shmring_inbox_take(&f->receiver.inbox, &f->message.m);
}

static void a_spinning_receiver_says_for_what_it_waits(void)
{
    for (uint32_t rings = 1; rings <= RINGS; rings++) {
        struct fixture f;
        set_up(&f, rings);
        write_pending(&f, rings - 1, 4);
        uint64_t begun = check_now_ns();
        while (f.stalls == 0)
            CHECK_EQ(take(&f), SHMRING_E_EMPTY);
        CHECK(f.said_ns - begun >= SHMRING_STALL_NS);
        CHECK_EQ(f.count, 1);
        CHECK_EQ(f.blockers[0].ring, rings - 1);
        CHECK_EQ(f.blockers[0].sender, 5);
        CHECK_EQ(f.blockers[0].index, 4);
        CHECK_EQ(f.blockers[0].generation, GENERATION);
        f.commits[4] = ABORTED;
        CHECK_EQ(kit_send(&f.producer[0], &f.clock, 8), SHMRING_OK);
        CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_OK);
        CHECK_EQ(f.message.m.body[0], 8);
        CHECK_EQ(f.stalls, 1);
        tear_down(&f);
    }
}

static void what_is_committed_soon_is_not_spoken_of(void)
{
    struct fixture f;
    set_up(&f, 1);
    for (uint64_t i = 0; i < 1000; i++) {
        uint32_t index = (uint32_t)i % SHMRING_COMMIT_WORDS;
        write_pending(&f, 0, index);
        uint64_t begun = check_now_ns();
        for (uint32_t turn = 0; turn < 20; turn++)
            CHECK_EQ(take(&f), SHMRING_E_EMPTY);
        bool soon = check_now_ns() - begun < SHMRING_STALL_NS;
        f.commits[index] = shmring_clock_now(&f.clock);
        CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_OK);
        CHECK(!soon || f.stalls == 0);
        f.stalls = 0;
    }
    tear_down(&f);
}

static void a_receiver_that_sleeps_wakes_to_say_so_and_goes_on(void)
{
    for (uint32_t rings = 1; rings <= RINGS; rings++) {
        struct fixture f;
        set_up(&f, rings);
        f.aborts = true;
        for (uint32_t i = 0; i < 20; i++) {
            write_pending(&f, i % rings, i);
            CHECK_EQ(kit_send(&f.producer[i % rings], &f.clock, 1000 + i), SHMRING_OK);
            /* The longest sleep, 250 ms, would be 5 s in all: the watchdog is not far. */
            int result =
                shmring_inbox_wait(&f.receiver.inbox, &f.message.m, i % 2 ? 50000 : 0, NEVER);
            CHECK_EQ(result, SHMRING_OK);
            CHECK_EQ(f.message.m.body[0], 1000 + i);
            CHECK_EQ(f.stalls, i + 1);
        }
        tear_down(&f);
    }
}

static void who_sleeps_in_a_loop_is_told_until_when(void)
{
    struct fixture f;
    set_up(&f, 1);
    CHECK_EQ(shmring_inbox_arm(&f.receiver.inbox, &f.message.m), SHMRING_E_EMPTY);
    CHECK_EQ(shmring_inbox_sleeps_until(&f.receiver.inbox, NEVER), NEVER);
    write_pending(&f, 0, 9);
    CHECK_EQ(shmring_inbox_arm(&f.receiver.inbox, &f.message.m), SHMRING_E_EMPTY);
    uint64_t until = shmring_inbox_sleeps_until(&f.receiver.inbox, NEVER);
    CHECK(until <= check_now_ns() + SHMRING_STALL_NS);
    while (check_now_ns() < until) {
    }
    CHECK_EQ(shmring_inbox_arm(&f.receiver.inbox, &f.message.m), SHMRING_E_EMPTY);
    CHECK_EQ(f.stalls, 1);
    CHECK(shmring_inbox_sleeps_until(&f.receiver.inbox, NEVER) > check_now_ns());
    CHECK_EQ(shmring_inbox_sleeps_until(&f.receiver.inbox, 5), 5);
    tear_down(&f);
}

static void it_is_said_again_after_ever_longer_pauses(void)
{
    struct fixture f;
    set_up(&f, 1);
    write_pending(&f, 0, 3);
    uint64_t last = 0, pause = 10 * SHMRING_STALL_NS;
    for (uint32_t i = 1; i <= 5; i++) {
        while (f.stalls < i)
            CHECK_EQ(take(&f), SHMRING_E_EMPTY);
        if (last != 0) {
            CHECK(f.said_ns - last >= pause * 9 / 10); /* noted a little later than decided */
            pause *= 2;
        }
        last = f.said_ns;
    }
    tear_down(&f);
}

static void a_ring_full_of_pending_words_is_told_part_by_part(void)
{
    struct fixture f;
    set_up(&f, 1);
    f.aborts = true;
    const uint32_t all = CAPACITY - CAPACITY / 8;
    for (uint32_t i = 0; i < all; i++)
        write_pending(&f, 0, 7 * i);
    CHECK_EQ(kit_send(&f.producer[0], &f.clock, 5), SHMRING_E_FULL);
    uint64_t begun = check_now_ns();
    while (f.receiver.inbox.counts.aborted < all)
        CHECK_EQ(take(&f), SHMRING_E_EMPTY);
    CHECK_EQ(f.stalls, (all + SHMRING_BLOCKERS_MAX - 1) / SHMRING_BLOCKERS_MAX);
    CHECK(check_now_ns() - begun >= SHMRING_STALL_NS);
    CHECK_EQ(take(&f), SHMRING_E_EMPTY);
    CHECK_EQ(kit_send(&f.producer[0], &f.clock, 6), SHMRING_OK);
    CHECK_EQ(kit_take(&f.receiver, &f.message), SHMRING_OK);
    CHECK_EQ(f.message.m.body[0], 6);
    tear_down(&f);
}

static void what_is_watched_is_named_by_its_owner_and_a_death_by_nobody(void)
{
    struct fixture f;
    set_up(&f, 1);
    uint64_t word = SHMRING_RELEASE_REF(11, GENERATION), death = SHMRING_COMMIT_PENDING | 5;
    f.commits[11] = PENDING;
    f.receiver.death = death;
    CHECK_EQ(shmring_inbox_watch(&f.receiver.inbox, SHMRING_WATCH_DEATH, &f.receiver.death, NULL,
                                 0, 40, death, 1),
             SHMRING_OK);
    uint64_t end = check_now_ns() + 3 * SHMRING_STALL_NS;
    while (check_now_ns() < end)
        CHECK_EQ(take(&f), SHMRING_E_EMPTY);
    CHECK_EQ(f.stalls, 0);
    CHECK_EQ(shmring_inbox_watch(&f.receiver.inbox, SHMRING_WATCH_RELEASE, &word, f.commits,
                                 SHMRING_COMMIT_WORDS, 41, 0, 2),
             SHMRING_OK);
    while (f.stalls == 0)
        CHECK_EQ(take(&f), SHMRING_E_EMPTY);
    CHECK_EQ(f.count, 1);
    CHECK_EQ(f.blockers[0].ring, UINT32_MAX);
    CHECK_EQ(f.blockers[0].sender, 41);
    CHECK_EQ(f.blockers[0].index, 11);
    CHECK_EQ(f.blockers[0].generation, GENERATION);
    tear_down(&f);
}

CHECK_MAIN(RUN(a_spinning_receiver_says_for_what_it_waits),
           RUN(what_is_committed_soon_is_not_spoken_of),
           RUN(a_receiver_that_sleeps_wakes_to_say_so_and_goes_on),
           RUN(who_sleeps_in_a_loop_is_told_until_when),
           RUN(it_is_said_again_after_ever_longer_pauses),
           RUN(a_ring_full_of_pending_words_is_told_part_by_part),
           RUN(what_is_watched_is_named_by_its_owner_and_a_death_by_nobody))
