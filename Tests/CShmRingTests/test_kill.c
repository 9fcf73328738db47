/*
 * test_kill.c - senders killed at random instants: what the others sent arrives, the receiver is
 * never blocked, and the dead one's claims are buried by what the claim words say.
 *
 * The test plays the broker: it reads the claim words of the dead, asks that no living one names
 * the position, makes pending commit words aborted, and answers.
 */
#include <pthread.h>
#include <sched.h>

#include "ring_kit.h"

#define SENDERS 3u   /* processes; the first is never killed */
#define RECEIVERS 2u /* both in this process */
#define CAPACITY 64u
#define KILLS (CHECK_SLOW > 1 ? 12u : 40u)

struct note {
    uint64_t sender, number, both; /* both: a multicast */
};

/* What a forked sender tells: how much of what it sent has returned. */
struct told {
    uint64_t unicasts[RECEIVERS], multicasts, began;
    uint64_t over, doomed; /* set by the test: end; die with the next claim */
};

struct sending {
    pid_t pid;
    struct kit_sender sender;
    uint32_t index; /* in the rings; a new one for each process */
    struct told *told;
};

struct fixture {
    struct shmring_clock clock;
    struct kit_ring rings[RECEIVERS];
    struct kit_inbox receivers[RECEIVERS];
    struct sending senders[SENDERS];
    uint32_t index; /* the latest given */
    uint64_t order[RECEIVERS][64], ordered[RECEIVERS]; /* the latest multicasts told */
    uint64_t unicasts[SENDERS][RECEIVERS], multicasts[SENDERS][RECEIVERS];
    uint32_t watched[SENDERS][RECEIVERS]; /* words; each multicast ends one at the same instant */
    uint64_t released[SENDERS][RECEIVERS];
    uint64_t buried;
    union kit_message message;
};

static struct fixture *fixture;

/* What a dead one had made pending is never told. */
static int collect(struct shmring_inbox *inbox, uint32_t ring, uint64_t flags, void *context)
{
    struct kit_inbox *receiver = context;
    uint32_t r = (uint32_t)(receiver - fixture->receivers);
    (void)flags;
    for (uint32_t s = 0; s < SENDERS && ring == 0; s++) {
        const struct sending *sending = &fixture->senders[s];
        if (sending->sender.outbox.base == NULL)
            continue;
        const uint64_t *words = kit_release_words(&sending->sender);
        uint32_t *next = &fixture->watched[s][r];
        for (; *next < SHMRING_RELEASE_WORDS && shmring_load_acquire(&words[*next]) != 0; ++*next)
            KIT_MUST(shmring_inbox_watch(inbox, SHMRING_WATCH_RELEASE, &words[*next],
                                         kit_commit_words(&sending->sender), SHMRING_COMMIT_WORDS,
                                         100 + sending->index, 0,
                                         (uint64_t)sending->index << 32 | *next));
    }
    return SHMRING_OK;
}

static int flag(void *context)
{
    struct shmring_producer *producers = context;
    for (uint32_t r = 0; r < RECEIVERS; r++)
        shmring_producer_flag(&producers[r], SHMRING_FLAG_RELEASES);
    return SHMRING_OK;
}

/* A body that cannot be read ends its sender after the claim and before the slot is written. */
static void die(int number)
{
    (void)number;
    (void)kill(getpid(), SIGKILL);
}

