#include "bus1_internal.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

int bus1_internal_mark(int epoll, int *mark)
{
    struct epoll_event nothing = {.events = 0};
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return -errno;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &nothing) != 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    *mark = fd;
    return 0;
}

int bus1_internal_is_marked(int fd, int mark)
{
    struct epoll_event nothing = {.events = 0};
    /* No other epoll instance watches the mark; the others are left as they are. */
    if (epoll_ctl(fd, EPOLL_CTL_MOD, mark, &nothing) == 0) return 0;
    return errno == EBADF ? -EBADF : -EOPNOTSUPP;
}
