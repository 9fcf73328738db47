/*
 * bus1_sys_socket.h - packets with descriptors between two processes of one machine.
 *
 * Guarantees:
 *   1. Every descriptor that comes out of here is close-on-exec, and owned by the caller.
 *   2. A message is received whole with all its descriptors, or stays in the socket.
 *   3. Results are 0 or a count, or -errno.
 *
 * NOTE - paths are resolved under a directory descriptor through /proc/self/fd, so that the
 * directory that was checked is the one that is used, and its path may be longer than sun_path.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define BUS1_SYS_DESCRIPTORS_MAX 8

/* What the kernel vouches for about the other end of a connection. */
struct bus1_sys_credentials {
    uint32_t uid, gid;
    int32_t pid;
};

/* A socket under directory_fd, bound to a passing name and renamed to `name` once it listens, with
 * mode 0666: whoever may pass through the directory may connect. Replaces a stale one. */
int bus1_sys_socket_listen(int directory_fd, const char *name, int *fd_out);
/*
 * Makes a listening socket that somebody else had made and bound, and goes on owning, this
 * process's too: the kernel shows this one's account to who connects from here on. -EINVAL: it is
 * no socket of packets that listens. -EADDRNOTAVAIL: `name` under directory_fd does not lead to it.
 */
int bus1_sys_socket_adopt(int fd, int directory_fd, const char *name);
/* Never waits: -EAGAIN when the other's queue of connections is full. */
int bus1_sys_socket_connect(int directory_fd, const char *name, int *fd_out);
int bus1_sys_socket_accept(int fd, int *fd_out);
/* Two ends of one connection. */
int bus1_sys_socket_pair(int fds_out[2]);

int bus1_sys_socket_credentials(int fd, struct bus1_sys_credentials *credentials_out);
/*
 * The process at the other end, as a pidfd. Where the kernel does not know SO_PEERPIDFD, the pidfd
 * is opened by the number in `credentials`, and then checked to be a process of the same user, or
 * else -ESRCH.
 */
int bus1_sys_socket_pidfd(int fd, const struct bus1_sys_credentials *credentials, int *pidfd_out);

/* Sends one packet, never waits: -EAGAIN when the other's buffer is full. 0 when sent. */
int bus1_sys_socket_send(int fd, const void *bytes, size_t byte_count, const int *fds,
                         int fd_count);
/*
 * Receives one packet, never waits. Returns its length, 0 at the connection's end, -EAGAIN when
 * there is none; -EMSGSIZE when it is longer than capacity, or bears more descriptors than fds_out
 * holds (both are consumed, what came is closed); -EMFILE when the table of descriptors is full:
 * the packet then stays in the socket with all of its descriptors.
 */
ssize_t bus1_sys_socket_receive(int fd, void *bytes, size_t capacity,
                                int fds_out[BUS1_SYS_DESCRIPTORS_MAX], int *fd_count_out);

/* Lets the other end leave no more than a handful of packets unreceived: their descriptors count
 * against the sender's user, and closing this end does not take them back. */
void bus1_sys_socket_narrow(int fd);

/* Opens a directory for the two functions above. `private_uid`: refuse (-EPERM) unless that user
 * owns it, with mode 0700. Otherwise refuse (-EPERM) if all may write into it and it is not
 * sticky. */
int bus1_sys_directory_open(const char *path, bool is_private, uint32_t private_uid, int *fd_out);
/* Who owns it, and whether nobody else can write to it. */
int bus1_sys_directory_owner(int fd, uint32_t *uid_out, bool *is_only_his_out);

/* Takes the lock file `name`, made if need be, and holds it as long as the descriptor (and the
 * file's name) lives. -EWOULDBLOCK when somebody else holds it. */
int bus1_sys_lock_take(int directory_fd, const char *name, int *fd_out);
/* Waits until something has changed in the directory, for at most timeout_ms, or until readiness of
 * watch_fd. bus1_sys_directory_watch must have been called before the state was looked at. */
int bus1_sys_directory_watch(int directory_fd, int *watch_fd_out);
/* Waits until fd is readable: 1, or 0 when the time is over (-1: never). */
int bus1_sys_wait_readable(int fd, int timeout_ms);
/* Reads and forgets what is in fd. */
void bus1_sys_discard(int fd);

/* Another descriptor of the same memory, through which it can be mapped for reading only. */
int bus1_sys_reopen_read_only(int fd, int *fd_out);
/* How many descriptors this process may open. */
uint64_t bus1_sys_descriptor_limit(void);

/* Closed in a child of this process when it forks: a lock or listening socket that lives on in the
 * child would outlive the broker. */
void bus1_sys_close_on_fork(int fd, bool close_it);
