#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench_wire.h"

static void close_link(struct bench_link *link)
{
    int fds[4] = {link->sender_send, link->sender_receive, link->receiver_send,
                  link->receiver_receive};
    for (int i = 0; i < 4; i++) {
        bool seen = fds[i] < 0;
        for (int j = 0; j < i; j++)
            seen = seen || fds[j] == fds[i];
        if (!seen)
            close(fds[i]);
    }
}

static int make_pipes(uint64_t buffer_bytes, struct bench_link *link)
{
    int there[2], back[2];
    if (pipe2(there, O_CLOEXEC) < 0)
        return -errno;
    if (pipe2(back, O_CLOEXEC) < 0) {
        int error = errno;
        close(there[0]);
        close(there[1]);
        return -error;
    }
    *link = (struct bench_link){.sender_send = there[1],
                                .receiver_receive = there[0],
                                .receiver_send = back[1],
                                .sender_receive = back[0]};
    if (buffer_bytes != 0 && (fcntl(there[1], F_SETPIPE_SZ, (int)buffer_bytes) < 0 ||
                              fcntl(back[1], F_SETPIPE_SZ, (int)buffer_bytes) < 0))
        return -errno;
    return 0;
}

static int set_buffers(int fd, uint64_t buffer_bytes)
{
    int bytes = (int)buffer_bytes;
    if (bytes == 0)
        return 0;
    /* The forced form needs a privilege and goes beyond the system's limit. */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0 &&
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0 &&
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes) < 0)
        return -errno;
    return 0;
}

static int finish_sockets(const int ends[2], uint64_t buffer_bytes, struct bench_link *link)
{
    *link = (struct bench_link){.sender_send = ends[0],
                                .sender_receive = ends[0],
                                .receiver_send = ends[1],
                                .receiver_receive = ends[1]};
    int error = set_buffers(ends[0], buffer_bytes);
    return error != 0 ? error : set_buffers(ends[1], buffer_bytes);
}

static int make_tcp(uint64_t buffer_bytes, struct bench_link *link)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int ends[2] = {-1, -1}, error = 0, one = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        return -errno;
    if (bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) < 0 ||
        (ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0 ||
        connect(ends[0], (struct sockaddr *)&address, length) < 0 ||
        (ends[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0 ||
        setsockopt(ends[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0 ||
        setsockopt(ends[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
        error = -errno;
    close(listener);
    int finished = finish_sockets(ends, error == 0 ? buffer_bytes : 0, link);
    return error != 0 ? error : finished;
}

/* ---- POSIX message queues -------------------------------------------------------------------- */

#define QUEUE_DEPTH 10 /* the usual limit without privileges */

static uint64_t read_number(const char *path, uint64_t otherwise)
{
    unsigned long long value = otherwise;
    FILE *file = fopen(path, "re");
    if (file != NULL) {
        if (fscanf(file, "%llu", &value) != 1)
            value = otherwise;
        fclose(file);
    }
    return value;
}

uint64_t bench_queue_message_max(void)
{
    return read_number("/proc/sys/fs/mqueue/msgsize_max", 8192);
}

/* One queue, without its name: on Linux it is a descriptor that can be passed on. */
static int open_queue(uint64_t max_message)
{
    static unsigned made;
    char name[64];
    snprintf(name, sizeof name, "/bus1-bench-%d-%u", (int)getpid(), made++);
    struct mq_attr attributes = {.mq_maxmsg = QUEUE_DEPTH, .mq_msgsize = (long)max_message};
    int fd = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, &attributes);
    if (fd < 0)
        return -errno;
    mq_unlink(name);
    return fd;
}

static int make_queues(uint64_t max_message, struct bench_link *link)
{
    int there = open_queue(max_message);
    if (there < 0)
        return there;
    int back = open_queue(max_message);
    if (back < 0) {
        close(there);
        return back;
    }
    *link = (struct bench_link){.sender_send = there,
                                .receiver_receive = there,
                                .receiver_send = back,
                                .sender_receive = back};
    return 0;
}

int bench_link_make(uint32_t kind, uint64_t buffer_bytes, uint64_t max_message,
                    struct bench_link *link)
{
    int error, ends[2];
    *link = (struct bench_link){-1, -1, -1, -1};
    switch (kind) {
    case BENCH_WIRE_PIPE:
        error = make_pipes(buffer_bytes, link);
        break;
    case BENCH_WIRE_STREAM:
    case BENCH_WIRE_SEQPACKET:
        if (socketpair(AF_UNIX,
                       (kind == BENCH_WIRE_STREAM ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC, 0,
                       ends) < 0)
            return -errno;
        error = finish_sockets(ends, buffer_bytes, link);
        break;
    case BENCH_WIRE_QUEUE:
        error = make_queues(max_message, link);
        break;
    case BENCH_WIRE_TCP:
        error = make_tcp(buffer_bytes, link);
        break;
    default:
        return -EINVAL;
    }
    if (error != 0)
        close_link(link);
    return error;
}
