/*
 * test_pool_process.c - slices between real processes, and between threads of one.
 *
 * The child is this program once more (no fork: its child could use nothing of the library). A
 * socket carries what a ring would carry, and descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "CShmRing.h"
#include "check.h"

#define MIB (UINT64_C(1) << 20)
#define CHILD_FD 100

extern char **environ;

enum note_kind { NOTE_BOARD = 1, NOTE_SEGMENT, NOTE_RETIRED, NOTE_SLICE, NOTE_END, NOTE_SUM };

struct note {
    uint32_t kind;
    uint32_t number;
    uint64_t byte_count;
    struct shmring_slice_ref ref;
};

static bool send_note(int socket, const struct note *note, int fd)
{
    struct iovec part = {(void *)(uintptr_t)note, sizeof *note};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    ssize_t sent;
    do {
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)sizeof *note;
}

static bool receive_note(int socket, struct note *note, int *fd_out)
{
    struct iovec part = {note, sizeof *note};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t received;
    *fd_out = -1;
    do {
        received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (received < 0 && errno == EINTR);
    if (received != (ssize_t)sizeof *note)
        return false;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS)
        memcpy(fd_out, CMSG_DATA(header), sizeof *fd_out);
    return true;
}

/* ---- the receiving process ------------------------------------------------------------------ */

/* Exit status: 0, or the line that failed, modulo 256. */
#define CHILD_REQUIRE(condition)             \
    do {                                     \
        if (!(condition)) {                  \
            (void)fprintf(stderr, "child: line %d: %s\n", __LINE__, #condition); \
            _exit(__LINE__ % 255 + 1);       \
        }                                    \
    } while (0)

static uint64_t sum_words(const void *base, uint64_t byte_count)
{
    const uint64_t *words = base;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < byte_count / 8; i++)
        sum = sum * 31 + words[i];
    return sum;
}

/* mode "all": gives everything back and answers with the sum. "keep": gives back every third, says
 * so by a note for each slice, and holds the rest until it is killed. */
static int child_main(const char *mode)
{
    const bool keep = strcmp(mode, "keep") == 0;
    struct shmring_view *view;
    struct shmring_mapping board = {NULL, 0};
    struct note note;
    uint64_t sum = 0, slices = 0;
    int fd;
    (void)alarm(CHECK_SECONDS * CHECK_SLOW);
    CHILD_REQUIRE(shmring_view_init(UINT64_C(1) << 30, &view) == 0);
    while (receive_note(CHILD_FD, &note, &fd)) {
        struct shmring_held held;
        switch (note.kind) {
        case NOTE_BOARD:
            CHILD_REQUIRE(shmring_segment_map(fd, SHMRING_SEGMENT_BOARD, SHMRING_READ_WRITE, 0,
                                              false, false, NULL, NULL, &board) == 0);
            break;
        case NOTE_SEGMENT:
            CHILD_REQUIRE(shmring_view_attach(view, note.number, fd, note.byte_count, false) == 0);
            break;
        case NOTE_RETIRED:
            CHILD_REQUIRE(shmring_view_detach(view, note.number) == 0);
            break;
        case NOTE_SLICE:
            CHILD_REQUIRE(shmring_view_hold(view, board.base, &note.ref, &held) == 0);
            sum += sum_words(held.base, held.byte_count);
            if (!keep || slices % 3 == 0)
                shmring_held_give_back(&held);
            slices++;
            if (keep)
                CHILD_REQUIRE(send_note(CHILD_FD, &(struct note){.kind = NOTE_SUM}, -1));
            break;
        case NOTE_END:
            note = (struct note){.kind = NOTE_SUM, .number = (uint32_t)slices, .byte_count = sum};
            CHILD_REQUIRE(send_note(CHILD_FD, &note, -1));
            break;
        default:
            CHILD_REQUIRE(note.kind == NOTE_END);
        }
        if (fd >= 0)
            (void)close(fd);
    }
    shmring_view_deinit(view);
    shmring_segment_unmap(&board);
    return 0;
}

/* ---- the sending process -------------------------------------------------------------------- */

