/* The calls of bus1(7): each, and each rule of its errors. */
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define CREATE BUS1_TRANSFER_FLAG_CREATE

/* ---- what most tests need ---- */

static uint64_t make_node(int owner, int holder, uint64_t *handle)
{
    struct bus1_transfer src = {CREATE, BUS1_INVALID}, dst = {7, 7};
    OK(bus1_cmd_transfer(0, owner, holder, 1, &src, &dst));
    IS(src.flags, 0);
    IS(dst.flags, 0);
    *handle = dst.id;
    return src.id;
}

static int send_bytes(int peer, uint64_t handle, const void *data, size_t n)
{
    struct iovec piece = {(void *)(uintptr_t)data, n};
    struct bus1_message message = {.n_data = n,
                                   .n_data_vecs = 1,
                                   .ptr_data_vecs = (uint64_t)(uintptr_t)&piece};
    int32_t error = 77;
    int sent = bus1_cmd_send(peer, 1, &handle, &error, &message);
    IS(error, sent == 0 ? 0 : 77);
    return sent;
}

struct taken {
    struct bus1_metadata metadata;
    struct bus1_message message;
    struct bus1_transfer transfers[8];
    char data[256];
};

static int receive(int peer, struct taken *taken)
{
    struct iovec room = {taken->data, sizeof(taken->data)};
    memset(&taken->metadata, 0, sizeof(taken->metadata));
    taken->message = (struct bus1_message){.type = BUS1_INVALID,
                                           .n_transfers = 8,
                                           .ptr_transfers = (uint64_t)(uintptr_t)taken->transfers,
                                           .n_data = sizeof(taken->data),
                                           .n_data_vecs = 1,
                                           .ptr_data_vecs = (uint64_t)(uintptr_t)&room};
    return bus1_cmd_recv(peer, &taken->metadata, &taken->message);
}

static void take(int peer, struct taken *taken, uint64_t type, uint64_t id)
{
    OK(receive(peer, taken));
    IS(taken->message.flags, 0);
    IS(taken->message.type, type);
    IS(taken->metadata.id, id);
}

static void is_empty(int peer)
{
    struct taken taken;
    IS(receive(peer, &taken), -EAGAIN);
}

