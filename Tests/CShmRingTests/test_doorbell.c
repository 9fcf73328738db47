/* test_doorbell.c - sleep and wake: futex, event descriptor, no lost wake, a killed sender. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "ring_kit.h"

#define CAPACITY 64u
/* Far beyond any wake: who waits so long was not woken. A sleep is cut after 250 ms, so a lost wake
 * shows as a count of parkings, not as a hang. */
#define LONG_NS UINT64_C(20000000000)

struct fixture {
    struct shmring_clock clock;
    struct kit_ring *rings;
    struct shmring_producer *producers;
    uint32_t count;
    struct kit_sender sender;
    struct kit_inbox receiver;
    union kit_message message;
};

static void set_up(struct fixture *f, uint32_t count)
{
    f->clock = kit_clock(0, 0);
    f->count = count;
    f->rings = calloc(count, sizeof *f->rings);
    f->producers = calloc(count, sizeof *f->producers);
    kit_sender_open(&f->sender, 3, 1);
    for (uint32_t r = 0; r < count; r++) {
        kit_ring_open(&f->rings[r], r, CAPACITY, 64);
        KIT_MUST(shmring_producer_init(&f->producers[r], &f->rings[r].mapping,
                                       kit_claim_words(&f->sender, 0), 5));
    }
    kit_inbox_open(&f->receiver, &f->clock, f->rings, count);
}

static void tear_down(struct fixture *f)
{
    shmring_inbox_deinit(&f->receiver.inbox);
    for (uint32_t r = 0; r < f->count; r++)
        kit_ring_close(&f->rings[r]);
    free(f->rings);
    free(f->producers);
    kit_sender_close(&f->sender);
}

static int wait_for(struct fixture *f, uint64_t ns)
{
    return shmring_inbox_wait(&f->receiver.inbox, &f->message.m, 0, check_now_ns() + ns);
}

static uint64_t wait_until_parked(struct shmring_ring_control *control)
{
    uint64_t parked;
    while ((parked = shmring_load_acquire(&control->parked)) == 0)
        (void)sched_yield();
    return parked;
}

/* ---- parking -------------------------------------------------------------------------------- */

static void a_wait_ends_at_its_deadline(void)
{
    struct fixture f;
    set_up(&f, 2);
    uint64_t begin = check_now_ns();
    CHECK_EQ(wait_for(&f, 20000000), SHMRING_E_EMPTY);
    CHECK(check_now_ns() >= begin + 20000000);
    CHECK_EQ(shmring_inbox_wait(&f.receiver.inbox, &f.message.m, UINT64_MAX, begin),
             SHMRING_E_EMPTY);
    CHECK_EQ(shmring_inbox_wait(&f.receiver.inbox, &f.message.m, 1000000, begin), SHMRING_E_EMPTY);
    CHECK_EQ(f.rings[0].control->parked, 0);
    tear_down(&f);
}

static void a_deadline_that_has_passed_still_finds_what_is_there(void)
{
    struct fixture f;
    uint64_t words[3] = {0};
    set_up(&f, 1);
    for (uint32_t i = 0; i < 3; i++)
        (void)kit_claim(&f.producers[0], &words[i]);
    CHECK_EQ(kit_send(&f.producers[0], &f.clock, 1), SHMRING_OK);
    CHECK_EQ(shmring_inbox_wait(&f.receiver.inbox, &f.message.m, 0, 0), SHMRING_OK);
    CHECK_EQ(f.message.m.body[0], 1);
    tear_down(&f);
}

struct waking {
    struct fixture *f;
    uint32_t rounds;
};

/* Sends into another ring each time, and only when the receiver has announced its sleep. */
static void *wake_by_each_ring(void *context)
{
    struct waking *w = context;
    for (uint64_t i = 0; i < w->rounds; i++) {
        struct shmring_producer *producer = &w->f->producers[i % w->f->count];
        uint64_t parked = wait_until_parked(producer->control);
        CHECK_EQ((parked & SHMRING_PARKED_ON_EVENT) != 0,
                 w->f->count > SHMRING_FUTEX_RINGS_MAX);
        CHECK_EQ(kit_send(producer, &w->f->clock, i), SHMRING_OK);
        while (shmring_load_acquire(&producer->control->parked) == parked)
            (void)sched_yield();
    }
    return NULL;
}

