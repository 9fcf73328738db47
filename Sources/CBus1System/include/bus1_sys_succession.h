/*
 * bus1_sys_succession.h - what an heir asks of the kernel before it takes a broker's place.
 *
 * Results are 0 or a count, or -errno.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/*
 * Whether a process could harm this one anyway, so that it may be trusted with what this one holds:
 * it has the same users, the same namespaces, at least the capabilities, and no more filters of
 * system calls. 1, or 0 where it has not, or does not let itself be looked at.
 *
 * NOTE - a number can pass to another process: check with a pidfd afterwards that this one lives.
 */
int bus1_sys_process_is_like_own(int32_t pid);
/* The kernel's letter for what a process does: T stopped, t traced, Z a zombie. -ESRCH: none. */
int bus1_sys_process_state(int32_t pid);

/* Only its owner, which is this user, can open the file anew for writing. */
int bus1_sys_make_private(int fd);
/* A listening socket shows its new connections the credentials of who last called listen. */
int bus1_sys_socket_listen_again(int fd);

/* Waits until one of some descriptors is readable, or its other end is closed, for at most
 * timeout_ms. A bit for each; those below 0 are passed over. */
#define BUS1_SYS_WAIT_MAX 8
int bus1_sys_wait_any(const int *fds, int count, int timeout_ms);
/* Waits until fd can be written to: 1, or 0 when the time is over. */
int bus1_sys_wait_writable(int fd, int timeout_ms);
