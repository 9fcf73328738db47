/*
 * test_stress_notice.c - releases and deaths among messages, with threads that race.
 *
 * Owners send to one or both receivers and release words, alone or together with messages; somebody
 * aborts what is pending; a broker announces deaths. Both receivers, each with two rings, must see
 * the same order of all that both see, with the same stamps, and none of it against real time.
 */
#include <pthread.h>
#include <sched.h>

#include "ring_kit.h"

#define OWNERS 3u
#define RECEIVERS 2u
#define RINGS 2u
#define DEATHS (96u / CHECK_SLOW)
#define STEPS (6000u / CHECK_SLOW)
#define WORDS_MAX 4u /* of one transaction */

/* What a message or a word says: which step of whose, and how many deaths were over before it. */
struct step {
    uint32_t owner, number, deaths, last;
};

struct owner {
    struct kit_sender sender;
    struct shmring_lane lane;
    struct shmring_producer producers[RECEIVERS];
    struct step *of_word; /* of each release word, before it is set */
    uint64_t over;        /* steps that have returned */
    uint64_t aborted, seed;
};

struct told {
    uint64_t stamp, what;
};

struct receiver {
    struct kit_ring rings[RINGS];
    struct shmring_inbox inbox;
    uint32_t watched[OWNERS]; /* words */
    bool death_watched[DEATHS];
    uint32_t seen[OWNERS]; /* the latest step */
    uint32_t deaths, ended;
    uint32_t attention;
    struct told *told; /* what both are told */
    uint32_t count;
    bool parks;
};

static struct stress {
    struct shmring_clock clock;
    struct shmring_mapping page;
    struct owner owners[OWNERS];
    struct receiver receivers[RECEIVERS];
    uint64_t dead[DEATHS];              /* as in the outboxes of the dead */
    uint64_t before[DEATHS][OWNERS];    /* steps over before a death began */
    uint64_t deaths_over, owners_over;
    uint64_t seed;
} s;

static struct shmring_bus_page *bus_page(void)
{
    return s.page.base;
}

/* ---- the receiving side --------------------------------------------------------------------- */

static int collect_deaths(struct receiver *r, uint64_t seen)
{
    uint64_t who, again = seen;
    do {
        seen = again;
        who = shmring_load_acquire(&bus_page()->dead_peer);
        again = shmring_load_acquire(&bus_page()->death);
    } while (again != seen);
    for (uint32_t d = 0; d < DEATHS; d++) {
        uint64_t stamp = shmring_load_acquire(&s.dead[d]);
        /* What was watched while it was pending is known by having been told. */
        if (d < r->deaths || r->death_watched[d] || (stamp == 0 && (seen == 0 || who != d)))
            continue;
        r->death_watched[d] = stamp != 0 || (seen & SHMRING_COMMIT_STATE_MASK) == 0;
        int result = shmring_inbox_watch(&r->inbox, SHMRING_WATCH_DEATH, &bus_page()->death,
                                         &s.dead[d], 0, 0, stamp != 0 ? stamp : seen, d);
        if (result)
            return result;
    }
    return SHMRING_OK;
}

static int collect(struct shmring_inbox *inbox, uint32_t ring, uint64_t flags, void *context)
{
    struct receiver *r = context;
    if (ring == UINT32_MAX)
        return collect_deaths(r, flags);
    for (uint32_t o = 0; o < OWNERS; o++) {
        if (&r->rings[o % RINGS].consumer != inbox->rings[ring])
            continue;
        uint64_t *words = kit_release_words(&s.owners[o].sender);
        for (; shmring_load_acquire(&words[r->watched[o]]) != 0; r->watched[o]++) {
            int result = shmring_inbox_watch(inbox, SHMRING_WATCH_RELEASE, &words[r->watched[o]],
                                             kit_commit_words(&s.owners[o].sender),
                                             SHMRING_COMMIT_WORDS, 1 + o, 0,
                                             (uint64_t)o << 32 | r->watched[o]);
            if (result)
                return result;
        }
    }
    return SHMRING_OK;
}

