#include "bus1_sys_event.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

int bus1_sys_epoll_create(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int bus1_sys_epoll_add_edge(int epoll_fd, int fd, enum bus1_sys_edge edge)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET,
                                .data = {.u64 = (uint64_t)edge << 32 | (uint32_t)fd}};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* All that stands in it, without its descriptors if somebody put some in. A full queue would take
 * no further ring, and so make no further edge. */
static void doorbell_drain(int listening_fd)
{
    struct mmsghdr packets[32];
    memset(packets, 0, sizeof packets);
    /* A pair holds some hundred; who puts in more all the time keeps its own trust domain from
     * ringing, until the timer. */
    for (int turn = 0; turn < 32; turn++)
        if (recvmmsg(listening_fd, packets, 32, MSG_DONTWAIT, NULL) < 32)
            return;
}

void bus1_sys_epoll_drain(int epoll_fd)
{
    struct epoll_event events[16];
    int count;
    do {
        count = epoll_wait(epoll_fd, events, 16, 0);
        for (int i = 0; i < count; i++) {
            int fd = (int)(uint32_t)events[i].data.u64;
            uint64_t times;
            switch (events[i].data.u64 >> 32) {
            case BUS1_SYS_EDGE_TIMER:
                /* The kernel starts an interval timer anew only when it is read. */
                (void)!read(fd, &times, sizeof times);
                break;
            case BUS1_SYS_EDGE_DOORBELL: doorbell_drain(fd); break;
            default: break;
            }
        }
    } while (count == 16); /* a full answer may have more behind it */
}

void bus1_sys_epoll_sleep(int epoll_fd, uint64_t until_ns)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec left = {.tv_sec = (time_t)(left_ns / 1000000000),
                            .tv_nsec = (long)(left_ns % 1000000000)};
    struct pollfd one = {.fd = epoll_fd, .events = POLLIN};
    if (ppoll(&one, 1, &left, NULL) > 0)
        bus1_sys_epoll_drain(epoll_fd);
}

static struct timespec to_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000),
                             .tv_nsec = (long)(ns % 1000000000)};
}

int bus1_sys_timer_create(int period_ms)
{
    struct timespec period = to_timespec((uint64_t)period_ms * 1000000);
    struct itimerspec spec = {.it_interval = period, .it_value = period};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    if (timerfd_settime(fd, 0, &spec, NULL) < 0) {
        int error = errno;
        (void)close(fd);
        return -error;
    }
    return fd;
}

void bus1_sys_timer_hasten(int timer_fd, uint64_t until_ns, int period_ms)
{
    struct itimerspec spec = {.it_interval = to_timespec((uint64_t)period_ms * 1000000),
                              .it_value = to_timespec(until_ns == 0 ? 1 : until_ns)};
    (void)timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

int bus1_sys_alarm_create(int *fd_out)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    *fd_out = fd;
    return 0;
}

void bus1_sys_alarm_set(int fd, uint64_t at_ns)
{
    struct itimerspec spec = {0};
    if (at_ns != UINT64_MAX) /* a time of zero would unset it */
        spec.it_value = to_timespec(at_ns == 0 ? 1 : at_ns);
    (void)timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

int bus1_sys_doorbell_create(int *listening_out, int *ringing_out)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        return -errno;
    *listening_out = ends[0];
    *ringing_out = ends[1];
    return 0;
}

bool bus1_sys_doorbell_is_one(int fd)
{
    int domain = 0, type = 0;
    socklen_t length = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0)
        return false;
    length = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0)
        return false;
    return domain == AF_UNIX && type == SOCK_DGRAM;
}

void bus1_sys_doorbell_ring(int ringing_fd)
{
    const char ring = 1;
    /* Not write(2): strangers share the end and could make it block. A full queue (EAGAIN) is as
     * good: the other end is readable. */
    (void)!send(ringing_fd, &ring, sizeof ring, MSG_DONTWAIT | MSG_NOSIGNAL);
}