static int new_peer(void)
{
    int peer = bus1_peer_new();
    if (peer < 0) check_failed(__FILE__, __LINE__, "bus1_peer_new()", peer, 3);
    IS(fcntl(peer, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    return peer;
}

/* ---- the tests ---- */

static void test_descriptors(void)
{
    TEST("what is no descriptor is EBADF, what is no peer EOPNOTSUPP");
    int peer = new_peer(), closed = dup(0), pipes[2], event = eventfd(0, 0);
    int other = epoll_create1(0), copy = dup(peer);
    struct taken taken;
    struct bus1_transfer transfer = {CREATE, BUS1_INVALID}, got;
    OK(pipe(pipes));
    close(closed);
    IS(receive(closed, &taken), -EBADF);
    IS(receive(-1, &taken), -EBADF);
    IS(receive(1 << 20, &taken), -EBADF);
    int wrong[] = {pipes[0], event, other, copy, 0};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        IS(receive(wrong[i], &taken), -EOPNOTSUPP);
        IS(bus1_cmd_release(wrong[i], 0, NULL), -EOPNOTSUPP);
        IS(send_bytes(wrong[i], 2, "x", 1), -EOPNOTSUPP);
        IS(bus1_cmd_transfer(0, wrong[i], peer, 1, &transfer, &got), -EOPNOTSUPP);
        IS(bus1_cmd_transfer(0, peer, wrong[i], 1, &transfer, &got), -EOPNOTSUPP);
        IS(bus1_peer_close(wrong[i]), -EOPNOTSUPP);
    }
    IS(bus1_cmd_transfer(0, peer, closed, 1, &transfer, &got), -EBADF);
    IS(transfer.flags, CREATE);
    OK(bus1_peer_close(peer));
    IS(bus1_peer_close(peer), -EBADF);
    IS(receive(peer, &taken), -EBADF);
    close(pipes[0]), close(pipes[1]), close(event), close(other), close(copy);
}

static void test_transfer(void)
{
    TEST("T1 T2 T3: a transfer makes nodes and distinct handles, in another peer or the same");
    int a = new_peer(), b = new_peer();
    uint64_t handle, own, node = make_node(a, b, &handle), second = make_node(a, -1, &own);
    TRUE(node != second && handle != own && node != handle && second != own);
    TRUE(node != 0 && node != BUS1_INVALID && handle != 0 && handle != BUS1_INVALID);
    /* A node gives its owner no right to send. */
    IS(send_bytes(a, node, "x", 1), -EBADRQC);
    IS(send_bytes(a, handle, "x", 1), -EBADRQC);
    struct bus1_transfer src[2] = {{0, handle}, {0, handle}}, dst[2] = {{9, 9}, {9, 9}};
    OK(bus1_cmd_transfer(0, b, -1, 2, src, dst));
    TRUE(dst[0].id != dst[1].id && dst[0].id != handle && dst[1].id != handle);
    IS(dst[0].flags | dst[1].flags, 0);
    OK(send_bytes(b, dst[1].id, "x", 1));
    /* Back to the owner. */
    OK(bus1_cmd_transfer(0, b, a, 1, src, dst));
    OK(send_bytes(a, dst[0].id, "y", 1));
    struct taken taken;
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);
    is_empty(a);

    TEST("a transfer's flags must be known, and what is created has no ID yet: EINVAL");
    src[0] = (struct bus1_transfer){0, handle};
    IS(bus1_cmd_transfer(1, b, a, 1, src, dst), -EINVAL);
    src[0].flags = 2;
    IS(bus1_cmd_transfer(0, b, a, 1, src, dst), -EINVAL);
    src[0] = (struct bus1_transfer){CREATE, handle};
    IS(bus1_cmd_transfer(0, b, a, 1, src, dst), -EINVAL);
    IS(bus1_cmd_transfer(0, b, a, 1, NULL, dst), -EFAULT);
    OK(bus1_cmd_transfer(0, b, a, 0, NULL, NULL));

    TEST("T4: a bad source among n changes nothing: EBADRQC");
    struct bus1_transfer mixed[3] = {{CREATE, BUS1_INVALID}, {0, handle}, {0, 12345678}}, to[3];
    IS(bus1_cmd_transfer(0, b, a, 3, mixed, to), -EBADRQC);
    mixed[2].id = node; /* T6: another peer's ID, and a node's. */
    IS(bus1_cmd_transfer(0, b, a, 3, mixed, to), -EBADRQC);
    mixed[2].id = BUS1_INVALID;
    IS(bus1_cmd_transfer(0, b, a, 3, mixed, to), -EBADRQC);
    is_empty(a);
    is_empty(b);
    OK(bus1_peer_close(a));
    OK(bus1_peer_close(b));
}

static void test_failed_transfer(void)
{
    TEST("T4: n transfers of which the last has no room leave nothing behind: EDQUOT");
    int a = new_peer(), b = new_peer();
    bus1_peer *behind;
    uint64_t held, used, before, node = make_node(a, b, &held);
    OK(bus1_peer_of(b, &behind));
    OK(bus1_set_limit(behind, BUS1_RESOURCE_HANDLES, 3));
    struct bus1_transfer src[3], dst[3];
    for (int i = 0; i < 3; i++) src[i] = (struct bus1_transfer){CREATE, BUS1_INVALID};
    OK(bus1_peer_of(a, &behind));
    OK(bus1_query(behind, BUS1_RESOURCE_NODES, &before, NULL));
    IS(bus1_cmd_transfer(0, a, b, 3, src, dst), -EDQUOT);
    is_empty(a);
    is_empty(b);
    OK(bus1_query(behind, BUS1_RESOURCE_NODES, &used, NULL));
    IS(used, before);
    /* Copies and new ones, mixed. */
    src[0] = src[1] = src[2] = (struct bus1_transfer){CREATE, BUS1_INVALID};
    src[1] = (struct bus1_transfer){0, held};
    IS(bus1_cmd_transfer(0, b, b, 3, src, dst), -EDQUOT);
    is_empty(a);
    is_empty(b);
    OK(bus1_cmd_release(b, 1, &held));
    struct taken taken;
    take(a, &taken, BUS1_MESSAGE_TYPE_HANDLE_RELEASE, node);
    is_empty(a);
    OK(bus1_peer_close(a));
    OK(bus1_peer_close(b));
}

