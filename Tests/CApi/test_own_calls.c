/* This library's own calls, each: in one process, and with a thread where one is needed. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const char *self;

static bus1_peer *open_peer(void)
{
    bus1_peer *peer = NULL;
    OK(bus1_open(NULL, NULL, &peer));
    TRUE(peer != NULL);
    return peer;
}

static struct bus1_received receive(bus1_peer *peer, uint32_t kind)
{
    struct bus1_received received = {.size = sizeof(received)};
    OK(bus1_receive(peer, bus1_after(10000000000), &received));
    IS(received.size, sizeof(received));
    IS(received.kind, kind);
    return received;
}

static void is_empty(bus1_peer *peer)
{
    struct bus1_received received = {.size = sizeof(received)};
    IS(bus1_try_receive(peer, &received), -EAGAIN);
}

/* A node of `owner` and a handle of `holder`. */
static uint64_t connect_to(bus1_peer *owner, uint64_t tag, bus1_peer *holder, uint64_t *handle)
{
    uint64_t node, own;
    OK(bus1_node_make(owner, tag, &node));
    OK(bus1_handle_make(owner, node, &own));
    OK(bus1_give(owner, 1, &own, holder, handle));
    OK(bus1_release(owner, 1, &own));
    return node;
}

static void test_messages(void)
{
    TEST("a message is a view until it is given back; twice is EINVAL");
    bus1_peer *a = open_peer(), *b = open_peer();
    uint64_t handle, node = connect_to(a, 42, b, &handle);
    OK(bus1_try_send(b, handle, "hello", 5));
    OK(bus1_send(b, handle, NULL, 0, BUS1_NEVER));
    struct bus1_received one = receive(a, BUS1_RECEIVED_MESSAGE);
    struct bus1_received two = receive(a, BUS1_RECEIVED_MESSAGE);
    IS(one.n_data, 5);
    IS(memcmp(one.data, "hello", 5), 0);
    IS(one.id, node);
    IS(one.tag, 42);
    IS(one.uid, geteuid());
    IS(one.pid, getpid());
    IS(one.flags | one.n_handles | one.n_fds, 0);
    IS(two.n_data, 0);
    IS(two.sequence, one.sequence + 1);
    TRUE(two.stamp > one.stamp);
    TRUE(bus1_stamp_ns(a, two.stamp) >= bus1_stamp_ns(a, one.stamp));
    OK(bus1_give_back(&one));
    IS(bus1_give_back(&one), -EINVAL);
    OK(bus1_give_back(&two));
    is_empty(a);

    TEST("a wait ends at its deadline: ETIMEDOUT");
    struct bus1_received none = {.size = sizeof(none)};
    IS(bus1_receive(a, bus1_after(1000000), &none), -ETIMEDOUT);
    IS(bus1_receive(a, BUS1_NOW, &none), -ETIMEDOUT);

    TEST("a structure of no version is EINVAL, NULL is EFAULT");
    none.size = 8;
    IS(bus1_try_receive(a, &none), -EINVAL);
    IS(bus1_receive(a, BUS1_NEVER, &none), -EINVAL);
    IS(bus1_receive(a, BUS1_NEVER, NULL), -EFAULT);
    struct bus1_options options = {.size = 8};
    bus1_peer *no = NULL;
    IS(bus1_open(NULL, &options, &no), -EINVAL);
    options = (struct bus1_options){.size = sizeof(options), .flags = 1u << 31};
    IS(bus1_open(NULL, &options, &no), -EINVAL);
    IS(bus1_open(NULL, NULL, NULL), -EFAULT);
    IS(bus1_send(b, handle, NULL, 1, BUS1_NOW), -EFAULT);

    TEST("an ID that names nothing, or something else, is EBADRQC");
    IS(bus1_try_send(b, 0, "x", 1), -EBADRQC);
    IS(bus1_try_send(b, BUS1_INVALID, "x", 1), -EBADRQC);
    IS(bus1_try_send(b, node, "x", 1), -EBADRQC);
    IS(bus1_try_send(b, handle + 2, "x", 1), -EBADRQC);
    IS(bus1_try_send(a, handle, "x", 1), -EBADRQC);
    uint64_t out;
    IS(bus1_handle_make(b, node, &out), -EBADRQC);
    IS(bus1_handle_make(a, handle, &out), -EBADRQC);
    IS(bus1_release(a, 1, &handle), -EBADRQC);
    struct bus1_error error = {.size = sizeof(error)};
    OK(bus1_last_error(&error));
    IS(error.error, -EBADRQC);
    TRUE(error.operation != NULL && error.operation[0] != 0);

    TEST("full is EAGAIN, and room is waited for until the deadline");
    int sent = 0;
    while (bus1_try_send(b, handle, &sent, sizeof(sent)) == 0) sent++;
    IS(bus1_try_send(b, handle, &sent, sizeof(sent)), -EAGAIN);
    IS(bus1_send(b, handle, &sent, sizeof(sent), bus1_after(1000000)), -ETIMEDOUT);
    for (int i = 0; i < sent; i++) {
        struct bus1_received received = receive(a, BUS1_RECEIVED_MESSAGE);
        IS(*(const int *)received.data, i);
        OK(bus1_give_back(&received));
    }

    TEST("one node's messages come out of turn");
    uint64_t other, second = connect_to(a, 43, b, &other);
    OK(bus1_try_send(b, handle, "1", 1));
    OK(bus1_try_send(b, other, "2", 1));
    struct bus1_received received = {.size = sizeof(received)};
    OK(bus1_receive_on(a, second, bus1_after(10000000000), &received));
    IS(received.tag, 43);
    OK(bus1_give_back(&received));
    received = receive(a, BUS1_RECEIVED_MESSAGE);
    IS(received.tag, 42);

    TEST("what was received stays readable after the peer was closed");
    bus1_close(a);
    IS(*(const char *)received.data, '1');
    OK(bus1_give_back(&received));
    received = receive(b, BUS1_RECEIVED_NODE_RELEASE);
    uint64_t first = received.id;
    TRUE(first == handle || first == other);
    TRUE(received.flags & BUS1_RECEIVED_MORE);
    received = receive(b, BUS1_RECEIVED_NODE_RELEASE);
    IS(received.id, first == handle ? other : handle);
    OK(bus1_give_back(&received));
    IS(bus1_release(b, 1, &handle), -EBADRQC);
    bus1_close(b);
    bus1_close(NULL);
}