static void send_until_killed(const struct fixture *f, const struct sending *s)
{
    struct shmring_mapping rings[RECEIVERS];
    struct shmring_mapping claims = kit_map(s->sender.claims_fd, SHMRING_SEGMENT_CLAIMS);
    struct shmring_mapping outbox = kit_map(s->sender.outbox_fd, SHMRING_SEGMENT_OUTBOX);
    struct kit_sender own = {.claims = claims, .outbox = outbox, .lanes = 1};
    struct shmring_producer producers[RECEIVERS];
    struct shmring_lane lane;
    KIT_MUST(shmring_lane_init(&lane, &claims, &outbox, 0));
    for (uint32_t r = 0; r < RECEIVERS; r++) {
        rings[r] = kit_map(f->rings[r].fd, SHMRING_SEGMENT_RING);
        KIT_MUST(shmring_producer_init(&producers[r], &rings[r], lane.claims, s->index));
    }
    uint64_t stamp, number[RECEIVERS] = {0}, multicasts = 0;
    uint32_t failed;
    void *deadly = kit_shared(SHMRING_PAGE_BYTES);
    (void)mprotect(deadly, SHMRING_PAGE_BYTES, PROT_NONE);
    (void)signal(SIGSEGV, die);
    shmring_store_release(&s->told->began, 1);
    for (uint64_t i = 0; shmring_load_acquire(&s->told->over) == 0; i++) {
        uint32_t r = (uint32_t)i % RECEIVERS;
        bool doomed = shmring_load_acquire(&s->told->doomed) != 0;
        int result;
        if (i % 5 == 0) {
            struct note note = {s->index, multicasts, 1};
            struct shmring_leg legs[RECEIVERS];
            for (uint32_t k = 0; k < RECEIVERS; k++)
                legs[k] = (struct shmring_leg){
                    .producer = &producers[(k + i) % RECEIVERS],
                    .body = doomed && k == i / 5 % RECEIVERS ? deadly : &note,
                    .length = sizeof note};
            uint64_t *word = &kit_release_words(&own)[multicasts];
            struct shmring_releases releases = {
                .words = &word, .count = 1, .flag = flag, .context = producers};
            bool any = multicasts < SHMRING_RELEASE_WORDS;
            result = shmring_transaction_commit(&lane, &f->clock, legs, RECEIVERS, i % 3 == 0,
                                                any ? &releases : NULL, &stamp, &failed);
            if (result == SHMRING_OK)
                shmring_store_release(&s->told->multicasts, ++multicasts);
        } else if (i % 11 == 1) {
            struct shmring_batch batch;
            result = shmring_batch_begin(&producers[r], 1 + i % 9, &batch);
            if (result == SHMRING_OK) {
                struct note note = {s->index, number[r], 0};
                for (uint64_t k = 1 + i % 3; k > 0; k--)
                    if (shmring_batch_put(&producers[r], &batch, 1, doomed ? deadly : &note,
                                          sizeof note) == SHMRING_OK)
                        note.number++;
                (void)shmring_batch_commit(&producers[r], &f->clock, &batch);
                number[r] = note.number;
                shmring_store_release(&s->told->unicasts[r], number[r]);
            }
        } else {
            struct note note = {s->index, number[r], 0};
            result = shmring_producer_send(&producers[r], &f->clock, 1, 0,
                                           doomed ? deadly : &note, sizeof note, &stamp);
            if (result == SHMRING_OK)
                shmring_store_release(&s->told->unicasts[r], ++number[r]);
        }
        if (result == SHMRING_E_FULL)
            (void)sched_yield();
        else if (result != SHMRING_OK)
            _exit(1);
    }
    _exit(0);
}

static void start(struct fixture *f, uint32_t which)
{
    struct sending *s = &f->senders[which];
    kit_sender_open(&s->sender, 100 + ++f->index, 1);
    s->index = f->index;
    memset(s->told, 0, sizeof *s->told);
    memset(f->unicasts[which], 0, sizeof f->unicasts[which]);
    memset(f->multicasts[which], 0, sizeof f->multicasts[which]);
    memset(f->released[which], 0, sizeof f->released[which]);
    memset(f->watched[which], 0, sizeof f->watched[which]);
    for (uint32_t r = 0; r < RECEIVERS; r++)
        kit_introduce(&f->rings[r], s->index, &s->sender);
    s->pid = kit_fork();
    if (s->pid == 0)
        send_until_killed(f, s);
}

