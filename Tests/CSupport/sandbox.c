#include "test_sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

/* ---- namespaces ----------------------------------------------------------------------------- */

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t written = write(fd, text, strlen(text));
    int error = written < 0 ? -errno : 0;
    (void)close(fd);
    return error;
}

static int map_own_ids(uint32_t uid, uint32_t gid)
{
    char users[64], groups[64];
    (void)snprintf(users, sizeof users, "%u %u 1", uid, uid);
    (void)snprintf(groups, sizeof groups, "%u %u 1", gid, gid);
    int error = write_file("/proc/self/setgroups", "deny");
    if (error == 0)
        error = write_file("/proc/self/uid_map", users);
    return error == 0 ? write_file("/proc/self/gid_map", groups) : error;
}

_Noreturn static void end_as(pid_t child)
{
    int status = 0;
    /* The other end of the remote control must see the child's end, not ours. */
    (void)close_range(3, ~0u, 0);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status)) {
        (void)signal(WTERMSIG(status), SIG_DFL);
        (void)raise(WTERMSIG(status));
    }
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 255);
}

int test_sandbox_namespaces(char *const arguments[], bool other_time)
{
    uint32_t uid = geteuid(), gid = getegid();
    /* Not by its path, which another user may not be able to walk. */
    int program = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    if (program < 0)
        return -errno;
    /* Who has changed its user owns its files in /proc only so. */
    (void)prctl(PR_SET_DUMPABLE, 1);
    if (unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | (other_time ? CLONE_NEWTIME : 0)) != 0)
        return -errno;
    int error = map_own_ids(uid, gid);
    if (error == 0 && other_time)
        error = write_file("/proc/self/timens_offsets", "monotonic 1000 0\nboottime 1000 0\n");
    if (error != 0)
        return error;
    pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child > 0)
        end_as(child);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
        _exit(126);
    (void)syscall(SYS_execveat, program, "", arguments, environ, AT_EMPTY_PATH);
    _exit(127);
}

/* ---- system calls --------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#define CALL(name) {#name, SYS_##name}
/* Newer architectures lack these; the C library makes others of them. */
#if defined(__x86_64__)
#define OLD_CALL(name) CALL(name)
#else
#define OLD_CALL(name) {#name, -1}
#endif
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* docs/sandbox.md says what each is for; a test compares the two. */
static const struct call {
    const char *name;
    int32_t number;
} calls[] = {
    CALL(brk), CALL(clock_gettime), CALL(close), CALL(epoll_create1), CALL(epoll_ctl),
    CALL(epoll_pwait), OLD_CALL(epoll_wait), CALL(eventfd2), CALL(exit_group), CALL(fallocate),
    CALL(fcntl), CALL(fstatfs), CALL(ftruncate), CALL(futex), CALL(futex_waitv), CALL(getsockopt),
    CALL(gettid), CALL(ioctl), CALL(lseek), CALL(madvise), CALL(membarrier),
    CALL(memfd_create), CALL(mincore),
    CALL(mmap), CALL(mprotect), CALL(mremap), CALL(munmap), CALL(newfstatat), OLD_CALL(poll),
    CALL(ppoll), CALL(pread64), CALL(prlimit64), CALL(read), CALL(recvfrom), CALL(recvmmsg),
    CALL(recvmsg), CALL(sched_yield), CALL(sendmsg), CALL(sendto), CALL(setsockopt), CALL(shutdown),
    CALL(socketpair), CALL(sysinfo), CALL(timerfd_create), CALL(timerfd_settime), CALL(write),
};

const char *test_sandbox_call(uint32_t index)
{
    return index < sizeof calls / sizeof calls[0] ? calls[index].name : NULL;
}

#define LOAD(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define SKIP_IF(value, count) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), count, 0)
#define SKIP_UNLESS(value, count) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), 0, count)
#define END_WITH(action) BPF_STMT(BPF_RET | BPF_K, (action))

int test_sandbox_seccomp(void)
{
    struct sock_filter filter[4 + 2 * sizeof calls / sizeof calls[0] + 1];
    uint16_t length = 0;
    filter[length++] = (struct sock_filter)LOAD(arch);
    filter[length++] = (struct sock_filter)SKIP_IF(ARCHITECTURE, 1);
    filter[length++] = (struct sock_filter)END_WITH(SECCOMP_RET_KILL_PROCESS);
    filter[length++] = (struct sock_filter)LOAD(nr);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        if (calls[i].number < 0)
            continue;
        filter[length++] = (struct sock_filter)SKIP_UNLESS(calls[i].number, 1);
        filter[length++] = (struct sock_filter)END_WITH(SECCOMP_RET_ALLOW);
    }
    filter[length++] = (struct sock_filter)END_WITH(SECCOMP_RET_KILL_PROCESS);
    struct sock_fprog program = {.len = length, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        return -errno;
    return 0;
}

int test_sandbox_be_open(void)
{
    return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0 ? 0 : -errno;
}