static void note(struct receiver *r, uint64_t stamp, uint64_t what)
{
    if (r->count != 0)
        CHECK(stamp >= r->told[r->count - 1].stamp);
    r->told[r->count++] = (struct told){.stamp = stamp, .what = what};
}

/* Nothing comes against real time. */
static void check_step(struct receiver *r, struct step step)
{
    if (!CHECK(step.owner < OWNERS))
        return;
    CHECK(step.number >= r->seen[step.owner]);
    r->seen[step.owner] = step.number;
    CHECK(step.deaths <= r->deaths);
    if (r->deaths != 0)
        CHECK(step.number > s.before[r->deaths - 1][step.owner]);
}

static void take_notice(struct receiver *r, const struct shmring_message *message)
{
    uint64_t cookie = r->inbox.notice_cookie;
    if (r->inbox.notice_kind == SHMRING_WATCH_DEATH) {
        CHECK_EQ(cookie, r->deaths); /* one after the other */
        r->deaths++;
        note(r, message->stamp, UINT64_C(3) << 62 | cookie);
        return;
    }
    struct step step = s.owners[cookie >> 32].of_word[(uint32_t)cookie];
    check_step(r, step);
    note(r, message->stamp, UINT64_C(2) << 62 | cookie);
}

static void take_message(struct receiver *r, const struct shmring_message *message)
{
    struct step step;
    memcpy(&step, message->body, sizeof step);
    check_step(r, step);
    r->ended += step.last;
    if (message->grant == 2)
        note(r, message->stamp, (uint64_t)step.owner << 32 | step.number);
}

static void *receive(void *argument)
{
    struct receiver *r = argument;
    union kit_message message;
    while ((r->ended < OWNERS || r->deaths < DEATHS) && check_failures == 0) {
        int result = r->parks
                         ? shmring_inbox_wait(&r->inbox, &message.m, 2000, check_now_ns() + 5000000)
                         : shmring_inbox_take(&r->inbox, &message.m);
        if (result == SHMRING_OK)
            take_message(r, &message.m);
        else if (result == SHMRING_NOTICE)
            take_notice(r, &message.m);
        else if (!CHECK_EQ(result, SHMRING_E_EMPTY))
            break;
        else
            (void)sched_yield();
    }
    return NULL;
}

/* ---- the sending side ----------------------------------------------------------------------- */

static int flag(void *context)
{
    struct owner *owner = context;
    for (uint32_t r = 0; r < RECEIVERS; r++) {
        shmring_producer_flag(&owner->producers[r], SHMRING_FLAG_RELEASES);
        /* Now and then others run meanwhile, or the whole takes too long. */
        if (check_random(&owner->seed) >> 32 & 1)
            (void)sched_yield();
    }
    return SHMRING_OK;
}

static void wake(void *context)
{
    struct owner *owner = context;
    for (uint32_t r = 0; r < RECEIVERS; r++)
        shmring_producer_wake(&owner->producers[r]);
}

/* Sends to both and releases `count` words from `first` on. */
static void commit(struct owner *owner, const struct step *step, uint32_t legs, uint32_t first,
                   uint32_t count)
{
    uint64_t *words[WORDS_MAX];
    struct shmring_leg leg[RECEIVERS];
    struct shmring_outbox *outbox = owner->sender.outbox.base;
    for (uint32_t i = 0; i < count; i++) {
        words[i] = &kit_release_words(&owner->sender)[first + i];
        owner->of_word[first + i] = *step;
    }
    for (uint32_t r = 0; r < legs; r++)
        leg[r] = (struct shmring_leg){
            .producer = &owner->producers[r], .body = step, .grant = 2, .length = sizeof *step};
    struct shmring_releases releases = {.words = words,
                                        .count = count,
                                        .counter = &outbox->releases,
                                        .flag = flag,
                                        .wake = wake,
                                        .context = owner};
    int result;
    do {
        uint64_t stamp;
        uint32_t failed;
        result = shmring_transaction_commit(&owner->lane, &s.clock, leg, legs, true, &releases,
                                            &stamp, &failed);
        owner->aborted += result == SHMRING_E_ABORTED;
        if (result == SHMRING_E_FULL)
            (void)sched_yield();
    } while ((result == SHMRING_E_FULL || result == SHMRING_E_ABORTED) && check_failures == 0);
    CHECK_EQ(result, SHMRING_OK);
}