/* Takes up to `count` messages of each receiver, and checks each sender's order. */
static void take_some(struct fixture *f, uint32_t count)
{
    for (uint32_t i = 0; i < count * RECEIVERS; i++) {
        uint32_t r = i % RECEIVERS;
        int result = kit_take(&f->receivers[r], &f->message);
        if (result == SHMRING_E_EMPTY)
            continue;
        if (result == SHMRING_NOTICE) {
            uint64_t cookie = f->receivers[r].inbox.notice_cookie;
            for (uint32_t s = 0; s < SENDERS; s++) {
                if (f->senders[s].index != cookie >> 32)
                    continue;
                CHECK_EQ((uint32_t)cookie, f->released[s][r]++);
                CHECK_EQ(f->released[s][r], f->multicasts[s][r]); /* right behind its message */
            }
            continue;
        }
        if (!CHECK_EQ(result, SHMRING_OK))
            return;
        struct note note;
        memcpy(&note, f->message.m.body, sizeof note);
        CHECK_EQ(note.sender, f->message.m.sender);
        for (uint32_t s = 0; s < SENDERS; s++) {
            if (f->senders[s].index != note.sender)
                continue;
            if (note.both)
                CHECK_EQ(note.number, f->multicasts[s][r]++);
            else
                CHECK_EQ(note.number, f->unicasts[s][r]++);
        }
        if (note.both)
            f->order[r][f->ordered[r]++ % 64] = note.sender << 40 | note.number;
        /* Both told so many multicasts: the same ones. */
        uint64_t told = f->ordered[0] < f->ordered[1] ? f->ordered[0] : f->ordered[1];
        if (told > 0 && f->ordered[0] - told < 64 && f->ordered[1] - told < 64)
            CHECK_EQ(f->order[0][(told - 1) % 64], f->order[1][(told - 1) % 64]);
    }
}

/* True when a claim word names this position of this ring. */
static bool names(const struct kit_sender *sender, uint32_t ring, uint64_t position)
{
    const uint64_t *words = kit_claim_words(sender, 0);
    for (uint32_t i = 0; i < SHMRING_CLAIM_WORDS; i++) {
        uint64_t word = shmring_load_acquire(&words[i]);
        uint64_t count = word >> 52, first = word & UINT32_MAX;
        if (count != 0 && (word >> 32 & 0xfffff) == ring && (uint32_t)(position - first) < count)
            return true;
    }
    return false;
}

/* Buries what only the dead one claimed. True: a living one names such a position, too, having lost
 * the race for it; it is to be asked again. */
static bool bury_claims(struct fixture *f, uint32_t dead, uint32_t r)
{
    uint64_t positions[CAPACITY];
    uint32_t count = 0;
    bool again = false;
    int result;
    while ((result = shmring_inbox_stuck(&f->receivers[r].inbox, &f->rings[r].consumer, positions,
                                         CAPACITY, &count)) == SHMRING_E_FULL)
        take_some(f, 1);
    CHECK_EQ(result, SHMRING_OK);
    for (uint32_t i = 0; i < count; i++) {
        bool living = false;
        if (!names(&f->senders[dead].sender, 7 + r, positions[i]))
            continue;
        for (uint32_t s = 0; s < SENDERS; s++)
            living |= s != dead && names(&f->senders[s].sender, 7 + r, positions[i]);
        again |= living;
        if (living)
            continue;
        shmring_consumer_bury(&f->rings[r].consumer, positions[i]);
        f->buried++;
    }
    return again;
}

/* What the broker does for one dead process: its commits become final, its claims are buried. */
static void bury(struct fixture *f, uint32_t dead)
{
    (void)shmring_outbox_settle(&f->senders[dead].sender.outbox, 1);
    for (uint32_t r = 0; r < RECEIVERS; r++)
        while (bury_claims(f, dead, r) && check_failures == 0)
            take_some(f, 1);
}

/* Everything that returned before its sender's end was told, and each multicast by both or none. */
static void check_what_was_told(struct fixture *f, uint32_t which)
{
    const struct sending *s = &f->senders[which];
    for (uint32_t r = 0; r < RECEIVERS; r++) {
        CHECK(f->unicasts[which][r] >= s->told->unicasts[r]);
        CHECK(f->multicasts[which][r] >= s->told->multicasts);
        CHECK(f->multicasts[which][r] <= s->told->multicasts + 1);
    }
    CHECK_EQ(f->multicasts[which][0], f->multicasts[which][1]);
    for (uint32_t r = 0; r < RECEIVERS; r++) {
        uint64_t most = SHMRING_RELEASE_WORDS;
        uint64_t due = f->multicasts[which][r] < most ? f->multicasts[which][r] : most;
        CHECK_EQ(f->released[which][r], due);
        /* At most the one that was pending is left; its words are about to go. */
        CHECK(f->watched[which][r] - f->released[which][r] <= 1);
        shmring_inbox_unwatch(&f->receivers[r].inbox, SHMRING_WATCH_RELEASE,
                              (uint64_t)s->index << 32 | f->released[which][r]);
    }
}