/* fds[0] listens, fds[1] rings. */
static void doorbell_open(int fds[2])
{
    KIT_MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds));
}

/* How often it was rung. */
static int doorbell_drain(const int fds[2])
{
    char byte;
    int count = 0;
    while (recv(fds[0], &byte, 1, MSG_DONTWAIT) == 1)
        count++;
    return count;
}

static void doorbell_close(const int fds[2])
{
    (void)close(fds[0]);
    (void)close(fds[1]);
}

/* As a peer sleeps above SHMRING_FUTEX_RINGS_MAX rings: an epoll descriptor over one doorbell for
 * each. */
static void sleep_on_events(void *context, uint64_t until_ns)
{
    struct epoll_event events[16];
    uint64_t now = check_now_ns();
    int epoll = *(int *)context;
    (void)epoll_wait(epoll, events, 16, until_ns > now ? (int)((until_ns - now) / 1000000) : 0);
}

static int give_events(struct fixture *f, int (*fds)[2])
{
    int epoll = epoll_create1(0);
    for (uint32_t r = 0; r < f->count; r++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET};
        doorbell_open(fds[r]);
        KIT_MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[r][0], &event));
        shmring_producer_set_event(&f->producers[r], fds[r][1]);
    }
    return epoll;
}

static void a_message_in_any_of_many_rings_wakes_the_receiver(void)
{
    const uint32_t counts[] = {1, 2, SHMRING_FUTEX_RINGS_MAX, SHMRING_FUTEX_RINGS_MAX + 1, 200};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        struct fixture f;
        pthread_t thread;
        set_up(&f, counts[c]);
        int epoll = -1, fds[200][2];
        if (counts[c] > SHMRING_FUTEX_RINGS_MAX) {
            epoll = give_events(&f, fds);
            f.receiver.inbox.sleep = sleep_on_events;
            f.receiver.inbox.sleep_context = &epoll;
        }
        struct waking waking = {&f, counts[c] + 100};
        REQUIRE(pthread_create(&thread, NULL, wake_by_each_ring, &waking) == 0);
        uint64_t begin = check_now_ns();
        for (uint64_t i = 0; i < waking.rounds; i++) {
            CHECK_EQ(wait_for(&f, LONG_NS), SHMRING_OK);
            CHECK_EQ(f.message.m.body[0], i);
            CHECK_EQ(f.message.m.ring, i % counts[c]);
        }
        /* Every wake lost would have cost 250 ms. */
        CHECK(check_now_ns() - begin < waking.rounds * UINT64_C(250000000) / 2);
        (void)pthread_join(thread, NULL);
        for (uint32_t r = 0; r < f.count && epoll >= 0; r++)
            doorbell_close(fds[r]);
        (void)close(epoll);
        tear_down(&f);
    }
}

static void *send_without_ringing(void *context)
{
    struct waking *w = context;
    for (uint64_t i = 0; i < w->rounds; i++) {
        struct shmring_producer *producer = &w->f->producers[w->f->count - 1 - i];
        (void)wait_until_parked(producer->control);
        CHECK_EQ(kit_send(producer, &w->f->clock, i), SHMRING_OK);
    }
    return NULL;
}

static void without_a_way_to_sleep_many_rings_are_looked_at_every_millisecond(void)
{
    struct fixture f;
    pthread_t thread;
    set_up(&f, SHMRING_FUTEX_RINGS_MAX + 1);
    /* No event descriptors either, so that nobody can ring. */
    struct waking waking = {&f, 3};
    REQUIRE(pthread_create(&thread, NULL, send_without_ringing, &waking) == 0);
    for (uint64_t i = 0; i < waking.rounds; i++)
        CHECK_EQ(wait_for(&f, LONG_NS), SHMRING_OK);
    (void)pthread_join(thread, NULL);
    uint64_t begin = check_now_ns();
    CHECK_EQ(wait_for(&f, 5000000), SHMRING_E_EMPTY);
    CHECK(check_now_ns() >= begin + 5000000);
    tear_down(&f);
}

static void *change_attention(void *context)
{
    struct fixture *f = context;
    (void)wait_until_parked(f->rings[0].control);
    struct shmring_mapping outbox = f->sender.outbox;
    shmring_outbox_attend(&outbox);
    return NULL;
}