static void test_transactions(void)
{
    TEST("a transaction: messages with handles and files, and releases, at one stamp");
    bus1_peer *a = open_peer(), *b = open_peer();
    uint64_t first, second, node = connect_to(a, 1, b, &first), old = connect_to(b, 0, a, &second);
    uint64_t own, mine;
    OK(bus1_node_make(b, 9, &mine));
    OK(bus1_handle_make(b, mine, &own));
    int pipes[2];
    OK(pipe(pipes));
    struct bus1_outgoing message = {.handle = first,
                                    .data = "with",
                                    .n_data = 4,
                                    .passing = &own,
                                    .n_passing = 1,
                                    .fds = &pipes[1],
                                    .n_fds = 1};
    struct bus1_transaction transaction = {.size = sizeof(transaction),
                                           .message_size = sizeof(message),
                                           .n_messages = 1,
                                           .messages = &message,
                                           .n_releases = 1,
                                           .releases = &old,
                                           .deadline = BUS1_NEVER};
    OK(bus1_transact(b, &transaction));
    struct bus1_received received = {.size = sizeof(received)}, notice = received;
    for (int i = 0; i < 2; i++) {
        struct bus1_received next = {.size = sizeof(next)};
        OK(bus1_receive(a, BUS1_NEVER, &next));
        IS(next.stamp, transaction.stamp);
        IS(next.flags & BUS1_RECEIVED_MORE, i == 0 ? BUS1_RECEIVED_MORE : 0);
        *(next.kind == BUS1_RECEIVED_MESSAGE ? &received : &notice) = next;
    }
    IS(notice.kind, BUS1_RECEIVED_NODE_RELEASE);
    IS(notice.id, second);
    IS(received.id, node);
    IS(received.n_handles, 1);
    IS(received.n_fds, 1);
    uint64_t given, again;
    int fd;
    OK(bus1_take_handle(&received, 0, &given));
    IS(bus1_take_handle(&received, 0, &again), -EINVAL);
    IS(bus1_take_handle(&received, 1, &again), -EINVAL);
    OK(bus1_take_fd(&received, 0, &fd));
    IS(bus1_take_fd(&received, 0, &fd), -EINVAL);
    IS(write(fd, "z", 1), 1);
    char byte;
    IS(read(pipes[0], &byte, 1), 1);
    close(fd), close(pipes[0]), close(pipes[1]);
    IS(bus1_reply(&received, "x", 1, BUS1_NOW), -EINVAL);
    OK(bus1_give_back(&received));
    OK(bus1_try_send(a, given, "back", 4));
    received = receive(b, BUS1_RECEIVED_MESSAGE);
    IS(received.tag, 9);
    OK(bus1_give_back(&received));
    uint32_t uid;
    int32_t pid;
    OK(bus1_owner(a, given, &uid, &pid));
    IS(uid, geteuid());
    IS(pid, getpid());

    TEST("one that fails changes nothing, also not what it would have released");
    uint64_t gone = 4711 << 1, both[2] = {own, mine};
    struct bus1_outgoing two[2] = {{.handle = first}, {.handle = gone}};
    transaction = (struct bus1_transaction){.size = sizeof(transaction),
                                            .message_size = sizeof(*two),
                                            .n_messages = 2,
                                            .messages = two,
                                            .n_releases = 2,
                                            .releases = both};
    IS(bus1_transact(b, &transaction), -EBADRQC);
    is_empty(a);
    two[1].handle = first;
    IS(bus1_transact(b, &transaction), -ENOTUNIQ);
    transaction.flags = 1u << 30;
    IS(bus1_transact(b, &transaction), -EINVAL);
    is_empty(a);
    OK(bus1_try_send(b, own, "still", 5));
    received = receive(b, BUS1_RECEIVED_MESSAGE);
    OK(bus1_give_back(&received));

    TEST("S3: with CONTINUE who refuses is left out, and says why");
    two[1].handle = gone;
    transaction.flags = BUS1_TRANSACT_CONTINUE;
    OK(bus1_transact(b, &transaction));
    IS(two[0].error, 0);
    IS(two[1].error, -EBADRQC);
    received = receive(a, BUS1_RECEIVED_MESSAGE);
    IS(received.stamp, transaction.stamp);
    OK(bus1_give_back(&received));
    IS(bus1_release(b, 1, &mine), -EBADRQC);
    bus1_close(a);
    bus1_close(b);
}

