/*
 * bus1_sys_loop.h - one thread waits for many things: connections, packets, readiness, time.
 *
 * Two implementations behind one interface: io_uring through liburing, when compiled with
 * BUS1_WITH_URING and permitted by the kernel, epoll otherwise. What is reported is the same.
 *
 * Guarantees:
 *   1. After bus1_sys_loop_forget(token) no event with that token is reported.
 *   2. What has been asked for stays asked for until it is forgotten, or reported its end (a
 *      negative result, or a packet of length 0).
 *   3. Bytes and descriptors of an event belong to the caller: the bytes until the next call, the
 *      descriptors for good.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus1_sys_socket.h"

enum bus1_sys_event_kind {
    BUS1_SYS_EVENT_ACCEPTED = 1, /* result: a descriptor, or -errno */
    BUS1_SYS_EVENT_PACKET = 2,   /* result: its length, 0 at the end, or -errno */
    BUS1_SYS_EVENT_READY = 3,    /* once: fd is readable or, as asked, writable */
};

struct bus1_sys_event {
    uint64_t token;
    uint32_t kind; /* enum bus1_sys_event_kind */
    int32_t result;
    const uint8_t *bytes;
    int32_t fd_count;
    bool control_truncated; /* some descriptors did not fit into our table: they are lost */
    int32_t fds[BUS1_SYS_DESCRIPTORS_MAX];
};

#define BUS1_SYS_PACKET_BYTES_MAX 1024

struct bus1_sys_loop;

int bus1_sys_loop_create(bool allow_uring, struct bus1_sys_loop **loop_out);
/* Forgets everything; does not close the descriptors that were watched. */
void bus1_sys_loop_destroy(struct bus1_sys_loop *loop);
/* "io_uring" or "epoll". */
const char *bus1_sys_loop_name(const struct bus1_sys_loop *loop);

/* Tokens are the caller's, unique among what is asked for at a time. A descriptor can be asked for
 * once by accept or receive and once by ready at a time, and must be forgotten before it is
 * closed. */
int bus1_sys_loop_accept(struct bus1_sys_loop *loop, int fd, uint64_t token);
int bus1_sys_loop_receive(struct bus1_sys_loop *loop, int fd, uint64_t token);
/* Once; to be asked for anew after it was reported. */
int bus1_sys_loop_ready(struct bus1_sys_loop *loop, int fd, bool writable, uint64_t token);
void bus1_sys_loop_forget(struct bus1_sys_loop *loop, int fd, uint64_t token);

/* Waits for at most timeout_ms (-1: for ever) and reports one event: 1; or 0 when the time was over
 * or a signal came first; or -errno. */
int bus1_sys_loop_next(struct bus1_sys_loop *loop, struct bus1_sys_event *event_out,
                       int timeout_ms);
