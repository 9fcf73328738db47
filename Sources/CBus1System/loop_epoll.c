/* loop_epoll.c - readiness from epoll; what is ready is done here, so that both loops report the
 * same. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "loop_internal.h"

#define BATCH 64

/* What is asked for of one descriptor. kind 0: nothing. */
struct interest {
    uint64_t read_token; /* of accept or receive */
    uint64_t ready_token;
    uint32_t read_kind;
    bool ready, ready_writable, added;
};

struct epoll_loop {
    struct bus1_sys_loop loop;
    int epoll;
    struct interest *interests; /* by descriptor */
    int interest_count;
    struct epoll_event batch[BATCH]; /* what the last epoll_wait reported */
    int batch_next, batch_count;
    struct loop_packet packet;
};

static struct interest *interest_of(struct epoll_loop *loop, int fd)
{
    if (fd < loop->interest_count)
        return &loop->interests[fd];
    int count = loop->interest_count == 0 ? 64 : loop->interest_count;
    while (count <= fd)
        count *= 2;
    struct interest *grown = realloc(loop->interests, (size_t)count * sizeof(*grown));
    if (grown == NULL)
        return NULL;
    memset(grown + loop->interest_count, 0,
           (size_t)(count - loop->interest_count) * sizeof(*grown));
    loop->interests = grown;
    loop->interest_count = count;
    return &grown[fd];
}

/* Tells epoll what is wanted of fd now. */
static int interest_apply(struct epoll_loop *loop, int fd, struct interest *interest)
{
    uint32_t events = 0;
    if (interest->read_kind != 0 || (interest->ready && !interest->ready_writable))
        events |= EPOLLIN;
    if (interest->ready && interest->ready_writable)
        events |= EPOLLOUT;
    struct epoll_event event = {.events = events, .data.fd = fd};
    int operation = events == 0 ? EPOLL_CTL_DEL : interest->added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (events == 0 && !interest->added)
        return 0;
    interest->added = events != 0;
    return epoll_ctl(loop->epoll, operation, fd, &event) == 0 ? 0 : -errno;
}

static int epoll_watch(struct bus1_sys_loop *base, int fd, uint32_t kind, bool writable,
                       uint64_t token)
{
    struct epoll_loop *loop = (struct epoll_loop *)base;
    if (fd < 0)
        return -EBADF;
    struct interest *interest = interest_of(loop, fd);
    if (interest == NULL)
        return -ENOMEM;
    struct interest before = *interest;
    if (kind == BUS1_SYS_EVENT_READY) {
        interest->ready = true;
        interest->ready_writable = writable;
        interest->ready_token = token;
    } else {
        interest->read_kind = kind;
        interest->read_token = token;
    }
    int error = interest_apply(loop, fd, interest);
    if (error != 0)
        *interest = before;
    return error;
}

static void epoll_forget(struct bus1_sys_loop *base, int fd, uint64_t token)
{
    struct epoll_loop *loop = (struct epoll_loop *)base;
    if (fd < 0 || fd >= loop->interest_count)
        return;
    struct interest *interest = &loop->interests[fd];
    if (interest->read_kind != 0 && interest->read_token == token)
        interest->read_kind = 0;
    else if (interest->ready && interest->ready_token == token)
        interest->ready = false;
    else
        return;
    (void)interest_apply(loop, fd, interest);
}

static bool report_ready(struct epoll_loop *loop, int fd, struct interest *interest,
                         struct bus1_sys_event *event_out)
{
    *event_out = (struct bus1_sys_event){.token = interest->ready_token,
                                         .kind = BUS1_SYS_EVENT_READY};
    interest->ready = false;
    (void)interest_apply(loop, fd, interest);
    return true;
}

/* Does what is wanted of a descriptor that is ready. False: it was not ready after all. */
static bool serve(struct epoll_loop *loop, struct epoll_event *ready,
                  struct bus1_sys_event *event_out)
{
    int fd = ready->data.fd;
    struct interest *interest = &loop->interests[fd];
    uint32_t ended = ready->events & (EPOLLERR | EPOLLHUP);
    int result;

    if (interest->ready &&
        ((ready->events & (interest->ready_writable ? EPOLLOUT : EPOLLIN)) != 0 || ended != 0))
        return report_ready(loop, fd, interest, event_out);
    if ((ready->events & EPOLLIN) == 0 && ended == 0)
        return false;
    switch (interest->read_kind) {
    case BUS1_SYS_EVENT_ACCEPTED: {
        int accepted = -1;
        result = bus1_sys_socket_accept(fd, &accepted);
        if (result == -EAGAIN || result == -ECONNABORTED)
            return false;
        *event_out = (struct bus1_sys_event){.token = interest->read_token,
                                             .kind = BUS1_SYS_EVENT_ACCEPTED,
                                             .result = result == 0 ? accepted : result};
        return true;
    }
    case BUS1_SYS_EVENT_PACKET: {
        loop_packet_reset(&loop->packet);
        ssize_t received = recvmsg(fd, &loop->packet.message, LOOP_RECEIVE_FLAGS);
        result = received < 0 ? -errno : (int)received;
        if (result == -EAGAIN || result == -EINTR)
            return false;
        event_out->token = interest->read_token;
        loop_packet_report(&loop->packet, result, event_out);
        if (result <= 0) {
            interest->read_kind = 0;
            (void)interest_apply(loop, fd, interest);
        }
        return true;
    }
    default:
        return false;
    }
}

static int epoll_next(struct bus1_sys_loop *base, struct bus1_sys_event *event_out, int timeout_ms)
{
    struct epoll_loop *loop = (struct epoll_loop *)base;
    for (int round = 0; round < 2; round++) {
        while (loop->batch_next < loop->batch_count)
            if (serve(loop, &loop->batch[loop->batch_next++], event_out))
                return 1;
        if (round == 1)
            break;
        loop->batch_next = loop->batch_count = 0;
        int count = epoll_wait(loop->epoll, loop->batch, BATCH, timeout_ms);
        if (count < 0)
            return errno == EINTR ? 0 : -errno;
        loop->batch_count = count;
    }
    return 0;
}

static void epoll_destroy(struct bus1_sys_loop *base)
{
    struct epoll_loop *loop = (struct epoll_loop *)base;
    bus1_sys_close_on_fork(loop->epoll, false);
    close(loop->epoll);
    free(loop->interests);
    free(loop);
}

static const struct loop_operations epoll_operations = {
    .name = "epoll",
    .watch = epoll_watch,
    .forget = epoll_forget,
    .next = epoll_next,
    .destroy = epoll_destroy,
};

int loop_epoll_create(struct bus1_sys_loop **loop_out)
{
    struct epoll_loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL)
        return -ENOMEM;
    loop->loop.operations = &epoll_operations;
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll < 0) {
        int error = -errno;
        free(loop);
        return error;
    }
    bus1_sys_close_on_fork(loop->epoll, true);
    *loop_out = &loop->loop;
    return 0;
}
