/*
 * bus1_sys_process.h - processes, threads, and what they wait on.
 *
 * Results are 0 or a count, or -errno.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

int bus1_sys_pidfd_open(int32_t pid, int *pidfd_out);
/* The same number for two pidfds of one process, never reused while the machine is up; 0 where the
 * kernel does not tell (before 6.9): then each pidfd counts as a process of its own. */
uint64_t bus1_sys_pidfd_identity(int pidfd);
/* Waits until the process is gone: 1; 0 when timeout_ms (-1: for ever) is over first, or a signal
 * came. */
int bus1_sys_pidfd_wait(int pidfd, int timeout_ms);
/* Its exit status as waitpid tells it, once it is gone; the child is reaped. */
int bus1_sys_child_reap(int32_t pid, int *status_out);
int bus1_sys_pidfd_signal(int pidfd, int signal);

/*
 * Starts a program. arguments and environment end with NULL. Of the caller's descriptors the child
 * gets 0, 1, 2 and fds[i] as number 3 + i, nothing else that is close-on-exec. A path without a
 * slash is not searched for.
 */
int bus1_sys_spawn(const char *path, char *const *arguments, char *const *environment,
                   const int *fds, int fd_count, int32_t *pid_out);

/* Starts a detached thread with all signals blocked, that calls body(context). The name, a literal
 * of up to 15 characters, shows in /proc. */
int bus1_sys_thread_start(const char *name, void (*body)(void *), void *context);
int bus1_sys_thread_pin(int cpu);

/* Bytes from the kernel's random generator. */
int bus1_sys_random(void *bytes, size_t byte_count);
/* The user ID that stands for all that have no number in this user namespace. */
uint32_t bus1_sys_overflow_uid(void);

/* A shared futex word: wakes all who wait on it. */
void bus1_sys_futex_wake_all(uint32_t *word);

/* An event counter, non-blocking. */
int bus1_sys_event_create(int *fd_out);
void bus1_sys_event_signal(int fd);
/* Not readable any more, until it is signalled again. Never waits. */
void bus1_sys_event_drain(int fd);

/* The kernel's words for an error number. Never NULL. */
const char *bus1_sys_errno_text(int number);

/* Asks for body(context) at the orderly exit of this process (not of a fork of it). */
int bus1_sys_at_exit(void (*body)(void));