static void test_replies(void)
{
    TEST("a reply comes to the node that was named, once; one that is dropped is told");
    bus1_peer *a = open_peer(), *b = open_peer();
    uint64_t handle, replies;
    connect_to(a, 0, b, &handle);
    OK(bus1_node_make(b, 5, &replies));
    struct bus1_outgoing ask = {.handle = handle, .data = "?", .n_data = 1, .reply_node = replies};
    struct bus1_transaction transaction = {.size = sizeof(transaction),
                                           .message_size = sizeof(ask),
                                           .n_messages = 1,
                                           .messages = &ask};
    OK(bus1_transact(b, &transaction));
    struct bus1_received received = receive(a, BUS1_RECEIVED_MESSAGE);
    IS(received.flags & BUS1_RECEIVED_WANTS_REPLY, BUS1_RECEIVED_WANTS_REPLY);
    IS(received.n_handles, 0);
    OK(bus1_reply(&received, "!", 1, BUS1_NEVER));
    IS(bus1_reply(&received, "!", 1, BUS1_NEVER), -EINVAL);
    OK(bus1_give_back(&received));
    received = receive(b, BUS1_RECEIVED_MESSAGE);
    IS(received.tag, 5);
    IS(*(const char *)received.data, '!');
    OK(bus1_give_back(&received));
    OK(bus1_transact(b, &transaction));
    received = receive(a, BUS1_RECEIVED_MESSAGE);
    OK(bus1_give_back(&received));
    received = receive(b, BUS1_RECEIVED_REPLY_LOST);
    IS(received.id, replies);
    ask.reply_node = handle;
    IS(bus1_transact(b, &transaction), -EBADRQC);
    bus1_close(a);
    bus1_close(b);
}