static void test_release(void)
{
    TEST("R1 R4 N1 N5: releasing tells holders and owners, once");
    int a = new_peer(), b = new_peer();
    uint64_t h1, h2, n1 = make_node(a, b, &h1), n2 = make_node(a, b, &h2);
    struct taken taken;
    OK(bus1_cmd_release(b, 1, &h1));
    take(a, &taken, BUS1_MESSAGE_TYPE_HANDLE_RELEASE, n1);
    is_empty(a);
    OK(bus1_cmd_release(a, 1, &n2));
    take(b, &taken, BUS1_MESSAGE_TYPE_NODE_RELEASE, h2);
    is_empty(b);

    TEST("receiving NODE_RELEASE retires the handle's ID");
    IS(bus1_cmd_release(b, 1, &h2), -EBADRQC);
    IS(send_bytes(b, h2, "x", 1), -EBADRQC);

    TEST("R2: IDs are dead at return: EBADRQC");
    IS(bus1_cmd_release(b, 1, &h1), -EBADRQC);
    IS(send_bytes(b, h1, "x", 1), -EBADRQC);
    struct bus1_transfer src = {0, h1}, dst;
    IS(bus1_cmd_transfer(0, b, a, 1, &src, &dst), -EBADRQC);

    TEST("R3: a bad ID among n changes nothing: EBADRQC");
    uint64_t h3, h4, n3 = make_node(a, b, &h3), n4 = make_node(b, a, &h4);
    uint64_t ids[3] = {h3, n4, 4711};
    IS(bus1_cmd_release(b, 3, ids), -EBADRQC);
    ids[2] = h3;
    IS(bus1_cmd_release(b, 3, ids), -EBADRQC);
    ids[2] = 0;
    IS(bus1_cmd_release(b, 3, ids), -EBADRQC);
    ids[2] = BUS1_INVALID;
    IS(bus1_cmd_release(b, 3, ids), -EBADRQC);
    is_empty(a);
    OK(send_bytes(b, h3, "x", 1));
    OK(send_bytes(a, h4, "y", 1));
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, n3);
    take(b, &taken, BUS1_MESSAGE_TYPE_USER, n4);
    OK(bus1_cmd_release(b, 2, ids));
    OK(receive(a, &taken));
    OK(receive(a, &taken));
    is_empty(a);
    OK(bus1_cmd_release(b, 0, NULL));
    IS(bus1_cmd_release(b, 1, NULL), -EFAULT);
    OK(bus1_peer_close(a));
    OK(bus1_peer_close(b));
}

