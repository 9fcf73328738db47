/*
 * bus1_sys_event.h - one descriptor that stands for many, for use in somebody else's event loop.
 *
 * Guarantees:
 *   1. Ringing a doorbell never waits, whatever others do with their ends.
 *   2. Who holds the ringing end can ring in vain, or keep those who share it from ringing. The
 *      listening end never blocks, and keeps nothing that was put into it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* An epoll descriptor, or -errno. */
int bus1_sys_epoll_create(void);
/* What is read when it is ready. */
enum bus1_sys_edge {
    BUS1_SYS_EDGE_KEPT, /* nothing: somebody else reads it */
    BUS1_SYS_EDGE_TIMER,
    BUS1_SYS_EDGE_DOORBELL,
};
/* Watches fd for reading, edge-triggered. */
int bus1_sys_epoll_add_edge(int epoll_fd, int fd, enum bus1_sys_edge edge);
/* Takes note of everything that is ready, and reads timers and doorbells, which must be the
 * caller's alone: the descriptor is not readable until something new comes. */
void bus1_sys_epoll_drain(int epoll_fd);
/* Sleeps until something that is watched is ready, or until_ns (CLOCK_MONOTONIC), and drains. */
void bus1_sys_epoll_sleep(int epoll_fd, uint64_t until_ns);
/* A timer that becomes readable each period_ms, if it is drained in between; or -errno. */
int bus1_sys_timer_create(int period_ms);
/* Has such a timer become readable at until_ns (CLOCK_MONOTONIC) next, then each period_ms. */
void bus1_sys_timer_hasten(int timer_fd, uint64_t until_ns, int period_ms);

/* A timer that is not set. */
int bus1_sys_alarm_create(int *fd_out);
/* Makes it readable from at_ns (CLOCK_MONOTONIC) on, and not before; UINT64_MAX: never. */
void bus1_sys_alarm_set(int fd, uint64_t at_ns);

/* A pair of datagram sockets. The listening end stays with who sleeps; copies of the ringing end go
 * to those who wake it. */
int bus1_sys_doorbell_create(int *listening_out, int *ringing_out);
/* True for what may be a ringing end: what a stranger hands out instead could do more. */
bool bus1_sys_doorbell_is_one(int fd);
/* Makes the listening end readable. */
void bus1_sys_doorbell_ring(int ringing_fd);
