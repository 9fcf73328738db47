/* bus1_sys_event.h - one descriptor that stands for many, for use in somebody else's event loop. */
#pragma once

#include <stdint.h>

/* An epoll descriptor, or -errno. */
int bus1_sys_epoll_create(void);
/* Watches fd for reading, edge-triggered. */
int bus1_sys_epoll_add_edge(int epoll_fd, int fd);
/* Takes note of everything that is ready: the descriptor is not readable until something new comes.
 * Reads nothing but the timer, which must be the caller's alone. */
void bus1_sys_epoll_drain(int epoll_fd, int timer_fd);
/* Sleeps until something that is watched is ready, or until_ns (CLOCK_MONOTONIC), and drains. */
void bus1_sys_epoll_sleep(int epoll_fd, int timer_fd, uint64_t until_ns);
/* A timer that becomes readable each period_ms, if it is drained in between; or -errno. */
int bus1_sys_timer_create(int period_ms);
