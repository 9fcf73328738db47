/* loop.c - what both implementations share. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "loop_internal.h"

int bus1_sys_loop_create(bool allow_uring, struct bus1_sys_loop **loop_out)
{
    /* Whatever keeps io_uring from working (not compiled in, forbidden by sysctl or seccomp, too
     * little memory that may be locked), epoll does the same. */
    if (allow_uring && loop_uring_create(loop_out) == 0)
        return 0;
    return loop_epoll_create(loop_out);
}

void bus1_sys_loop_destroy(struct bus1_sys_loop *loop)
{
    loop->operations->destroy(loop);
}

const char *bus1_sys_loop_name(const struct bus1_sys_loop *loop)
{
    return loop->operations->name;
}

int bus1_sys_loop_accept(struct bus1_sys_loop *loop, int fd, uint64_t token)
{
    return loop->operations->watch(loop, fd, BUS1_SYS_EVENT_ACCEPTED, false, token);
}

int bus1_sys_loop_receive(struct bus1_sys_loop *loop, int fd, uint64_t token)
{
    return loop->operations->watch(loop, fd, BUS1_SYS_EVENT_PACKET, false, token);
}

int bus1_sys_loop_ready(struct bus1_sys_loop *loop, int fd, bool writable, uint64_t token)
{
    return loop->operations->watch(loop, fd, BUS1_SYS_EVENT_READY, writable, token);
}

void bus1_sys_loop_forget(struct bus1_sys_loop *loop, int fd, uint64_t token)
{
    loop->operations->forget(loop, fd, token);
}

int bus1_sys_loop_next(struct bus1_sys_loop *loop, struct bus1_sys_event *event_out,
                       int timeout_ms)
{
    return loop->operations->next(loop, event_out, timeout_ms);
}

void loop_packet_reset(struct loop_packet *packet)
{
    packet->part = (struct iovec){.iov_base = packet->bytes, .iov_len = sizeof(packet->bytes)};
    packet->message = (struct msghdr){.msg_iov = &packet->part,
                                      .msg_iovlen = 1,
                                      .msg_control = packet->control,
                                      .msg_controllen = sizeof(packet->control)};
}

/* Moves the descriptors out; those beyond the room are closed. Returns how many came. */
static int packet_descriptors(struct loop_packet *packet, int *fds_out, int room)
{
    int count = 0;
    struct msghdr *message = &packet->message;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t found = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < found; i++, count++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            if (count < room)
                fds_out[count] = fd;
            else
                close(fd);
        }
    }
    return count;
}

void loop_packet_report(struct loop_packet *packet, int result, struct bus1_sys_event *event_out)
{
    event_out->kind = BUS1_SYS_EVENT_PACKET;
    event_out->result = result;
    event_out->bytes = packet->bytes;
    event_out->fd_count = 0;
    event_out->control_truncated = false;
    if (result < 0)
        return;
    int count = packet_descriptors(packet, event_out->fds, BUS1_SYS_DESCRIPTORS_MAX);
    event_out->control_truncated = (packet->message.msg_flags & MSG_CTRUNC) != 0;
    event_out->fd_count = count < BUS1_SYS_DESCRIPTORS_MAX ? count : BUS1_SYS_DESCRIPTORS_MAX;
    if (result > BUS1_SYS_PACKET_BYTES_MAX || count > BUS1_SYS_DESCRIPTORS_MAX) {
        for (int i = 0; i < event_out->fd_count; i++)
            close(event_out->fds[i]);
        event_out->fd_count = 0;
        event_out->result = -EMSGSIZE;
    }
}

void loop_packet_discard(struct loop_packet *packet, int result)
{
    if (result >= 0)
        (void)packet_descriptors(packet, NULL, 0);
}
