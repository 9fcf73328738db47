/*
 * loop_uring.c - accept, recvmsg, poll and timeout in one io_uring.
 *
 * Each thing asked for is an operation of its own, which lives until the kernel has reported its
 * last completion: it may write into the operation's buffer until then.
 */
#include <errno.h>

#include "loop_internal.h"

#if defined(BUS1_WITH_URING) && __has_include(<liburing.h>)
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define ENTRIES 256

struct operation {
    struct operation *next, *previous; /* of all */
    struct operation *next_idle;       /* of those to be given to the kernel */
    uint64_t token;
    int fd;
    uint32_t kind;
    bool writable;
    bool in_flight; /* the kernel has it */
    bool idle;      /* it waits to be given to the kernel */
    bool forgotten;
    struct loop_packet packet[]; /* one, if it receives */
};

struct uring_loop {
    struct bus1_sys_loop loop;
    struct io_uring ring;
    struct operation *all;
    struct operation *idle;
};

static struct io_uring_sqe *entry(struct uring_loop *loop)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
    if (sqe == NULL) {
        (void)io_uring_submit(&loop->ring);
        sqe = io_uring_get_sqe(&loop->ring);
    }
    return sqe;
}

static void make_idle(struct uring_loop *loop, struct operation *operation)
{
    operation->idle = true;
    operation->next_idle = loop->idle;
    loop->idle = operation;
}

static void operation_free(struct uring_loop *loop, struct operation *operation)
{
    if (operation->previous != NULL)
        operation->previous->next = operation->next;
    else
        loop->all = operation->next;
    if (operation->next != NULL)
        operation->next->previous = operation->previous;
    free(operation);
}

/* Gives an operation to the kernel. False when it takes no more now. */
static bool operation_start(struct uring_loop *loop, struct operation *operation)
{
    struct io_uring_sqe *sqe = entry(loop);
    if (sqe == NULL)
        return false;
    switch (operation->kind) {
    case BUS1_SYS_EVENT_ACCEPTED:
        /* Not an accept in the kernel: of those that wait for the same socket, it wakes one, and
         * that may be the ring of a broker that was killed just now, whose place this one has
         * taken. A poll is woken in any case, and looks when it begins. */
        io_uring_prep_poll_add(sqe, operation->fd, POLLIN);
        break;
    case BUS1_SYS_EVENT_PACKET:
        loop_packet_reset(operation->packet);
        io_uring_prep_recvmsg(sqe, operation->fd, &operation->packet->message,
                              LOOP_RECEIVE_FLAGS & ~MSG_DONTWAIT);
        break;
    default:
        io_uring_prep_poll_add(sqe, operation->fd, operation->writable ? POLLOUT : POLLIN);
        break;
    }
    io_uring_sqe_set_data(sqe, operation);
    operation->in_flight = true;
    return true;
}

static void start_idle(struct uring_loop *loop)
{
    while (loop->idle != NULL) {
        struct operation *operation = loop->idle;
        if (operation->forgotten) {
            loop->idle = operation->next_idle;
            operation_free(loop, operation);
        } else if (operation_start(loop, operation)) {
            loop->idle = operation->next_idle;
            operation->idle = false;
        } else {
            return;
        }
    }
}

static int uring_watch(struct bus1_sys_loop *base, int fd, uint32_t kind, bool writable,
                       uint64_t token)
{
    struct uring_loop *loop = (struct uring_loop *)base;
    size_t packet = kind == BUS1_SYS_EVENT_PACKET ? sizeof(struct loop_packet) : 0;
    struct operation *operation = calloc(1, sizeof(*operation) + packet);
    if (operation == NULL)
        return -ENOMEM;
    operation->token = token;
    operation->fd = fd;
    operation->kind = kind;
    operation->writable = writable;
    operation->next = loop->all;
    if (loop->all != NULL)
        loop->all->previous = operation;
    loop->all = operation;
    make_idle(loop, operation);
    return 0;
}

static void operation_forget(struct uring_loop *loop, struct operation *operation)
{
    operation->forgotten = true;
    if (!operation->in_flight)
        return; /* freed by start_idle */
    struct io_uring_sqe *sqe = entry(loop);
    if (sqe == NULL)
        return; /* it is ignored when it completes */
    io_uring_prep_cancel(sqe, operation, 0);
    io_uring_sqe_set_data(sqe, NULL);
    /* Now, because the caller is about to close the descriptor, and the operation would keep what
     * is behind it open. */
    (void)io_uring_submit(&loop->ring);
}

static void uring_forget(struct bus1_sys_loop *base, int fd, uint64_t token)
{
    struct uring_loop *loop = (struct uring_loop *)base;
    struct operation *operation = loop->all;
    while (operation != NULL &&
           (operation->fd != fd || operation->token != token || operation->forgotten))
        operation = operation->next;
    if (operation != NULL)
        operation_forget(loop, operation);
}

