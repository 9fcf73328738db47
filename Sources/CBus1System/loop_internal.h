/* What the two implementations of bus1_sys_loop.h are to each other. */
#pragma once

#include <sys/socket.h>

#include "bus1_sys_loop.h"

struct loop_operations {
    const char *name;
    int (*watch)(struct bus1_sys_loop *loop, int fd, uint32_t kind, bool writable, uint64_t token);
    void (*forget)(struct bus1_sys_loop *loop, int fd, uint64_t token);
    int (*next)(struct bus1_sys_loop *loop, struct bus1_sys_event *event_out, int timeout_ms);
    void (*destroy)(struct bus1_sys_loop *loop);
};

/* Begins every implementation's own structure. */
struct bus1_sys_loop {
    const struct loop_operations *operations;
};

/* Where a packet is received: one more descriptor than is allowed, to tell too many from enough. */
struct loop_packet {
    struct msghdr message;
    struct iovec part;
    _Alignas(struct cmsghdr) char
        control[CMSG_SPACE(sizeof(int) * (BUS1_SYS_DESCRIPTORS_MAX + 1))];
    uint8_t bytes[BUS1_SYS_PACKET_BYTES_MAX];
};

#define LOOP_RECEIVE_FLAGS (MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC)

/* Makes the packet ready for a recvmsg. */
void loop_packet_reset(struct loop_packet *packet);
/* Turns what recvmsg returned (a length or -errno) into the event. */
void loop_packet_report(struct loop_packet *packet, int result, struct bus1_sys_event *event_out);
/* Closes the descriptors that came with a packet that nobody wants. */
void loop_packet_discard(struct loop_packet *packet, int result);

int loop_epoll_create(struct bus1_sys_loop **loop_out);
int loop_uring_create(struct bus1_sys_loop **loop_out);