static void *own(void *argument)
{
    struct owner *owner = argument;
    uint32_t o = (uint32_t)(owner - s.owners), word = 0;
    uint64_t seed = s.seed + o;
    owner->seed = s.seed + 77 * o;
    for (uint32_t i = 1; i <= STEPS && check_failures == 0; i++) {
        struct step step = {.owner = o,
                            .number = i,
                            .deaths = (uint32_t)shmring_load_acquire(&s.deaths_over),
                            .last = i == STEPS};
        uint64_t dice = check_random(&seed) >> 32;
        uint32_t count = dice % 4 == 0 ? 1 + (uint32_t)(dice >> 8) % WORDS_MAX : 0;
        if (i == STEPS || (dice >> 4) % 4 == 0) {
            commit(owner, &step, RECEIVERS, word, count);
        } else if (count != 0) {
            commit(owner, &step, 0, word, count);
        } else {
            uint64_t stamp;
            int result;
            while ((result = shmring_producer_send(&owner->producers[dice >> 16 & 1], &s.clock, 1,
                                                   0, &step, sizeof step, &stamp)) ==
                       SHMRING_E_FULL &&
                   check_failures == 0)
                (void)sched_yield();
            CHECK_EQ(result, SHMRING_OK);
        }
        word += count;
        shmring_store_release(&owner->over, i);
    }
    uint64_t over = shmring_load_acquire(&s.owners_over);
    while (!shmring_cas_acq_rel(&s.owners_over, &over, over + 1))
        ;
    return NULL;
}

static void *announce_deaths(void *argument)
{
    (void)argument;
    for (uint32_t d = 0; d < DEATHS && check_failures == 0; d++) {
        /* Spread over the run. */
        while (shmring_load_acquire(&s.owners[d % OWNERS].over) < d * (uint64_t)STEPS / DEATHS &&
               check_failures == 0)
            (void)sched_yield();
        for (uint32_t o = 0; o < OWNERS; o++)
            s.before[d][o] = shmring_load_acquire(&s.owners[o].over);
        uint64_t stamp = shmring_bus_announce(&s.page, &s.clock, d + 1, d);
        shmring_store_release(&s.dead[d], stamp);
        shmring_store_release(&s.deaths_over, d + 1);
    }
    return NULL;
}

static void *abort_some(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    while (shmring_load_acquire(&s.owners_over) < OWNERS && check_failures == 0) {
        uint64_t dice = check_random(&seed) >> 20;
        struct owner *owner = &s.owners[dice % OWNERS];
        for (uint32_t i = 0; i < SHMRING_COMMIT_WORDS; i++) {
            uint64_t word = shmring_load_acquire(&kit_commit_words(&owner->sender)[i]);
            if ((word & SHMRING_COMMIT_STATE_MASK) == SHMRING_COMMIT_PENDING)
                (void)shmring_outbox_abort(&owner->sender.outbox, 1, i,
                                           word >> 32 & SHMRING_COMMIT_GENERATION_MASK);
        }
        for (uint32_t i = 0; i < (dice >> 8) % 64; i++)
            (void)sched_yield();
    }
    return NULL;
}

/* ---- the runs ------------------------------------------------------------------------------- */

