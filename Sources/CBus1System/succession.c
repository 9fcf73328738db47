#include "bus1_sys_succession.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 4096

/* The facts of /proc/PID/status that say what a process may do. */
struct confinement {
    unsigned uids[4], gids[4];
    unsigned long long permitted;
    unsigned filters;
    bool has_uids, has_gids, has_permitted;
};

static int confinement_read(const char *process, struct confinement *out)
{
    char path[64], line[512];
    memset(out, 0, sizeof *out);
    snprintf(path, sizeof path, "/proc/%s/status", process);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return -errno;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned *ids = NULL;
        if (strncmp(line, "Uid:", 4) == 0)
            ids = out->uids;
        else if (strncmp(line, "Gid:", 4) == 0)
            ids = out->gids;
        if (ids != NULL) {
            bool is_whole =
                sscanf(line + 4, "%u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]) == 4;
            *(ids == out->uids ? &out->has_uids : &out->has_gids) = is_whole;
        } else if (strncmp(line, "CapPrm:", 7) == 0) {
            out->has_permitted = sscanf(line + 7, "%llx", &out->permitted) == 1;
        } else if (strncmp(line, "Seccomp_filters:", 16) == 0) {
            (void)sscanf(line + 16, "%u", &out->filters);
        } else if (strncmp(line, "Seccomp:", 8) == 0 && out->filters == 0) {
            /* Kernels before 5.9 do not count the filters: any at all counts then. */
            unsigned mode = 0;
            (void)sscanf(line + 8, "%u", &mode);
            out->filters = mode;
        }
    }
    fclose(file);
    return out->has_uids && out->has_gids && out->has_permitted ? 0 : -EPROTO;
}

static bool namespace_is_own(const char *process, const char *kind)
{
    char path[64];
    char own[64], its[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
    ssize_t own_length = readlink(path, own, sizeof own);
    snprintf(path, sizeof path, "/proc/%s/ns/%s", process, kind);
    /* Refused to whoever may not trace it. */
    ssize_t its_length = readlink(path, its, sizeof its);
    return own_length > 0 && own_length == its_length && memcmp(own, its, (size_t)its_length) == 0;
}

int bus1_sys_process_is_like_own(int32_t pid)
{
    static const char *const kinds[] = {"user", "pid", "mnt", "time"};
    struct confinement own, its;
    char process[16];

    if (pid <= 0)
        return 0;
    snprintf(process, sizeof process, "%d", (int)pid);
    if (confinement_read("self", &own) != 0 || confinement_read(process, &its) != 0)
        return 0;
    if (memcmp(own.uids, its.uids, sizeof own.uids) != 0 ||
        memcmp(own.gids, its.gids, sizeof own.gids) != 0 ||
        (own.permitted & ~its.permitted) != 0 || its.filters > own.filters)
        return 0;
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (!namespace_is_own(process, kinds[i]))
            return 0;
    return 1;
}

int bus1_sys_process_state(int32_t pid)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return -ESRCH;
    size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[length] = 0;
    /* The name stands in brackets and may hold any character, brackets too. */
    const char *end = strrchr(line, ')');
    return end != NULL && end[1] == ' ' ? end[2] : -ESRCH;
}

int bus1_sys_make_private(int fd)
{
    return fchmod(fd, 0600) == 0 ? 0 : -errno;
}

int bus1_sys_socket_listen_again(int fd)
{
    return listen(fd, BACKLOG) == 0 ? 0 : -errno;
}

int bus1_sys_wait_any(const int *fds, int count, int timeout_ms)
{
    struct pollfd wanted[BUS1_SYS_WAIT_MAX];
    int bits = 0;
    if (count < 0 || count > BUS1_SYS_WAIT_MAX)
        return -EINVAL;
    for (int i = 0; i < count; i++)
        wanted[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    if (poll(wanted, (nfds_t)count, timeout_ms) < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < count; i++)
        bits |= wanted[i].revents != 0 ? 1 << i : 0;
    return bits;
}

int bus1_sys_wait_writable(int fd, int timeout_ms)
{
    struct pollfd wanted = {.fd = fd, .events = POLLOUT};
    int count = poll(&wanted, 1, timeout_ms);
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    return count;
}