static void test_send(void)
{
    TEST("the first n_data bytes of the pieces are the payload, what follows is ignored");
    int a = new_peer(), b = new_peer();
    uint64_t handle, node = make_node(a, b, &handle);
    struct taken taken;
    struct iovec pieces[4] = {{(void *)(uintptr_t) "abc", 3}, {NULL, 0},
                              {(void *)(uintptr_t) "defgh", 5}, {(void *)(uintptr_t) "ij", 2}};
    struct bus1_message message = {.n_data = 7, .n_data_vecs = 4,
                                   .ptr_data_vecs = (uint64_t)(uintptr_t)pieces};
    int32_t error = 77;
    OK(bus1_cmd_send(b, 1, &handle, &error, &message));
    IS(error, 0);
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);
    IS(taken.message.n_data, 7);
    IS(memcmp(taken.data, "abcdefg", 7), 0);
    IS(taken.metadata.account, geteuid());
    IS(taken.metadata.flags, 0);
    IS(taken.message.n_transfers, 0);

    TEST("n_data above the pieces' sum is EMSGSIZE, unused flags and other types EINVAL");
    error = 77;
    message.n_data = 11;
    IS(bus1_cmd_send(b, 1, &handle, &error, &message), -EMSGSIZE);
    message.n_data = UINT64_MAX;
    IS(bus1_cmd_send(b, 1, &handle, &error, &message), -EMSGSIZE);
    message.n_data = 7;
    message.flags = 1;
    IS(bus1_cmd_send(b, 1, &handle, &error, &message), -EINVAL);
    message.flags = 0;
    for (uint64_t type = 1; type < _BUS1_MESSAGE_TYPE_N + 1; type++) {
        message.type = type;
        IS(bus1_cmd_send(b, 1, &handle, &error, &message), -EINVAL);
    }
    message.type = BUS1_MESSAGE_TYPE_USER;
    struct iovec overflow[2] = {{pieces, SIZE_MAX}, {pieces, SIZE_MAX}};
    message.ptr_data_vecs = (uint64_t)(uintptr_t)overflow;
    message.n_data_vecs = 2;
    IS(bus1_cmd_send(b, 1, &handle, &error, &message), -EMSGSIZE);
    message.ptr_data_vecs = 0;
    IS(bus1_cmd_send(b, 1, &handle, &error, &message), -EFAULT);
    IS(bus1_cmd_send(b, 1, &handle, &error, NULL), -EFAULT);
    message.ptr_data_vecs = (uint64_t)(uintptr_t)pieces;
    message.n_data_vecs = 1025;
    IS(bus1_cmd_send(b, 1, &handle, &error, &message), -EMSGSIZE);
    IS(error, 77);
    is_empty(a);

    TEST("S1: an unknown destination is EBADRQC and none gets it; no destination is no effect");
    uint64_t second, other = make_node(a, b, &second), bad[3] = {handle, second, 99};
    int32_t errors[3] = {77, 77, 77};
    message.n_data_vecs = 4;
    IS(bus1_cmd_send(b, 3, bad, errors, &message), -EBADRQC);
    IS(errors[0] + errors[1] + errors[2], 3 * 77);
    OK(bus1_cmd_send(b, 0, NULL, NULL, &message));
    is_empty(a);

    TEST("S4: a destination that stands twice is ENOTUNIQ; two nodes of one peer get one each");
    bad[2] = handle;
    IS(bus1_cmd_send(b, 3, bad, errors, &message), -ENOTUNIQ);
    is_empty(a);
    OK(bus1_cmd_send(b, 2, bad, errors, &message));
    IS(errors[0] | errors[1], 0);
    IS(errors[2], 77);
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, other);
    OK(bus1_cmd_send(b, 1, bad, NULL, &message));
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);

    TEST("no payload at all is a message");
    struct bus1_message nothing = {0};
    OK(bus1_cmd_send(b, 1, &handle, &error, &nothing));
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);
    IS(taken.message.n_data, 0);

    TEST("S10: a node that is known to be released is EHOSTUNREACH");
    OK(bus1_cmd_release(a, 1, &node));
    IS(send_bytes(b, handle, "x", 1), -EHOSTUNREACH);
    take(b, &taken, BUS1_MESSAGE_TYPE_NODE_RELEASE, handle);
    OK(bus1_peer_close(a));
    OK(bus1_peer_close(b));
}

static void test_transfers_in_messages(void)
{
    TEST("S7: transfers copy held handles; the same twice gives two, also to a third peer");
    int a = new_peer(), b = new_peer(), c = new_peer();
    uint64_t to_a, a_of_c, node = make_node(a, b, &to_a), to_c, at_c = make_node(c, b, &to_c);
    struct taken taken;
    struct bus1_transfer passed[2] = {{0, to_a}, {0, to_a}};
    struct bus1_message message = {.n_transfers = 2,
                                   .ptr_transfers = (uint64_t)(uintptr_t)passed};
    int32_t error;
    OK(bus1_cmd_send(b, 1, &to_c, &error, &message));
    take(c, &taken, BUS1_MESSAGE_TYPE_USER, at_c);
    IS(taken.message.n_transfers, 2);
    TRUE(taken.transfers[0].id != taken.transfers[1].id);
    IS(taken.transfers[0].flags | taken.transfers[1].flags, 0);
    a_of_c = taken.transfers[1].id;
    OK(send_bytes(c, a_of_c, "from c", 6));
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);
    IS(memcmp(taken.data, "from c", 6), 0);
    /* b kept its own. */
    OK(send_bytes(b, to_a, "from b", 6));
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);

    TEST("a transfer that is not held is EBADRQC, one with flags EINVAL, more than 253 EMSGSIZE");
    passed[1].id = 4712;
    IS(bus1_cmd_send(b, 1, &to_c, &error, &message), -EBADRQC);
    passed[1] = (struct bus1_transfer){CREATE, BUS1_INVALID};
    IS(bus1_cmd_send(b, 1, &to_c, &error, &message), -EINVAL);
    struct bus1_transfer many[254];
    for (int i = 0; i < 254; i++) many[i] = passed[0];
    message.n_transfers = 254;
    message.ptr_transfers = (uint64_t)(uintptr_t)many;
    IS(bus1_cmd_send(b, 1, &to_c, &error, &message), -EMSGSIZE);
    message.ptr_transfers = 0;
    IS(bus1_cmd_send(b, 1, &to_c, &error, &message), -EMSGSIZE);
    message.n_transfers = 1;
    IS(bus1_cmd_send(b, 1, &to_c, &error, &message), -EFAULT);
    is_empty(c);

    TEST("a handle whose node was released before can't be passed on: EHOSTUNREACH");
    message.ptr_transfers = (uint64_t)(uintptr_t)many;
    OK(bus1_cmd_release(a, 1, &node));
    IS(bus1_cmd_send(b, 1, &to_c, &error, &message), -EHOSTUNREACH);
    for (int i = 0; i < 2; i++) {
        OK(receive(c, &taken));
        IS(taken.message.type, BUS1_MESSAGE_TYPE_NODE_RELEASE);
    }
    is_empty(c);
    OK(bus1_peer_close(a));
    OK(bus1_peer_close(b));
    OK(bus1_peer_close(c));
}