static void set_up(uint32_t coarse_ns, bool parks)
{
    int fd;
    memset(&s, 0, sizeof s);
    s.clock = kit_clock(coarse_ns != 0 ? SHMRING_CLOCK_MONOTONIC : 0, coarse_ns);
    s.seed = check_seed();
    KIT_MUST(shmring_bus_page_create(&fd));
    s.page = kit_map(fd, SHMRING_SEGMENT_BUS);
    (void)close(fd);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        struct receiver *r = &s.receivers[i];
        shmring_inbox_init(&r->inbox, &s.clock, &bus_page()->death, &r->attention);
        r->inbox.collect = collect;
        r->inbox.collect_context = r;
        r->parks = parks;
        r->told = calloc(OWNERS * STEPS * (1 + WORDS_MAX) + DEATHS, sizeof *r->told);
        for (uint32_t ring = 0; ring < RINGS; ring++) {
            kit_ring_open(&r->rings[ring], 10 * i + ring, 64, 64);
            KIT_MUST(shmring_inbox_add(&r->inbox, &r->rings[ring].consumer));
        }
    }
    for (uint32_t o = 0; o < OWNERS; o++) {
        struct owner *owner = &s.owners[o];
        kit_sender_open(&owner->sender, 1 + o, 1);
        KIT_MUST(shmring_lane_init(&owner->lane, &owner->sender.claims, &owner->sender.outbox, 0));
        owner->of_word = calloc(SHMRING_RELEASE_WORDS, sizeof *owner->of_word);
        for (uint32_t i = 0; i < RECEIVERS; i++) {
            struct kit_ring *ring = &s.receivers[i].rings[o % RINGS];
            kit_introduce(ring, o, &owner->sender);
            KIT_MUST(shmring_producer_init(&owner->producers[i], &ring->mapping,
                                           shmring_lane_claim_word(&owner->lane), o));
        }
    }
}

static void tear_down(void)
{
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        shmring_inbox_deinit(&s.receivers[i].inbox);
        free(s.receivers[i].told);
        for (uint32_t ring = 0; ring < RINGS; ring++)
            kit_ring_close(&s.receivers[i].rings[ring]);
    }
    for (uint32_t o = 0; o < OWNERS; o++) {
        shmring_lane_deinit(&s.owners[o].lane);
        kit_sender_close(&s.owners[o].sender);
        free(s.owners[o].of_word);
    }
    shmring_segment_unmap(&s.page);
}

static void run(uint32_t coarse_ns, bool parks, bool aborts)
{
    pthread_t threads[OWNERS + RECEIVERS + 2];
    uint32_t count = 0;
    set_up(coarse_ns, parks);
    for (uint32_t i = 0; i < RECEIVERS; i++)
        (void)pthread_create(&threads[count++], NULL, receive, &s.receivers[i]);
    for (uint32_t o = 0; o < OWNERS; o++)
        (void)pthread_create(&threads[count++], NULL, own, &s.owners[o]);
    (void)pthread_create(&threads[count++], NULL, announce_deaths, NULL);
    if (aborts)
        (void)pthread_create(&threads[count++], NULL, abort_some, &s.seed);
    for (uint32_t i = 0; i < count; i++)
        (void)pthread_join(threads[i], NULL);

    const struct receiver *a = &s.receivers[0], *b = &s.receivers[1];
    uint64_t aborted = 0;
    for (uint32_t o = 0; o < OWNERS; o++)
        aborted += s.owners[o].aborted;
    CHECK_EQ(a->count, b->count);
    for (uint32_t i = 0; i < a->count && i < b->count && check_failures == 0; i++) {
        CHECK_EQ(a->told[i].what, b->told[i].what);
        CHECK_EQ(a->told[i].stamp, b->told[i].stamp);
    }
    CHECK(a->inbox.counts.notices > DEATHS);
    CHECK(a->inbox.counts.notice_waits + b->inbox.counts.notice_waits > 0);
    (void)printf("  %u in one order, %" PRIu64 " notices, %" PRIu64 " waits for them, %" PRIu64
                 " aborted\n",
                 a->count, a->inbox.counts.notices,
                 a->inbox.counts.notice_waits + b->inbox.counts.notice_waits, aborted);
    tear_down();
}

static void notices_and_messages_have_one_order(void)
{
    run(0, false, false);
}

static void aborted_releases_have_one_order_once_begun_again(void)
{
    run(0, false, true);
}

static void receivers_that_sleep_are_woken_for_notices(void)
{
    run(0, true, true);
}

static void a_coarse_clock_changes_nothing(void)
{
    run(20000, false, true);
}

CHECK_MAIN(RUN(notices_and_messages_have_one_order),
           RUN(aborted_releases_have_one_order_once_begun_again),
           RUN(receivers_that_sleep_are_woken_for_notices), RUN(a_coarse_clock_changes_nothing))
