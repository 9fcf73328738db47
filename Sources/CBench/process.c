#include "bench_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int bench_worker_spawn(const char *path, char *const arguments[], int control_fd, int stage_fd)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid = 0;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    /* Copies above the targets: a source that is itself a target would be lost. */
    int control = fcntl(control_fd, F_DUPFD_CLOEXEC, 16);
    int stage = fcntl(stage_fd, F_DUPFD_CLOEXEC, 16);
    posix_spawn_file_actions_adddup2(&actions, control, BENCH_CONTROL_FD);
    posix_spawn_file_actions_adddup2(&actions, stage, BENCH_STAGE_FD);
    int error = posix_spawn(&pid, path, &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    close(control);
    close(stage);
    return error != 0 ? -error : (int)pid;
}

int bench_daemon_spawn(const char *program)
{
    posix_spawn_file_actions_t actions;
    char *arguments[] = {(char *)(uintptr_t)program, NULL};
    pid_t pid = 0;
    posix_spawn_file_actions_init(&actions);
    for (int fd = 0; fd < 3; fd++)
        posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
    int error = posix_spawnp(&pid, program, &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    return error != 0 ? -error : (int)pid;
}

void bench_daemon_end(pid_t pid)
{
    kill(pid, SIGTERM);
    (void)bench_child_end(pid, 0);
}

int bench_worker_settle(pid_t parent)
{
    /* Ctrl-C reaches the whole foreground group; the coordinator ends its workers itself. */
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return -errno;
    return getppid() == parent ? 0 : -ESRCH;
}

int bench_pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    return sched_setaffinity(0, sizeof set, &set) < 0 ? -errno : 0;
}

int bench_unpin(cpu_set_t *before)
{
    cpu_set_t all;
    if (sched_getaffinity(0, sizeof *before, before) < 0)
        return -errno;
    memset(&all, 0xff, sizeof all);
    return sched_setaffinity(0, sizeof all, &all) < 0 ? -errno : 0;
}

int bench_repin(const cpu_set_t *before)
{
    return sched_setaffinity(0, sizeof *before, before) < 0 ? -errno : 0;
}

int bench_cores(int *cores, int room)
{
    cpu_set_t set;
    int count = 0;
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return -errno;
    for (int core = 0; core < CPU_SETSIZE; core++)
        if (CPU_ISSET((size_t)core, &set)) {
            if (count < room)
                cores[count] = core;
            count++;
        }
    return count;
}

int bench_control_pair(int ends[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0 ? -errno : 0;
}

int bench_control_send(int fd, const void *bytes, uint64_t length, const int *fds,
                       uint32_t fd_count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * BENCH_FDS_MAX)];
    } control;
    struct iovec vector = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (fd_count > BENCH_FDS_MAX)
        return -E2BIG;
    if (fd_count > 0) {
        memset(&control, 0, sizeof control);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * fd_count);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
    }
    while (sendmsg(fd, &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

int64_t bench_control_receive(int fd, void *bytes, uint64_t room, int *fds, uint32_t *fd_count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * BENCH_FDS_MAX)];
    } control;
    struct iovec vector = {.iov_base = bytes, .iov_len = room};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t length;
    while ((length = recvmsg(fd, &message, MSG_CMSG_CLOEXEC)) < 0)
        if (errno != EINTR)
            return -errno;
    *fd_count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
         header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            uint32_t count = (uint32_t)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(header), count * sizeof(int));
            *fd_count = count;
        }
    return message.msg_flags & MSG_TRUNC ? -EMSGSIZE : length;
}

/* ---- signals and children -------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void note_interrupt(int signal_number)
{
    interrupted = signal_number;
}

void bench_interrupt_catch(void)
{
    struct sigaction action = {.sa_handler = note_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

int bench_interrupted(void)
{
    return interrupted;
}

int bench_control_wait(int fd, int timeout_ms)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    int ready = interrupted ? -1 : poll(&entry, 1, timeout_ms);
    if (interrupted)
        return -EINTR;
    return ready < 0 ? (errno == EINTR ? 0 : -errno) : ready;
}

void bench_output_by_lines(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
}

uint64_t bench_page_faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
}

int bench_child_end(pid_t pid, int force)
{
    int status = 0;
    if (force)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

uint64_t bench_preemptions(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_nivcsw;
}
