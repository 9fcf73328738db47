#include "bus1_sys_link.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

union control {
    struct cmsghdr alignment;
    char bytes[CMSG_SPACE(sizeof(int) * BUS1_SYS_LINK_DESCRIPTORS_MAX)];
};

int bus1_sys_link_send(int fd, const void *bytes, size_t byte_count, const int *fds, int fd_count)
{
    union control control;
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = byte_count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (fd_count < 0 || fd_count > BUS1_SYS_LINK_DESCRIPTORS_MAX)
        return -EINVAL;
    if (fd_count > 0) {
        size_t fds_bytes = sizeof(int) * (size_t)fd_count;
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fds_bytes);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fds_bytes);
        memcpy(CMSG_DATA(header), fds, fds_bytes);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* The next peek begins behind so many bytes. */
static int peek_from(int fd, size_t offset)
{
    if (offset > INT32_MAX)
        return -EAGAIN;
    int value = (int)offset;
    return setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof value) == 0 ? 0 : -errno;
}

/* The news that the other end was closed before it had read everything comes once, in front of what
 * it had sent. */
static ssize_t receive(int fd, void *bytes, size_t capacity, int flags)
{
    ssize_t length = recv(fd, bytes, capacity, flags);
    if (length < 0 && errno == ECONNRESET)
        length = recv(fd, bytes, capacity, flags);
    return length < 0 ? -errno : length;
}

ssize_t bus1_sys_link_look(int fd, size_t offset, void *bytes, size_t capacity)
{
    int error = peek_from(fd, offset);
    if (error != 0)
        return error;
    return receive(fd, bytes, capacity, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);
}

int bus1_sys_link_take(int fd, size_t offset, int *fds_out, int most)
{
    if (most < 1 || most > BUS1_SYS_LINK_DESCRIPTORS_MAX)
        return -EINVAL;

    union control control;
    char byte;
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = CMSG_LEN(sizeof(int) * (size_t)most)};
    int error = peek_from(fd, offset);
    if (error != 0)
        return error;
    const int flags = MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC;
    ssize_t length = recvmsg(fd, &message, flags);
    if (length < 0 && errno == ECONNRESET) /* as in receive */
        length = recvmsg(fd, &message, flags);
    if (length < 0)
        return -errno;
    int count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
         header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t found = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < found; i++) {
            int one;
            memcpy(&one, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            if (count < most)
                fds_out[count++] = one;
            else
                (void)close(one);
        }
    }
    /* The kernel installs as many as the control data has room for, unless the table is full. */
    if ((message.msg_flags & MSG_CTRUNC) == 0 || count == most)
        return count;
    for (int i = 0; i < count; i++)
        (void)close(fds_out[i]);
    return -EMFILE;
}

ssize_t bus1_sys_link_drop(int fd)
{
    char byte;
    /* Without room for control data the kernel closes what is in it. */
    return receive(fd, &byte, sizeof byte, MSG_DONTWAIT | MSG_TRUNC);
}

int bus1_sys_link_unread(int fd)
{
    int unread = 0;
    return ioctl(fd, SIOCOUTQ, &unread) == 0 ? unread : -errno;
}

int bus1_sys_link_has_ended(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLRDHUP};
    return poll(&one, 1, 0) == 1 && (one.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}
