#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bus1_sys_socket.h"

int bus1_sys_directory_open(const char *path, bool is_private, uint32_t private_uid, int *fd_out)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (is_private ? O_NOFOLLOW : 0));
    if (fd < 0 && errno == ENOENT && is_private) {
        /* Somebody else may make it meanwhile: who made it is told by the check below. */
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return -errno;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    }
    if (fd < 0)
        return -errno;
    int error = fstat(fd, &status) != 0 ? -errno : 0;
    if (error == 0 && is_private &&
        (status.st_uid != private_uid || (status.st_mode & 07777) != 0700))
        error = -EPERM;
    if (error == 0 && (status.st_mode & S_IWOTH) != 0 && (status.st_mode & S_ISVTX) == 0)
        error = -EPERM;
    if (error != 0) {
        close(fd);
        return error;
    }
    *fd_out = fd;
    return 0;
}

int bus1_sys_directory_owner(int fd, uint32_t *uid_out, bool *is_only_his_out)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return -errno;
    *uid_out = status.st_uid;
    *is_only_his_out = (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
    return 0;
}

int bus1_sys_lock_take(int directory_fd, const char *name, int *fd_out)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        int fd = openat(directory_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
            return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            int error = -errno;
            close(fd);
            return error;
        }
        /* A broker that exits removes the file before it lets go of the lock: then what we hold has
         * no name any more, and somebody else may hold its successor. */
        struct stat held, named;
        if (fstat(fd, &held) == 0 &&
            fstatat(directory_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
            held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
            *fd_out = fd;
            return 0;
        }
        close(fd);
    }
    return -EWOULDBLOCK;
}

int bus1_sys_directory_watch(int directory_fd, int *watch_fd_out)
{
    char path[32];
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0)
        return -errno;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", directory_fd);
    /* A socket that is ready is renamed to its place; a lock that is given back was closed. */
    if (inotify_add_watch(fd, path, IN_MOVED_TO | IN_DELETE | IN_CLOSE_WRITE) < 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    *watch_fd_out = fd;
    return 0;
}

int bus1_sys_wait_readable(int fd, int timeout_ms)
{
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    int count = poll(&wanted, 1, timeout_ms);
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    return count;
}

void bus1_sys_discard(int fd)
{
    char bytes[4096];
    while (read(fd, bytes, sizeof(bytes)) > 0) {
    }
}

int bus1_sys_reopen_read_only(int fd, int *fd_out)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int reopened = open(path, O_RDONLY | O_CLOEXEC);
    if (reopened < 0)
        return -errno;
    *fd_out = reopened;
    return 0;
}

uint64_t bus1_sys_descriptor_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 0;
}