static void test_receive(void)
{
    TEST("V1: nothing queued is EAGAIN; arguments that are not as they must be are EINVAL");
    int a = new_peer(), b = new_peer();
    uint64_t handle, node = make_node(a, b, &handle);
    struct taken taken;
    is_empty(a);
    OK(send_bytes(b, handle, "hello", 5));
    struct bus1_metadata metadata = {0};
    struct bus1_message message = {0};
    IS(bus1_cmd_recv(a, &metadata, &message), -EINVAL);
    message.type = BUS1_INVALID;
    message.flags = 1;
    IS(bus1_cmd_recv(a, &metadata, &message), -EINVAL);
    message.flags = 0;
    metadata.flags = 1;
    IS(bus1_cmd_recv(a, &metadata, &message), -EINVAL);
    metadata.flags = 0;
    IS(bus1_cmd_recv(a, NULL, &message), -EFAULT);
    IS(bus1_cmd_recv(a, &metadata, NULL), -EFAULT);

    TEST("V3: too little room is EMSGSIZE, says how much is needed, and keeps the message");
    for (int i = 0; i < 3; i++) {
        message = (struct bus1_message){.type = BUS1_INVALID};
        IS(bus1_cmd_recv(a, &metadata, &message), -EMSGSIZE);
        IS(message.n_data, 5);
        IS(message.n_transfers, 0);
    }
    /* It can still be seen in the descriptor. */
    struct pollfd wanted = {.fd = a, .events = POLLIN};
    IS(poll(&wanted, 1, 0), 1);
    char few[2], rest[3];
    struct iovec pieces[2] = {{few, 2}, {rest, 2}};
    message = (struct bus1_message){.type = BUS1_INVALID, .n_data = 5, .n_data_vecs = 2,
                                    .ptr_data_vecs = (uint64_t)(uintptr_t)pieces};
    IS(bus1_cmd_recv(a, &metadata, &message), -EMSGSIZE);
    IS(message.n_data, 5);
    pieces[1].iov_len = 3;
    OK(bus1_cmd_recv(a, &metadata, &message));
    IS(message.n_data, 5);
    IS(message.type, BUS1_MESSAGE_TYPE_USER);
    IS(metadata.id, node);
    IS(memcmp(few, "he", 2), 0);
    IS(memcmp(rest, "llo", 3), 0);
    is_empty(a);

    TEST("V3: room for transfers that is missing is EMSGSIZE, too");
    struct bus1_transfer passed[2] = {{0, handle}, {0, handle}};
    struct bus1_message sent = {.n_transfers = 2, .ptr_transfers = (uint64_t)(uintptr_t)passed};
    int32_t error;
    OK(bus1_cmd_send(b, 1, &handle, &error, &sent));
    struct bus1_transfer got[2];
    message = (struct bus1_message){.type = BUS1_INVALID, .n_transfers = 1,
                                    .ptr_transfers = (uint64_t)(uintptr_t)got};
    IS(bus1_cmd_recv(a, &metadata, &message), -EMSGSIZE);
    IS(message.n_transfers, 2);
    OK(bus1_cmd_recv(a, &metadata, &message));
    IS(message.n_transfers, 2);
    /* They lead to the receiver's own node. */
    OK(send_bytes(a, got[1].id, "own", 3));
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);
    OK(bus1_peer_close(a));
    OK(bus1_peer_close(b));
}