static void test_slices(void)
{
    TEST("a slice is filled in place, sent without a copy, forwarded, given back");
    bus1_peer *a = open_peer(), *b = open_peer(), *c = open_peer();
    uint64_t to_a, to_c;
    connect_to(a, 0, b, &to_a);
    connect_to(c, 0, a, &to_c);
    bus1_slice *slice;
    void *data;
    size_t size = 1 << 20;
    OK(bus1_loan(b, size, BUS1_NOW, &slice, &data));
    memset(data, 7, size);
    IS(bus1_slice_shorten(slice, size + 1), -EINVAL);
    OK(bus1_slice_shorten(slice, size - 1));
    OK(bus1_slice_send(b, slice, to_a, BUS1_NEVER));
    struct bus1_received received = receive(a, BUS1_RECEIVED_MESSAGE);
    IS(received.n_data, size - 1);
    IS(((const char *)received.data)[size - 2], 7);
    OK(bus1_forward(a, &received, &slice));
    IS(bus1_give_back(&received), -EINVAL);
    struct bus1_outgoing message = {.handle = to_c, .slice = slice};
    struct bus1_transaction transaction = {.size = sizeof(transaction),
                                           .message_size = sizeof(message),
                                           .n_messages = 1,
                                           .messages = &message};
    OK(bus1_transact(a, &transaction));
    received = receive(c, BUS1_RECEIVED_MESSAGE);
    IS(received.n_data, size - 1);
    IS(((const char *)received.data)[0], 7);
    OK(bus1_give_back(&received));
    OK(bus1_loan(b, 64, BUS1_NOW, &slice, &data));
    bus1_slice_end(slice);
    bus1_slice_end(NULL);
    OK(bus1_loan(b, 64, BUS1_NOW, &slice, &data));
    IS(bus1_slice_send(b, slice, to_c, BUS1_NEVER), -EBADRQC);
    OK(bus1_try_send(b, to_a, "short", 5));
    received = receive(a, BUS1_RECEIVED_MESSAGE);
    IS(bus1_forward(a, &received, &slice), -EPROTO);
    OK(bus1_give_back(&received));
    bus1_close(a);
    bus1_close(b);
    bus1_close(c);
}

struct job {
    bus1_lane *lane;
    uint64_t handle;
};

static void *send_many(void *argument)
{
    struct job *job = argument;
    for (uint32_t i = 0; i < 10000; i++)
        OK(bus1_lane_send(job->lane, job->handle, &i, sizeof(i), BUS1_NEVER));
    struct bus1_outgoing message = {.handle = job->handle, .data = "end!", .n_data = 4};
    struct bus1_transaction transaction = {.size = sizeof(transaction),
                                           .message_size = sizeof(message),
                                           .n_messages = 1,
                                           .messages = &message,
                                           .deadline = BUS1_NEVER};
    OK(bus1_lane_transact(job->lane, &transaction));
    transaction.n_releases = 1;
    transaction.releases = &job->handle;
    IS(bus1_lane_transact(job->lane, &transaction), -EINVAL);
    IS(bus1_lane_try_send(job->lane, 4712, "x", 1), -EBADRQC);
    bus1_lane_close(job->lane);
    return NULL;
}

