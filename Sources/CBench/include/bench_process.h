/*
 * bench_process.h - what the coordinator and its workers need of the kernel.
 *
 * Functions return 0 or a value, or -errno.
 */
#pragma once

#include <sched.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_CONTROL_FD 3 /* of a worker: its socket to the coordinator */
#define BENCH_STAGE_FD 4   /* of a worker: the memfd of struct bench_stage */
#define BENCH_FDS_MAX 64u  /* passed with one order */

/* Starts this program again as `arguments` say, with control and stage at their places and nothing
 * else but standard streams; standard input is empty. Returns the process ID. */
int bench_worker_spawn(const char *path, char *const arguments[], int control_fd, int stage_fd);

/* Starts a program from the path without arguments, silent. Returns the process ID. */
int bench_daemon_spawn(const char *program);
/* Asks it to end, and waits. */
void bench_daemon_end(pid_t pid);

/* In a worker: dies with its parent, and leaves Ctrl-C to it. */
int bench_worker_settle(pid_t parent);
/* Pins the calling process to one core. */
int bench_pin(int core);
/* For a library that starts threads, which inherit the pinning: unpin, start, pin again. */
int bench_unpin(cpu_set_t *before);
int bench_repin(const cpu_set_t *before);
/* The cores that this process may run on; writes up to `room`, returns how many there are. */
int bench_cores(int *cores, int room);

/* A pair of connected sockets that keep messages apart. */
int bench_control_pair(int ends[2]);
/* One message with descriptors. Blocks. A message of 0 bytes can't be sent. */
int bench_control_send(int fd, const void *bytes, uint64_t length, const int *fds,
                       uint32_t fd_count);
/* Returns the length, 0 at the end. The caller owns the descriptors that came. */
int64_t bench_control_receive(int fd, void *bytes, uint64_t room, int *fds, uint32_t *fd_count);
/* Waits until fd is readable: 1; 0 after timeout_ms; -EINTR when Ctrl-C came. */
int bench_control_wait(int fd, int timeout_ms);

/* Ctrl-C and SIGTERM are noted instead of ending the process. */
void bench_interrupt_catch(void);
int bench_interrupted(void);

/* Standard output is flushed at each line's end, also into a pipe. */
void bench_output_by_lines(void);
/* Minor and major page faults of this process so far. */
uint64_t bench_page_faults(void);
/* How often another process took this one's core so far. */
uint64_t bench_preemptions(void);
/* Ends a child of this process and waits for it. Returns its exit status, or 128 + signal. */
int bench_child_end(pid_t pid, int force);