static void drain(struct fixture *f)
{
    uint64_t tails[RECEIVERS];
    for (uint32_t r = 0; r < RECEIVERS; r++)
        tails[r] = shmring_load_acquire(&f->rings[r].control->tail);
    for (uint32_t r = 0; r < RECEIVERS; r++)
        while ((int64_t)(tails[r] - f->rings[r].consumer.next) > 0 && check_failures == 0)
            take_some(f, CAPACITY);
    take_some(f, 3 * CAPACITY); /* what a look has in hand, and what it waits for */
}

/* Anywhere, or between a claim and its end. */
static void end(struct fixture *f, uint32_t victim, bool anywhere)
{
    int status;
    if (anywhere)
        (void)kill(f->senders[victim].pid, SIGKILL);
    else
        shmring_store_release(&f->senders[victim].told->doomed, 1);
    while (waitpid(f->senders[victim].pid, &status, WNOHANG) == 0)
        take_some(f, 1);
}

static void senders_killed_at_random_instants_harm_nobody_else(void)
{
    static struct fixture f;
    uint64_t seed = check_seed();
    f.clock = kit_clock(0, 0);
    for (uint32_t r = 0; r < RECEIVERS; r++) {
        kit_ring_open(&f.rings[r], 7 + r, CAPACITY, 64);
        kit_inbox_open(&f.receivers[r], &f.clock, &f.rings[r], 1);
        f.receivers[r].inbox.collect = collect;
        f.receivers[r].inbox.collect_context = &f.receivers[r];
    }
    fixture = &f;
    struct told *told = kit_shared(SENDERS * sizeof *told);
    for (uint32_t s = 0; s < SENDERS; s++) {
        f.senders[s].told = &told[s];
        start(&f, s);
    }
    uint64_t survivor = 0;
    for (uint32_t kill_number = 0; kill_number < KILLS && check_failures == 0; kill_number++) {
        uint32_t victim = 1 + kill_number % (SENDERS - 1);
        while (shmring_load_acquire(&told[victim].began) == 0)
            take_some(&f, 1);
        uint64_t until = check_now_ns() + check_random(&seed) % 3000000;
        while (check_now_ns() < until)
            take_some(&f, (uint32_t)(check_random(&seed) % 8));
        end(&f, victim, kill_number % 2 == 0);
        bury(&f, victim);
        drain(&f);
        check_what_was_told(&f, victim);
        for (uint32_t r = 0; r < RECEIVERS; r++) /* its outbox is about to be unmapped */
            KIT_MUST(shmring_consumer_drop_sender(&f.rings[r].consumer, f.senders[victim].index));
        kit_sender_close(&f.senders[victim].sender);
        start(&f, victim);
        /* The survivor goes on. */
        survivor = shmring_load_acquire(&told[0].multicasts);
        while (shmring_load_acquire(&told[0].multicasts) == survivor && check_failures == 0)
            take_some(&f, 1);
    }
    for (uint32_t s = 0; s < SENDERS; s++)
        shmring_store_release(&told[s].over, 1);
    for (uint32_t s = 0; s < SENDERS; s++) {
        int status = 0;
        while (waitpid(f.senders[s].pid, &status, WNOHANG) == 0)
            take_some(&f, 1);
        CHECK_EQ(status, 0);
    }
    drain(&f);
    for (uint32_t s = 0; s < SENDERS; s++) {
        check_what_was_told(&f, s);
        kit_sender_close(&f.senders[s].sender);
    }
    for (uint32_t r = 0; r < RECEIVERS; r++) {
        CHECK_EQ(kit_take(&f.receivers[r], &f.message), SHMRING_E_EMPTY);
        CHECK_EQ(f.rings[r].consumer.retired_count, 0);
        CHECK_EQ(f.rings[r].control->head, f.rings[r].control->tail);
        shmring_inbox_deinit(&f.receivers[r].inbox);
        kit_ring_close(&f.rings[r]);
    }
    CHECK(f.buried > 0);
    (void)printf("  %u killed, %" PRIu64 " claims buried, %" PRIu64 " multicasts told\n", KILLS,
                 f.buried, f.ordered[0]);
}

CHECK_MAIN(RUN(senders_killed_at_random_instants_harm_nobody_else))