static void test_lanes(void)
{
    TEST("a lane sends from a thread of its own; there are as many as the options say");
    struct bus1_options options = {.size = sizeof(options), .lanes = 2, .spin_ns = BUS1_SPIN_NONE};
    bus1_peer *a = open_peer(), *b = NULL;
    OK(bus1_open(NULL, &options, &b));
    struct job job;
    connect_to(a, 0, b, &job.handle);
    OK(bus1_lane_open(b, &job.lane));
    bus1_lane *more;
    IS(bus1_lane_open(b, &more), -EDQUOT);
    struct bus1_error error = {.size = sizeof(error)};
    OK(bus1_last_error(&error));
    IS(error.resource, BUS1_RESOURCE_LANES);
    IS(error.limit, 2);
    IS(error.uid, geteuid());
    char text[200];
    TRUE(bus1_last_error_text(text, sizeof(text)) > 10);
    TRUE(strstr(text, "lanes: 2 used of 2") != NULL);
    pthread_t thread;
    OK(pthread_create(&thread, NULL, send_many, &job));
    for (uint32_t i = 0; i <= 10000; i++) {
        struct bus1_received received = receive(a, BUS1_RECEIVED_MESSAGE);
        IS(received.n_data, 4);
        if (i < 10000) IS(*(const uint32_t *)received.data, i);
        OK(bus1_give_back(&received));
    }
    OK(pthread_join(thread, NULL));
    bus1_close(b);
    bus1_close(a);
}

static void test_limits(void)
{
    TEST("what is used can be asked, limited, and waited for");
    bus1_peer *a = open_peer();
    uint64_t used, limit, node, handle, other;
    OK(bus1_node_make(a, 0, &node));
    OK(bus1_handle_make(a, node, &handle));
    OK(bus1_query(a, BUS1_RESOURCE_HANDLES, &used, &limit));
    IS(used, 1);
    TRUE(limit > 1);
    OK(bus1_query(a, BUS1_RESOURCE_PEERS, &used, NULL));
    TRUE(used >= 1);
    OK(bus1_set_limit(a, BUS1_RESOURCE_HANDLES, 1));
    IS(bus1_handle_make(a, node, &other), -EDQUOT);
    IS(bus1_wait_for_room(a, BUS1_RESOURCE_HANDLES, bus1_after(1000000)), -ETIMEDOUT);
    OK(bus1_release(a, 1, &handle));
    OK(bus1_wait_for_room(a, BUS1_RESOURCE_HANDLES, BUS1_NOW));
    IS(bus1_set_limit(a, BUS1_RESOURCE_HANDLES, UINT64_MAX), -EACCES);
    IS(bus1_query(a, 99, &used, &limit), -EINVAL);

    TEST("D1: a seed is kept, read as often as one likes, and replaced");
    struct bus1_received received = {.size = sizeof(received)};
    IS(bus1_seed(a, &received), -EAGAIN);
    OK(bus1_set_seed(a, "seed", 4, 0, NULL));
    for (int i = 0; i < 2; i++) {
        OK(bus1_seed(a, &received));
        IS(received.n_data, 4);
        IS(received.id, BUS1_INVALID);
        OK(bus1_give_back(&received));
    }
    OK(bus1_reset(a, 1));
    OK(bus1_seed(a, &received));
    OK(bus1_give_back(&received));
    OK(bus1_reset(a, 0));
    IS(bus1_seed(a, &received), -EAGAIN);
    OK(bus1_set_seed(a, "seed", 4, 0, NULL));
    OK(bus1_set_seed(a, NULL, 0, 0, NULL));
    IS(bus1_seed(a, &received), -EAGAIN);
    bus1_close(a);
}

