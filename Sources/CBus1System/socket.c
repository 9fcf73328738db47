#include "bus1_sys_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "bus1_sys_process.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define BUS1_SYS_BACKLOG 4096

/* The address of `name` under directory_fd. */
static int address_make(int directory_fd, const char *name, struct sockaddr_un *address,
                        socklen_t *length_out)
{
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    int length = snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%s",
                          directory_fd, name);
    if (length < 0 || (size_t)length >= sizeof(address->sun_path))
        return -ENAMETOOLONG;
    *length_out = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + 1);
    return 0;
}

static int packet_socket(int *fd_out)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    *fd_out = fd;
    return 0;
}

/* The steps after bind, in the order that lets nobody connect to something half made. */
static int listen_and_name(int fd, int directory_fd, const char *passing, const char *name)
{
    if (fchmodat(directory_fd, passing, 0666, 0) != 0)
        return -errno;
    if (listen(fd, BUS1_SYS_BACKLOG) != 0)
        return -errno;
    if (renameat(directory_fd, passing, directory_fd, name) != 0)
        return -errno;
    return 0;
}

int bus1_sys_socket_listen(int directory_fd, const char *name, int *fd_out)
{
    char passing[64];
    struct sockaddr_un address;
    socklen_t length = 0;
    int fd = -1;

    snprintf(passing, sizeof(passing), ".bus1-%d.new", (int)getpid());
    int error = address_make(directory_fd, passing, &address, &length);
    if (error != 0)
        return error;
    error = packet_socket(&fd);
    if (error != 0)
        return error;
    /* The lock is held: what bears the passing name was left by a dead process of the same
     * number. */
    (void)unlinkat(directory_fd, passing, 0);
    if (bind(fd, (const struct sockaddr *)&address, length) != 0) {
        error = -errno;
    } else {
        error = listen_and_name(fd, directory_fd, passing, name);
        if (error != 0)
            (void)unlinkat(directory_fd, passing, 0);
    }
    if (error != 0) {
        close(fd);
        return error;
    }
    *fd_out = fd;
    return 0;
}

int bus1_sys_socket_connect(int directory_fd, const char *name, int *fd_out)
{
    struct sockaddr_un address;
    socklen_t length = 0;
    int fd = -1;

    int error = address_make(directory_fd, name, &address, &length);
    if (error != 0)
        return error;
    error = packet_socket(&fd);
    if (error != 0)
        return error;
    if (connect(fd, (const struct sockaddr *)&address, length) != 0) {
        error = -errno;
        close(fd);
        return error;
    }
    *fd_out = fd;
    return 0;
}

static bool is_listening_for_packets(int fd)
{
    int domain = 0, type = 0, listens = 0;
    socklen_t length = sizeof(int);

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_SEQPACKET &&
           getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0 && listens != 0;
}

int bus1_sys_socket_adopt(int fd, int directory_fd, const char *name)
{
    struct bus1_sys_credentials credentials;
    int connection = -1;

    if (!is_listening_for_packets(fd))
        return -EINVAL;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || listen(fd, BUS1_SYS_BACKLOG) != 0)
        return -errno;
    /* Who listened last is whom the other end is shown: if the name leads to this socket, that is
     * this process. A full queue says nothing of it, and is tried again by who has started this. */
    int error = bus1_sys_socket_connect(directory_fd, name, &connection);
    if (error != 0)
        return error == -EAGAIN ? error : -EADDRNOTAVAIL;
    error = bus1_sys_socket_credentials(connection, &credentials);
    close(connection);
    if (error != 0)
        return error;
    return credentials.pid == (int32_t)getpid() ? 0 : -EADDRNOTAVAIL;
}

int bus1_sys_socket_accept(int fd, int *fd_out)
{
    int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (accepted < 0)
        return -errno;
    *fd_out = accepted;
    return 0;
}

int bus1_sys_socket_pair(int fds_out[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds_out) == 0
               ? 0
               : -errno;
}

int bus1_sys_socket_credentials(int fd, struct bus1_sys_credentials *credentials_out)
{
    struct ucred credentials;
    socklen_t length = sizeof(credentials);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
        return -errno;
    credentials_out->uid = credentials.uid;
    credentials_out->gid = credentials.gid;
    credentials_out->pid = credentials.pid;
    return 0;
}

int bus1_sys_socket_pidfd(int fd, const struct bus1_sys_credentials *credentials, int *pidfd_out)
{
    int pidfd = -1;
    socklen_t length = sizeof(pidfd);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) == 0) {
        *pidfd_out = pidfd;
        return 0;
    }
    if (errno != ENOPROTOOPT)
        return -errno;
    if (credentials->pid <= 0)
        return -ESRCH;
    int error = bus1_sys_pidfd_open(credentials->pid, &pidfd);
    if (error != 0)
        return error;
    /* The number may have passed to another process before the pidfd was opened. What it names now
     * must be alive, after its user was looked at, and of the same user: then, at worst, it is
     * another process that could have connected itself. */
    char path[32];
    struct stat status;
    snprintf(path, sizeof(path), "/proc/%d", credentials->pid);
    if (stat(path, &status) != 0 || status.st_uid != credentials->uid ||
        bus1_sys_pidfd_wait(pidfd, 0) != 0) {
        close(pidfd);
        return -ESRCH;
    }
    *pidfd_out = pidfd;
    return 0;
}