struct sender {
    pid_t child;
    int socket;
    struct shmring_pool *pool;
    struct shmring_mapping board;
    uint32_t link;
};

static const char *own_path;

static bool spawn_child(struct sender *sender, const char *mode)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    char child_word[] = "--child", mode_word[16], path[4096], runner_path[4096];
    (void)snprintf(mode_word, sizeof mode_word, "%s", mode);
    (void)snprintf(path, sizeof path, "%s", own_path);
    const char *runner = getenv("CHECK_RUNNER"); /* qemu, for another architecture */
    (void)snprintf(runner_path, sizeof runner_path, "%s", runner == NULL ? "" : runner);
    char *with[] = {runner_path, path, child_word, mode_word, NULL};
    char **arguments = runner == NULL ? with + 1 : with;
    posix_spawn_file_actions_t actions;
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_adddup2(&actions, pair[1], CHILD_FD);
    const int result =
        posix_spawnp(&sender->child, arguments[0], &actions, NULL, arguments, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)close(pair[1]);
    sender->socket = pair[0];
    return CHECK_EQ(result, 0);
}

static bool start(struct sender *sender, const char *mode, uint64_t quota_bytes)
{
    const struct shmring_pool_options options = {
        .quota_bytes = quota_bytes, .placement = {.numa_node = -1}};
    int fd = -1;
    const struct note note = {.kind = NOTE_BOARD};
    if (!spawn_child(sender, mode))
        return false;
    CHECK_EQ(shmring_pool_init(&options, &sender->pool), 0);
    CHECK_EQ(shmring_board_create(1, &fd), 0);
    CHECK_EQ(shmring_segment_map(fd, SHMRING_SEGMENT_BOARD, SHMRING_READ_WRITE, 0, false, true,
                                 NULL, NULL, &sender->board), 0);
    CHECK_EQ(shmring_pool_link_add(sender->pool, sender->board.base, 0, SHMRING_LENDS,
                                   &sender->link), 0);
    CHECK(send_note(sender->socket, &note, fd));
    (void)close(fd);
    return true;
}

static int finish(struct sender *sender)
{
    int status = -1;
    (void)close(sender->socket);
    CHECK_EQ(waitpid(sender->child, &status, 0), sender->child);
    shmring_pool_deinit(sender->pool);
    shmring_segment_unmap(&sender->board);
    return status;
}

static void tell_retired(struct sender *sender)
{
    struct note note = {.kind = NOTE_RETIRED};
    while (shmring_pool_take_retired(sender->pool, &note.number, 1) == 1) {
        if (shmring_pool_withdraw(sender->pool, sender->link, note.number))
            CHECK(send_note(sender->socket, &note, -1));
    }
}

static bool child_is_alive(const struct sender *sender)
{
    siginfo_t info = {.si_pid = 0};
    (void)waitid(P_PID, (id_t)sender->child, &info, WEXITED | WNOHANG | WNOWAIT);
    return info.si_pid == 0;
}

/* Loans, waiting until something has come back. */
static int loan_waiting(struct sender *sender, uint64_t byte_count, struct shmring_slice *slice)
{
    int result;
    while ((result = shmring_pool_loan(sender->pool, byte_count, slice)) == SHMRING_E_FULL &&
           child_is_alive(sender))
        (void)shmring_pool_wait(sender->pool, check_now_ns() + 1000000000u);
    return result;
}

static bool send_slice(struct sender *sender, const struct shmring_slice *slice,
                       uint64_t byte_count)
{
    struct note note = {.kind = NOTE_SEGMENT, .number = slice->segment};
    tell_retired(sender);
    if (!shmring_pool_is_announced(sender->pool, sender->link, slice->segment)) {
        int fd;
        if (!CHECK_EQ(shmring_pool_segment(sender->pool, slice->segment, &fd, &note.byte_count), 0))
            return false;
        CHECK(send_note(sender->socket, &note, fd));
        CHECK_EQ(shmring_pool_announced(sender->pool, sender->link, slice->segment), 0);
    }
    note = (struct note){.kind = NOTE_SLICE};
    int result;
    while ((result = shmring_pool_lend(sender->pool, sender->link, slice, byte_count, &note.ref)) ==
               SHMRING_E_FULL &&
           child_is_alive(sender))
        (void)shmring_pool_wait(sender->pool, check_now_ns() + 1000000000u);
    CHECK_EQ(result, 0);
    shmring_pool_end(sender->pool, slice);
    return CHECK(send_note(sender->socket, &note, -1));
}