static void the_attention_word_wakes_and_is_told(void)
{
    for (uint32_t rings = 1; rings <= 2; rings++) {
        struct fixture f;
        pthread_t thread;
        set_up(&f, rings);
        const struct shmring_outbox *outbox = f.sender.outbox.base;
        shmring_inbox_deinit(&f.receiver.inbox);
        shmring_inbox_init(&f.receiver.inbox, &f.clock, &f.receiver.death, &outbox->attention);
        for (uint32_t r = 0; r < rings; r++)
            KIT_MUST(shmring_inbox_add(&f.receiver.inbox, &f.rings[r].consumer));
        REQUIRE(pthread_create(&thread, NULL, change_attention, &f) == 0);
        CHECK_EQ(wait_for(&f, LONG_NS), SHMRING_E_ATTENTION);
        (void)pthread_join(thread, NULL);
        CHECK_EQ(wait_for(&f, LONG_NS), SHMRING_E_ATTENTION); /* until the caller has read it */
        f.receiver.inbox.attention_seen = outbox->attention;
        CHECK_EQ(wait_for(&f, 1000000), SHMRING_E_EMPTY);
        tear_down(&f);
    }
}

/* ---- event descriptors ---------------------------------------------------------------------- */

static void an_armed_receiver_is_woken_through_its_event_descriptor(void)
{
    struct fixture f;
    set_up(&f, 2);
    int fds[2][2];
    for (uint32_t r = 0; r < 2; r++) {
        doorbell_open(fds[r]);
        shmring_producer_set_event(&f.producers[r], fds[r][1]);
    }
    for (uint64_t i = 0; i < 20; i++) {
        struct pollfd poll_fd = {.fd = fds[i % 2][0], .events = POLLIN};
        uint64_t parked;
        REQUIRE(shmring_inbox_arm(&f.receiver.inbox, &f.message.m) == SHMRING_E_EMPTY);
        parked = f.rings[i % 2].control->parked;
        CHECK(parked & SHMRING_PARKED_ON_EVENT);
        CHECK_EQ(poll(&poll_fd, 1, 0), 0);
        CHECK_EQ(kit_send(&f.producers[i % 2], &f.clock, i), SHMRING_OK);
        CHECK_EQ(poll(&poll_fd, 1, 0), 1);
        CHECK_EQ(f.rings[i % 2].control->parked, 0);
        /* The next one rings no more. */
        CHECK_EQ(kit_send(&f.producers[i % 2], &f.clock, i), SHMRING_OK);
        CHECK_EQ(doorbell_drain(fds[i % 2]), 1);
        CHECK_EQ(shmring_inbox_arm(&f.receiver.inbox, &f.message.m), SHMRING_OK);
        CHECK_EQ(shmring_inbox_arm(&f.receiver.inbox, &f.message.m), SHMRING_OK);
        CHECK_EQ(f.message.m.body[0], i);
    }
    for (uint32_t r = 0; r < 2; r++)
        doorbell_close(fds[r]);
    tear_down(&f);
}

static void fetch(struct shmring_producer *producer, void *context)
{
    int *fds = context;
    if (fds[0] >= 0)
        shmring_producer_set_event(producer, fds[1]);
    else
        doorbell_open(fds);
}

static void a_sender_without_the_descriptor_asks_for_it_at_every_send_until_it_is_there(void)
{
    struct fixture f;
    int fds[2] = {-1, -1};
    set_up(&f, 1);
    f.producers[0].fetch_event = fetch;
    f.producers[0].fetch_context = fds;
    REQUIRE(shmring_inbox_arm(&f.receiver.inbox, &f.message.m) == SHMRING_E_EMPTY);
    uint64_t parked = f.rings[0].control->parked;
    CHECK_EQ(kit_send(&f.producers[0], &f.clock, 1), SHMRING_OK);
    CHECK_EQ(f.rings[0].control->parked, parked); /* still to be rung for */
    CHECK(fds[0] >= 0);
    CHECK_EQ(kit_send(&f.producers[0], &f.clock, 2), SHMRING_OK);
    CHECK_EQ(f.rings[0].control->parked, 0);
    CHECK_EQ(doorbell_drain(fds), 1);
    doorbell_close(fds);
    tear_down(&f);
}

/* Everybody who shares the ringing end shares its flags, too: a hostile one fills it and makes it
 * blocking, shuts it down, connects it elsewhere, or hands out something else in its place. */