/* What to do with a completion of something nobody asks for any more. */
static void discard(struct operation *operation, int result)
{
    if (operation->kind == BUS1_SYS_EVENT_PACKET)
        loop_packet_discard(operation->packet, result);
}

/* Turns a completion into an event. False: there is nothing to report. */
static bool complete(struct uring_loop *loop, struct operation *operation, int result, bool more,
                     struct bus1_sys_event *event_out)
{
    operation->in_flight = more;
    if (operation->forgotten) {
        discard(operation, result);
        if (!more)
            operation_free(loop, operation);
        return false;
    }
    if (operation->kind == BUS1_SYS_EVENT_ACCEPTED && result >= 0) {
        result = accept4(operation->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (result < 0)
            result = -errno;
    }
    bool again = result == -EAGAIN || result == -EINTR || result == -ECONNABORTED;
    bool ends = operation->kind == BUS1_SYS_EVENT_READY ||
                (operation->kind == BUS1_SYS_EVENT_PACKET && result <= 0);
    if (!again) {
        *event_out = (struct bus1_sys_event){
            .token = operation->token, .kind = operation->kind, .result = result};
        if (operation->kind == BUS1_SYS_EVENT_PACKET)
            loop_packet_report(operation->packet, result, event_out);
    }
    /* Given to the kernel again by the next call: the caller reads the buffer until then. Freed
     * there, too, when it has come to its end. */
    if (!more) {
        operation->forgotten = ends && !again;
        make_idle(loop, operation);
    }
    return !again;
}

static int uring_next(struct bus1_sys_loop *base, struct bus1_sys_event *event_out, int timeout_ms)
{
    struct uring_loop *loop = (struct uring_loop *)base;
    struct io_uring_cqe *cqe = NULL;
    for (;;) {
        start_idle(loop);
        (void)io_uring_submit(&loop->ring);
        if (io_uring_peek_cqe(&loop->ring, &cqe) != 0 || cqe == NULL) {
            struct __kernel_timespec timeout = {.tv_sec = timeout_ms / 1000,
                                                .tv_nsec = timeout_ms % 1000 * 1000000LL};
            int error = io_uring_wait_cqes(&loop->ring, &cqe, 1, timeout_ms < 0 ? NULL : &timeout,
                                           NULL);
            if (error == -ETIME || error == -EINTR)
                return 0;
            if (error != 0)
                return error;
        }
        struct operation *operation = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        bool more = (cqe->flags & IORING_CQE_F_MORE) != 0;
        io_uring_cqe_seen(&loop->ring, cqe);
        if (operation != NULL && complete(loop, operation, result, more, event_out))
            return 1;
    }
}

static void uring_destroy(struct bus1_sys_loop *base)
{
    struct uring_loop *loop = (struct uring_loop *)base;
    struct bus1_sys_event event;
    for (struct operation *operation = loop->all; operation != NULL; operation = operation->next)
        if (!operation->forgotten)
            operation_forget(loop, operation);
    /* The kernel may write into their buffers until it has said that each has ended. */
    for (start_idle(loop); loop->all != NULL; start_idle(loop)) {
        struct __kernel_timespec patience = {.tv_sec = 1};
        struct io_uring_cqe *cqe = NULL;
        (void)io_uring_submit(&loop->ring);
        if (io_uring_wait_cqe_timeout(&loop->ring, &cqe, &patience) != 0)
            break; /* better to lose the memory than to have it written to */
        struct operation *operation = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        bool more = (cqe->flags & IORING_CQE_F_MORE) != 0;
        io_uring_cqe_seen(&loop->ring, cqe);
        if (operation != NULL)
            (void)complete(loop, operation, result, more, &event);
    }
    bus1_sys_close_on_fork(loop->ring.ring_fd, false);
    io_uring_queue_exit(&loop->ring);
    free(loop);
}

static const struct loop_operations uring_operations = {
    .name = "io_uring",
    .watch = uring_watch,
    .forget = uring_forget,
    .next = uring_next,
    .destroy = uring_destroy,
};

int loop_uring_create(struct bus1_sys_loop **loop_out)
{
    struct uring_loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL)
        return -ENOMEM;
    loop->loop.operations = &uring_operations;
    int error = io_uring_queue_init(ENTRIES, &loop->ring, 0);
    if (error != 0) {
        free(loop);
        return error;
    }
    /* Without it a timeout would be an operation of its own, which these few lines do not
     * expect. */
    if ((loop->ring.features & IORING_FEAT_EXT_ARG) == 0) {
        io_uring_queue_exit(&loop->ring);
        free(loop);
        return -ENOSYS;
    }
    bus1_sys_close_on_fork(loop->ring.ring_fd, true);
    *loop_out = &loop->loop;
    return 0;
}

#else

int loop_uring_create(struct bus1_sys_loop **loop_out)
{
    (void)loop_out;
    return -ENOSYS;
}

#endif