static void test_quota(void)
{
    TEST("a receiver whose queue is full is EDQUOT, and nobody else gets it either");
    int a = new_peer(), b = new_peer(), c = new_peer();
    uint64_t full, other;
    uint64_t node = make_node(a, b, &full);
    make_node(c, b, &other);
    int sent = 0, result;
    while ((result = send_bytes(b, full, "x", 1)) == 0) sent++;
    IS(result, -EDQUOT);
    TRUE(sent >= 512);
    uint64_t both[2] = {other, full};
    int32_t errors[2] = {77, 77};
    struct bus1_message message = {0};
    /* A transaction may use the last eighth that unicasts leave free. */
    while ((result = bus1_cmd_send(b, 2, both, errors, &message)) == 0) sent++;
    IS(result, -EDQUOT);
    struct taken taken;
    for (int i = 0; i < sent; i++) take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);
    is_empty(a);
    OK(send_bytes(b, full, "y", 1));
    OK(bus1_peer_close(a));
    OK(bus1_peer_close(b));
    OK(bus1_peer_close(c));
}

static void test_close(void)
{
    TEST("P2 N8: closing a peer releases its nodes and handles, and keeps what it sent");
    int a = new_peer(), b = new_peer();
    uint64_t to_a, to_b, node = make_node(a, b, &to_a);
    make_node(b, a, &to_b);
    OK(send_bytes(b, to_a, "last words", 10));
    OK(bus1_peer_close(b));
    struct taken taken;
    take(a, &taken, BUS1_MESSAGE_TYPE_USER, node);
    IS(memcmp(taken.data, "last words", 10), 0);
    int have_node = 0, have_handle = 0;
    for (int i = 0; i < 2; i++) {
        struct pollfd wanted = {.fd = a, .events = POLLIN};
        int result;
        while ((result = receive(a, &taken)) == -EAGAIN) IS(poll(&wanted, 1, 10000), 1);
        OK(result);
        have_handle += taken.message.type == BUS1_MESSAGE_TYPE_HANDLE_RELEASE &&
                       taken.metadata.id == node;
        have_node += taken.message.type == BUS1_MESSAGE_TYPE_NODE_RELEASE &&
                     taken.metadata.id == to_b;
    }
    IS(have_handle, 1);
    IS(have_node, 1);

    TEST("a bare close is noticed by the next call that finds nothing");
    int d = new_peer();
    uint64_t to_d;
    make_node(d, a, &to_d);
    close(d);
    struct pollfd wanted = {.fd = a, .events = POLLIN};
    int result;
    while ((result = receive(a, &taken)) == -EAGAIN) IS(poll(&wanted, 1, 10000), 1);
    OK(result);
    IS(taken.message.type, BUS1_MESSAGE_TYPE_NODE_RELEASE);
    IS(taken.metadata.id, to_d);

    TEST("a number that was closed and is something else by now is EOPNOTSUPP");
    int e = new_peer();
    close(e);
    IS(dup2(0, e), e);
    IS(receive(e, &taken), -EOPNOTSUPP);
    close(e);
    OK(bus1_peer_close(a));
}

/* ---- threads ---- */

struct ends {
    int from, to;
    uint64_t handle;
};

static void *work(void *argument)
{
    struct ends *ends = argument;
    for (int i = 0; i < 300; i++) {
        struct bus1_transfer src = {CREATE, BUS1_INVALID}, dst;
        OK(bus1_cmd_transfer(0, ends->from, ends->to, 1, &src, &dst));
        OK(bus1_cmd_release(ends->to, 1, &dst.id));
        OK(bus1_cmd_release(ends->from, 1, &src.id));
        int sent = send_bytes(ends->from, ends->handle, "x", 1);
        if (sent != -EDQUOT) OK(sent);
        struct taken taken;
        int got = receive(ends->to, &taken);
        if (got != -EAGAIN) OK(got);
    }
    return NULL;
}

static void test_threads(void)
{
    TEST("threads may share peers, and transfer between them in both directions");
    int a = new_peer(), b = new_peer();
    struct ends there = {a, b, 0}, back = {b, a, 0};
    make_node(b, a, &there.handle);
    make_node(a, b, &back.handle);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) OK(pthread_create(&threads[i], NULL, work, i % 2 ? &there : &back));
    for (int i = 0; i < 4; i++) OK(pthread_join(threads[i], NULL));
    OK(bus1_peer_close(a));
    OK(bus1_peer_close(b));
}

int main(void)
{
    alarm(120);
    test_descriptors();
    test_transfer();
    test_release();
    test_send();
    test_transfers_in_messages();
    test_receive();
    test_quota();
    test_failed_transfer();
    test_threads();
    test_close();
    puts("bus1(7): passed");
    return 0;
}