static void no_holder_of_the_ringing_end_makes_a_sender_wait(void)
{
    struct fixture f;
    int fds[2], other[2], pipes[2];
    set_up(&f, 1);
    doorbell_open(fds);
    doorbell_open(other);
    REQUIRE(pipe(pipes) == 0);
    for (int attack = 0; attack < 4; attack++) {
        shmring_producer_set_event(&f.producers[0], attack == 3 ? pipes[1] : fds[1]);
        switch (attack) {
        case 0:
            while (send(fds[1], "x", 1, MSG_DONTWAIT) == 1)
                ;
            CHECK_EQ(fcntl(fds[1], F_SETFL, 0), 0);
            break;
        case 1: CHECK_EQ(shutdown(fds[1], SHUT_RDWR), 0); break;
        case 2:
            CHECK_EQ(connect(fds[1], &(struct sockaddr){.sa_family = AF_UNSPEC},
                             sizeof(sa_family_t)),
                     0);
            break;
        default:
            CHECK_EQ(fcntl(pipes[1], F_SETFL, O_NONBLOCK), 0);
            while (write(pipes[1], "x", 1) == 1)
                ;
            CHECK_EQ(fcntl(pipes[1], F_SETFL, 0), 0);
            break;
        }
        REQUIRE(shmring_inbox_arm(&f.receiver.inbox, &f.message.m) == SHMRING_E_EMPTY);
        alarm(CHECK_SECONDS / 3); /* a sender that waits ends the test */
        CHECK_EQ(kit_send(&f.producers[0], &f.clock, 1), SHMRING_OK);
        alarm(0);
        CHECK_EQ(f.rings[0].control->parked, 0);
        CHECK_EQ(shmring_inbox_arm(&f.receiver.inbox, &f.message.m), SHMRING_OK);
        CHECK_EQ(doorbell_drain(fds) > 0, attack == 0);
    }
    doorbell_close(fds);
    doorbell_close(other);
    doorbell_close(pipes);
    tear_down(&f);
}

/* ---- no lost wake --------------------------------------------------------------------------- */

/* Two processes play one message to and fro, both parking at once: a lost wake costs 250 ms. */
static void ping_pong(struct kit_ring *in, struct kit_ring *out, struct kit_sender *sender,
                      bool first, uint32_t rounds)
{
    struct shmring_clock clock = kit_clock(0, 0);
    struct kit_inbox receiver;
    struct shmring_producer producer;
    union kit_message message;
    kit_inbox_open(&receiver, &clock, in, 1);
    KIT_MUST(shmring_producer_init(&producer, &out->mapping, kit_claim_words(sender, !first), 5));
    for (uint64_t i = 0; i < rounds; i++) {
        if (first)
            CHECK_EQ(kit_send(&producer, &clock, i), SHMRING_OK);
        CHECK_EQ(shmring_inbox_wait(&receiver.inbox, &message.m, i % 3 * 2000, UINT64_MAX),
                 SHMRING_OK);
        CHECK_EQ(message.m.body[0], i);
        if (!first)
            CHECK_EQ(kit_send(&producer, &clock, i), SHMRING_OK);
    }
    shmring_inbox_deinit(&receiver.inbox);
}

static void remap(struct kit_ring *ring)
{
    ring->mapping = kit_map(ring->fd, SHMRING_SEGMENT_RING);
    ring->control = ring->mapping.base;
    KIT_MUST(shmring_consumer_init(&ring->consumer, &ring->mapping, false));
}

static void no_wake_is_lost_between_two_processes(void)
{
    const uint32_t rounds = CHECK_SLOW > 1 ? 2000 : 10000;
    struct kit_ring there, back;
    struct kit_sender sender;
    kit_ring_open(&there, 1, CAPACITY, 64);
    kit_ring_open(&back, 2, CAPACITY, 64);
    kit_sender_open(&sender, 3, 2);
    uint64_t begin = check_now_ns();
    pid_t child = kit_fork();
    if (child == 0) {
        remap(&there);
        remap(&back);
        sender.claims = kit_map(sender.claims_fd, SHMRING_SEGMENT_CLAIMS);
        ping_pong(&there, &back, &sender, false, rounds);
        _exit(check_failures != 0);
    }
    ping_pong(&back, &there, &sender, true, rounds);
    CHECK_EQ(kit_join(child), 0);
    /* One in a hundred lost would take longer than this. */
    CHECK(check_now_ns() - begin < rounds / 100 * UINT64_C(250000000));
    kit_ring_close(&there);
    kit_ring_close(&back);
    kit_sender_close(&sender);
}