static void a_child_process_reads_every_slice_and_gives_it_back(void)
{
    struct sender sender;
    uint64_t random = check_seed();
    uint64_t sum = 0;
    const uint32_t count = 5000;
    REQUIRE(start(&sender, "all", 4 * MIB)); /* small: it has to wait for slices */
    for (uint32_t i = 0; i < count && check_failures == 0; i++) {
        const uint64_t byte_count = 8 + (check_random(&random) % MIB >> check_random(&random) % 16);
        struct shmring_slice slice;
        REQUIRE(loan_waiting(&sender, byte_count, &slice) == 0);
        uint64_t *words = slice.base;
        for (uint64_t j = 0; j < byte_count / 8; j++)
            words[j] = i * 2654435761u + j;
        sum += sum_words(words, byte_count);
        if (!send_slice(&sender, &slice, byte_count))
            break;
    }
    struct note note = {.kind = NOTE_END};
    int fd;
    CHECK(send_note(sender.socket, &note, -1));
    CHECK(receive_note(sender.socket, &note, &fd));
    CHECK_EQ(note.number, count);
    CHECK(note.byte_count == sum);
    CHECK(shmring_pool_collect(sender.pool, true) <= SHMRING_LENDS);
    struct shmring_pool_usage usage;
    shmring_pool_usage(sender.pool, &usage);
    CHECK_EQ(usage.used_bytes, 0);
    CHECK_EQ(usage.lends, 0);
    CHECK_EQ(finish(&sender), 0);
}

static void what_a_killed_receiver_held_is_taken_back(void)
{
    struct sender sender;
    struct shmring_pool_usage usage;
    REQUIRE(start(&sender, "keep", 64 * MIB));
    for (uint32_t i = 0; i < 90; i++) {
        struct shmring_slice slice;
        struct note note;
        int fd;
        REQUIRE(shmring_pool_loan(sender.pool, 100000, &slice) == 0);
        memset(slice.base, (int)i, 100000);
        REQUIRE(send_slice(&sender, &slice, 100000));
        REQUIRE(receive_note(sender.socket, &note, &fd)); /* it has read this one */
    }
    (void)shmring_pool_collect(sender.pool, true);
    shmring_pool_usage(sender.pool, &usage);
    CHECK_EQ(usage.lends, 60);
    CHECK_EQ(kill(sender.child, SIGKILL), 0);
    int status = -1;
    CHECK_EQ(waitpid(sender.child, &status, 0), sender.child);
    CHECK(WIFSIGNALED(status));
    CHECK_EQ(shmring_pool_link_remove(sender.pool, sender.link), 60);
    shmring_pool_usage(sender.pool, &usage);
    CHECK_EQ(usage.lends, 0);
    CHECK_EQ(usage.used_bytes, 0);
    CHECK(shmring_pool_trim(sender.pool, 1, 0) != 0);
    shmring_pool_usage(sender.pool, &usage);
    CHECK_EQ(usage.charged_bytes, 0);
    (void)close(sender.socket);
    shmring_pool_deinit(sender.pool);
    shmring_segment_unmap(&sender.board);
}