static void test_names(void)
{
    TEST("a name is published once, looked up by others, and gone with its node");
    bus1_peer *a = open_peer(), *b = open_peer();
    uint64_t node, handle;
    OK(bus1_node_make(a, 0, &node));
    IS(bus1_look_up(b, "c/name", bus1_after(1000000), &handle), -ETIMEDOUT);
    OK(bus1_publish(a, node, "c/name", BUS1_ACCESS_SAME_USER, 0, NULL));
    IS(bus1_publish(a, node, "c/name", BUS1_ACCESS_SAME_USER, 0, NULL), -EEXIST);
    IS(bus1_publish(a, node, "other", 7, 0, NULL), -EINVAL);
    IS(bus1_publish(a, node, NULL, 0, 0, NULL), -EFAULT);
    IS(bus1_publish(b, node, "other", 0, 0, NULL), -EBADRQC);
    OK(bus1_look_up(b, "c/name", BUS1_NEVER, &handle));
    OK(bus1_try_send(b, handle, "x", 1));
    struct bus1_received received = receive(a, BUS1_RECEIVED_MESSAGE);
    OK(bus1_give_back(&received));

    TEST("the descriptor is readable when there is something to receive");
    int fd;
    OK(bus1_descriptor(a, &fd));
    is_empty(a);
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    OK(bus1_try_send(b, handle, "x", 1));
    IS(poll(&wanted, 1, 10000), 1);
    received = receive(a, BUS1_RECEIVED_MESSAGE);
    OK(bus1_give_back(&received));

    TEST("a program that is spawned inherits handles");
    char *arguments[] = {(char *)(uintptr_t) "child", (char *)(uintptr_t) "inherited", NULL};
    int32_t pid;
    int pidfd, status;
    uint64_t own;
    OK(bus1_handle_make(a, node, &own));
    OK(bus1_spawn(a, self, arguments, 1, &own, &pid, &pidfd));
    received = receive(a, BUS1_RECEIVED_MESSAGE);
    IS(received.pid, pid);
    IS(memcmp(received.data, "child", 5), 0);
    OK(bus1_give_back(&received));
    IS(waitpid(pid, &status, 0), pid);
    IS(status, 0);
    close(pidfd);
    IS(bus1_spawn(a, "/nowhere/at/all", NULL, 0, NULL, &pid, &pidfd), -ENOENT);
    bus1_peer *none;
    IS(bus1_open_inherited(NULL, &none), -EACCES);

    TEST("a forked child can do nothing: EOWNERDEAD");
    pid = fork();
    if (pid == 0) {
        struct bus1_received in_child = {.size = sizeof(in_child)};
        if (bus1_try_send(b, handle, "x", 1) != -EOWNERDEAD) _exit(1);
        if (bus1_receive(a, BUS1_NOW, &in_child) != -EOWNERDEAD) _exit(2);
        if (bus1_open(NULL, NULL, &none) != -EOWNERDEAD) _exit(3);
        _exit(0);
    }
    IS(waitpid(pid, &status, 0), pid);
    IS(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);

    TEST("both interfaces mix: the peer of a descriptor");
    int peer = bus1_peer_new();
    TRUE(peer >= 0);
    bus1_peer *behind;
    OK(bus1_peer_of(peer, &behind));
    uint64_t same;
    OK(bus1_look_up(behind, "c/name", BUS1_NEVER, &same));
    struct bus1_message message = {0};
    int32_t error;
    OK(bus1_cmd_send(peer, 1, &same, &error, &message));
    received = receive(a, BUS1_RECEIVED_MESSAGE);
    IS(received.id, node);
    OK(bus1_give_back(&received));
    IS(bus1_peer_of(0, &behind), -EOPNOTSUPP);
    OK(bus1_peer_close(peer));
    bus1_close(a);
    bus1_close(b);
}

static void test_words(void)
{
    TEST("every error has words");
    for (int error = 0; error < 200; error++) {
        TRUE(bus1_strerror(error) != NULL && bus1_strerror(error)[0] != 0);
        IS(strcmp(bus1_strerror(error), bus1_strerror(-error)), 0);
    }
    struct bus1_error error = {.size = 1};
    IS(bus1_last_error(&error), -EINVAL);
    IS(bus1_last_error(NULL), -EFAULT);
    IS(bus1_after(UINT64_MAX), BUS1_NEVER);
}

/* As a spawned child: takes what it inherited, and says so there. */
static int inherited(void)
{
    bus1_peer *peer;
    uint64_t handle;
    OK(bus1_open_inherited(NULL, &peer));
    OK(bus1_take_inherited(peer, 0, &handle));
    IS(bus1_take_inherited(peer, 0, &handle), -EBADRQC);
    OK(bus1_send(peer, handle, "child", 5, bus1_after(10000000000)));
    bus1_close(peer);
    return 0;
}

int main(int count, char **arguments)
{
    alarm(120);
    self = "/proc/self/exe";
    if (count > 1 && strcmp(arguments[1], "inherited") == 0) return inherited();
    test_words();
    test_messages();
    test_transactions();
    test_replies();
    test_slices();
    test_lanes();
    test_limits();
    test_names();
    puts("bus1.h: passed");
    return 0;
}