/* ---- a sender killed halfway ---------------------------------------------------------------- */

/* A forked sender performs a send by hand up to a step, says so, and is killed there. */
enum step { CLAIMED, WRITTEN, FINISHED, RANG };

static void send_until(struct shmring_producer *producer, uint64_t *word, enum step step)
{
    struct shmring_ring_control *control = producer->control;
    uint64_t position = kit_claim(producer, word);
    if (step == CLAIMED)
        return;
    struct shmring_clock clock = kit_clock(0, 0);
    kit_write(producer, position, SHMRING_CLASS_UNICAST, shmring_clock_now(&clock), 77);
    if (step == WRITTEN)
        return;
    (void)shmring_exchange_full(word, 0);
    if (step == FINISHED)
        return;
    (void)shmring_fetch_add_acq_rel_u32(&control->doorbell, 1);
    (void)shmring_load_acquire(&control->parked); /* and the swap to 0 is never reached */
}

static void *park_and_take(void *context)
{
    struct fixture *f = context;
    for (uint32_t i = 0; i < 2; i++)
        CHECK_EQ(wait_for(f, LONG_NS), SHMRING_OK);
    return NULL;
}

static void a_sender_killed_at_any_step_leaves_nobody_asleep(void)
{
    for (enum step step = CLAIMED; step <= RANG; step++) {
        struct fixture f;
        pthread_t thread;
        set_up(&f, 1);
        uint32_t *said = kit_shared(SHMRING_PAGE_BYTES);
        pid_t child = kit_fork(); /* before the thread: a fork among threads may only exec */
        if (child == 0) {
            struct kit_ring ring = f.rings[0];
            struct shmring_producer producer;
            remap(&ring);
            f.sender.claims = kit_map(f.sender.claims_fd, SHMRING_SEGMENT_CLAIMS);
            uint64_t *word = kit_claim_words(&f.sender, 0);
            KIT_MUST(shmring_producer_init(&producer, &ring.mapping, word, 5));
            (void)wait_until_parked(ring.control);
            send_until(&producer, word, step);
            shmring_store_release_u32(said, 1);
            for (;;)
                (void)pause();
        }
        REQUIRE(pthread_create(&thread, NULL, park_and_take, &f) == 0);
        while (shmring_load_acquire_u32(said) == 0)
            (void)sched_yield();
        (void)kill(child, SIGKILL);
        (void)kit_join(child);
        uint64_t word = *kit_claim_words(&f.sender, 0);
        CHECK_EQ(word, step < FINISHED ? SHMRING_CLAIM(1, 0, CAPACITY) : 0);
        /* The next one finds the receiver parked, whatever the dead one did, and wakes it. */
        struct shmring_producer other;
        uint64_t other_word = 0;
        KIT_MUST(shmring_producer_init(&other, &f.rings[0].mapping, &other_word, 6));
        for (uint64_t i = 0; i < (step == CLAIMED ? 2 : 1); i++)
            CHECK_EQ(kit_send(&other, &f.clock, i), SHMRING_OK);
        (void)pthread_join(thread, NULL);
        (void)munmap(said, SHMRING_PAGE_BYTES);
        tear_down(&f);
    }
}

CHECK_MAIN(RUN(a_wait_ends_at_its_deadline),
           RUN(a_deadline_that_has_passed_still_finds_what_is_there),
           RUN(a_message_in_any_of_many_rings_wakes_the_receiver),
           RUN(without_a_way_to_sleep_many_rings_are_looked_at_every_millisecond),
           RUN(the_attention_word_wakes_and_is_told),
           RUN(an_armed_receiver_is_woken_through_its_event_descriptor),
           RUN(a_sender_without_the_descriptor_asks_for_it_at_every_send_until_it_is_there),
           RUN(no_holder_of_the_ringing_end_makes_a_sender_wait),
           RUN(no_wake_is_lost_between_two_processes),
           RUN(a_sender_killed_at_any_step_leaves_nobody_asleep))
