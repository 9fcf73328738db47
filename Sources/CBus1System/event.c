#include "bus1_sys_event.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

int bus1_sys_epoll_create(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int bus1_sys_epoll_add_edge(int epoll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.fd = fd}};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void bus1_sys_epoll_drain(int epoll_fd, int timer_fd)
{
    struct epoll_event events[16];
    int count;
    do {
        count = epoll_wait(epoll_fd, events, 16, 0);
        for (int i = 0; i < count; i++) {
            uint64_t times;
            /* The kernel starts an interval timer anew only when it is read. */
            if (events[i].data.fd == timer_fd)
                (void)!read(timer_fd, &times, sizeof times);
        }
    } while (count == 16); /* a full answer may have more behind it */
}

void bus1_sys_epoll_sleep(int epoll_fd, int timer_fd, uint64_t until_ns)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec left = {.tv_sec = (time_t)(left_ns / 1000000000),
                            .tv_nsec = (long)(left_ns % 1000000000)};
    struct pollfd one = {.fd = epoll_fd, .events = POLLIN};
    if (ppoll(&one, 1, &left, NULL) > 0)
        bus1_sys_epoll_drain(epoll_fd, timer_fd);
}

int bus1_sys_timer_create(int period_ms)
{
    struct timespec period = {.tv_sec = period_ms / 1000,
                              .tv_nsec = (long)(period_ms % 1000) * 1000000};
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