int bus1_sys_socket_send(int fd, const void *bytes, size_t byte_count, const int *fds,
                         int fd_count)
{
    union {
        struct cmsghdr alignment;
        char bytes[CMSG_SPACE(sizeof(int) * BUS1_SYS_DESCRIPTORS_MAX)];
    } control;
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = byte_count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (fd_count < 0 || fd_count > BUS1_SYS_DESCRIPTORS_MAX)
        return -EINVAL;
    if (fd_count > 0) {
        size_t fds_bytes = sizeof(int) * (size_t)fd_count;
        memset(&control, 0, sizeof(control));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fds_bytes);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fds_bytes);
        memcpy(CMSG_DATA(header), fds, fds_bytes);
    }
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? -errno : 0;
}

void bus1_sys_socket_narrow(int fd)
{
    int least = 0; /* the kernel raises it to its minimum, some six small packets */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
}

/* Takes the descriptors out of a received message, and returns how many there were. Those beyond
 * the array's room are closed. */
static int descriptors_take(struct msghdr *message, int fds_out[BUS1_SYS_DESCRIPTORS_MAX])
{
    int count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t found = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < found; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            if (count < BUS1_SYS_DESCRIPTORS_MAX)
                fds_out[count] = fd;
            else
                close(fd);
            count++;
        }
    }
    return count;
}

static void descriptors_close(const int *fds, int count)
{
    for (int i = 0; i < count; i++)
        close(fds[i]);
}

ssize_t bus1_sys_socket_receive(int fd, void *bytes, size_t capacity,
                                int fds_out[BUS1_SYS_DESCRIPTORS_MAX], int *fd_count_out)
{
    union {
        struct cmsghdr alignment;
        char bytes[CMSG_SPACE(sizeof(int) * (BUS1_SYS_DESCRIPTORS_MAX + 1))];
    } control;
    struct iovec part = {.iov_base = bytes, .iov_len = capacity};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};

    *fd_count_out = 0;
    /* A peek installs the descriptors and leaves the message where it is: if they did not all find
     * room in our table, nothing is lost. */
    const int flags = MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC;
    ssize_t peeked = recvmsg(fd, &message, flags);
    /* Said once when the other end is gone and had not read all that was sent to it: what it had
     * sent itself comes nevertheless. */
    if (peeked < 0 && errno == ECONNRESET) {
        message.msg_controllen = sizeof(control);
        peeked = recvmsg(fd, &message, flags);
    }
    if (peeked < 0)
        return -errno;
    int count = descriptors_take(&message, fds_out);
    bool too_many = count > BUS1_SYS_DESCRIPTORS_MAX;
    if (too_many)
        count = BUS1_SYS_DESCRIPTORS_MAX;
    if ((message.msg_flags & MSG_CTRUNC) != 0 && !too_many) {
        descriptors_close(fds_out, count);
        return -EMFILE;
    }
    /* Taken for good, without control data: its descriptors are ours already. */
    char nothing;
    if (recv(fd, &nothing, peeked > 0 ? 1 : 0, MSG_DONTWAIT) < 0 && errno == ECONNRESET)
        (void)recv(fd, &nothing, peeked > 0 ? 1 : 0, MSG_DONTWAIT);
    if (too_many || (size_t)peeked > capacity) {
        descriptors_close(fds_out, count);
        return -EMSGSIZE;
    }
    *fd_count_out = count;
    return peeked;
}

/* Descriptors that a fork must not keep. Bits, because a fork's child may do nothing but set and
 * clear; descriptors beyond are few, and only make a dead broker's lock last longer. */
#define FORK_DESCRIPTORS 65536
static uint64_t close_on_fork[FORK_DESCRIPTORS / 64];
static int fork_handler_installed;

static void forked_child(void)
{
    for (int word = 0; word < FORK_DESCRIPTORS / 64; word++) {
        uint64_t bits = __atomic_exchange_n(&close_on_fork[word], 0, __ATOMIC_RELAXED);
        for (; bits != 0; bits &= bits - 1)
            close(word * 64 + __builtin_ctzll(bits));
    }
}

int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void));

void bus1_sys_close_on_fork(int fd, bool close_it)
{
    if (fd < 0 || fd >= FORK_DESCRIPTORS)
        return;
    if (__atomic_exchange_n(&fork_handler_installed, 1, __ATOMIC_ACQ_REL) == 0)
        (void)pthread_atfork(NULL, NULL, forked_child);
    uint64_t bit = UINT64_C(1) << (fd % 64);
    if (close_it)
        (void)__atomic_fetch_or(&close_on_fork[fd / 64], bit, __ATOMIC_RELAXED);
    else
        (void)__atomic_fetch_and(&close_on_fork[fd / 64], ~bit, __ATOMIC_RELAXED);
}