static void a_stopped_receiver_does_not_hold_a_waiting_sender_for_ever(void)
{
    struct sender sender;
    struct shmring_slice slice;
    struct note note = {.kind = NOTE_END};
    int fd;
    REQUIRE(start(&sender, "all", 4 * MIB));
    CHECK(send_note(sender.socket, &note, -1)); /* it runs */
    CHECK(receive_note(sender.socket, &note, &fd));
    CHECK_EQ(kill(sender.child, SIGSTOP), 0);
    int status = -1;
    CHECK_EQ(waitpid(sender.child, &status, WUNTRACED), sender.child);
    REQUIRE(shmring_pool_loan(sender.pool, MIB, &slice) == 0);
    REQUIRE(send_slice(&sender, &slice, MIB));
    CHECK_EQ(shmring_pool_wait(sender.pool, check_now_ns() + 1000000), SHMRING_E_EMPTY);
    CHECK_EQ(shmring_pool_wait(sender.pool, UINT64_MAX), SHMRING_E_EMPTY); /* bounded anyway */
    CHECK_EQ(kill(sender.child, SIGCONT), 0);
    while (shmring_pool_wait(sender.pool, UINT64_MAX) != SHMRING_OK)
        continue;
    CHECK_EQ(finish(&sender), 0);
}

/* ---- threads: one mapping only, or the thread sanitizer would see two memories --------------- */

#define THREADS 4u
#define ROUNDS 20000u

struct box {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct shmring_board *board;
    struct {
        struct shmring_slice_ref ref;
        const uint64_t *base;
    } items[64];
    uint32_t count;
    bool end;
};

static void *give_back_thread(void *argument)
{
    struct box *box = argument;
    uint64_t sum = 0;
    for (;;) {
        (void)pthread_mutex_lock(&box->lock);
        while (box->count == 0 && !box->end)
            (void)pthread_cond_wait(&box->changed, &box->lock);
        if (box->count == 0) {
            (void)pthread_mutex_unlock(&box->lock);
            return (void *)(uintptr_t)sum;
        }
        /* From the middle, so that they come back out of order. */
        const uint32_t i = box->count / 2;
        const struct shmring_slice_ref ref = box->items[i].ref;
        const uint64_t *base = box->items[i].base;
        box->items[i] = box->items[--box->count];
        (void)pthread_cond_broadcast(&box->changed);
        (void)pthread_mutex_unlock(&box->lock);
        for (uint64_t j = 0; j < ref.byte_count / 8; j++)
            sum += base[j];
        shmring_board_give_back(box->board, ref.lend_index, ref.lend);
    }
}

static void many_threads_give_back_and_the_sender_misses_none(void)
{
    struct shmring_mapping mapping;
    struct box box = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct shmring_pool *pool;
    const struct shmring_pool_options options = {
        .quota_bytes = 65536, .warm_small_bytes = 4096, .placement = {.numa_node = -1}};
    pthread_t threads[THREADS];
    uint32_t link;
    int fd;
    REQUIRE(shmring_board_create(1, &fd) == 0);
    REQUIRE(shmring_segment_map(fd, SHMRING_SEGMENT_BOARD, SHMRING_READ_WRITE, 0, false, true, NULL,
                                NULL, &mapping) == 0);
    (void)close(fd);
    REQUIRE(shmring_pool_init(&options, &pool) == 0);
    REQUIRE(shmring_pool_link_add(pool, mapping.base, 0, 16, &link) == 0);
    box.board = mapping.base;
    for (uint32_t i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, give_back_thread, &box) == 0);
    uint64_t written = 0, waits = 0;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        struct shmring_slice slice;
        struct shmring_slice_ref ref;
        while (shmring_pool_loan(pool, 2048, &slice) == SHMRING_E_FULL) {
            (void)shmring_pool_wait(pool, check_now_ns() + 1000000000u);
            waits++;
        }
        uint64_t *words = slice.base;
        for (uint64_t j = 0; j < 2048 / 8; j++)
            written += words[j] = i ^ j;
        while (shmring_pool_lend(pool, link, &slice, 2048, &ref) == SHMRING_E_FULL) {
            (void)shmring_pool_wait(pool, check_now_ns() + 1000000000u);
            waits++;
        }
        shmring_pool_end(pool, &slice);
        (void)pthread_mutex_lock(&box.lock);
        while (box.count == 64)
            (void)pthread_cond_wait(&box.changed, &box.lock);
        box.items[box.count].ref = ref;
        box.items[box.count++].base = words;
        (void)pthread_cond_signal(&box.changed);
        (void)pthread_mutex_unlock(&box.lock);
    }
    (void)pthread_mutex_lock(&box.lock);
    box.end = true;
    (void)pthread_cond_broadcast(&box.changed);
    (void)pthread_mutex_unlock(&box.lock);
    uint64_t read = 0;
    for (uint32_t i = 0; i < THREADS; i++) {
        void *sum = NULL;
        (void)pthread_join(threads[i], &sum);
        read += (uintptr_t)sum;
    }
    CHECK(read == written);
    (void)shmring_pool_collect(pool, true);
    struct shmring_pool_usage usage;
    shmring_pool_usage(pool, &usage);
    CHECK_EQ(usage.lends, 0);
    CHECK_EQ(usage.used_bytes, 0);
    (void)printf("  waited %" PRIu64 " times\n", waits);
    shmring_pool_deinit(pool);
    shmring_segment_unmap(&mapping);
}

/* Held slices are given back on several threads while the sender's segment is detached. */
static void *held_thread(void *argument)
{
    struct shmring_held *held = argument;
    for (uint32_t i = 0; i < 64; i++)
        shmring_held_give_back(&held[i]);
    return NULL;
}

static void the_last_of_many_threads_unmaps_a_detached_segment(void)
{
    for (uint32_t round = 0; round < 20; round++) {
        static struct shmring_held held[THREADS][64];
        const struct shmring_pool_options options = {
            .quota_bytes = MIB, .placement = {.numa_node = -1}};
        struct shmring_mapping mapping;
        struct shmring_pool *pool;
        struct shmring_view *view;
        struct shmring_slice slice;
        pthread_t threads[THREADS];
        uint64_t size;
        uint32_t link;
        int fd;
        REQUIRE(shmring_board_create(1, &fd) == 0);
        REQUIRE(shmring_segment_map(fd, SHMRING_SEGMENT_BOARD, SHMRING_READ_WRITE, 0, false, true,
                                    NULL, NULL, &mapping) == 0);
        (void)close(fd);
        REQUIRE(shmring_pool_init(&options, &pool) == 0);
        REQUIRE(shmring_view_init(MIB, &view) == 0);
        REQUIRE(shmring_pool_link_add(pool, mapping.base, 0, SHMRING_LENDS, &link) == 0);
        REQUIRE(shmring_pool_loan(pool, 4096, &slice) == 0);
        REQUIRE(shmring_pool_segment(pool, slice.segment, &fd, &size) == 0);
        REQUIRE(shmring_view_attach(view, slice.segment, fd, size, true) == 0);
        for (uint32_t t = 0; t < THREADS; t++) {
            for (uint32_t i = 0; i < 64; i++) {
                struct shmring_slice_ref ref;
                CHECK_EQ(shmring_pool_lend(pool, link, &slice, 4096, &ref), 0);
                CHECK_EQ(shmring_view_hold(view, mapping.base, &ref, &held[t][i]), 0);
            }
        }
        for (uint32_t t = 0; t < THREADS; t++)
            REQUIRE(pthread_create(&threads[t], NULL, held_thread, held[t]) == 0);
        CHECK_EQ(shmring_view_detach(view, slice.segment), 0);
        for (uint32_t t = 0; t < THREADS; t++)
            (void)pthread_join(threads[t], NULL);
        CHECK_EQ(shmring_pool_collect(pool, true), THREADS * 64);
        shmring_view_deinit(view);
        shmring_pool_deinit(pool);
        shmring_segment_unmap(&mapping);
    }
}

int main(int argc, char **argv)
{
    static const struct check_test tests[] = {
        RUN(a_child_process_reads_every_slice_and_gives_it_back),
        RUN(what_a_killed_receiver_held_is_taken_back),
        RUN(a_stopped_receiver_does_not_hold_a_waiting_sender_for_ever),
        RUN(many_threads_give_back_and_the_sender_misses_none),
        RUN(the_last_of_many_threads_unmaps_a_detached_segment)};
    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return child_main(argv[2]);
    own_path = argv[0];
    return check_run(tests, sizeof tests / sizeof tests[0], argc, argv);
}
