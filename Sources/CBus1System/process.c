#include "bus1_sys_process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PID_FS_MAGIC
#define PID_FS_MAGIC 0x50494446
#endif

int bus1_sys_pidfd_open(int32_t pid, int *pidfd_out)
{
    long fd = syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return -errno;
    *pidfd_out = (int)fd;
    return 0;
}

uint64_t bus1_sys_pidfd_identity(int pidfd)
{
    struct stat status;
    struct statfs system;

    /* Before pidfs every pidfd has the one inode of all anonymous files. */
    if (fstatfs(pidfd, &system) != 0 || (unsigned long)system.f_type != PID_FS_MAGIC)
        return 0;
    return fstat(pidfd, &status) == 0 ? status.st_ino : 0;
}

int bus1_sys_pidfd_wait(int pidfd, int timeout_ms)
{
    struct pollfd wanted = {.fd = pidfd, .events = POLLIN};
    int count = poll(&wanted, 1, timeout_ms);
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    return count;
}

int bus1_sys_child_reap(int32_t pid, int *status_out)
{
    pid_t reaped;
    do {
        reaped = waitpid(pid, status_out, 0);
    } while (reaped < 0 && errno == EINTR);
    return reaped < 0 ? -errno : 0;
}

int bus1_sys_pidfd_signal(int pidfd, int signal)
{
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) == 0 ? 0 : -errno;
}

/* Descriptors are first moved out of the way of the numbers they are to have, or one of them could
 * overwrite another that is still to be moved. */
static int actions_fill(posix_spawn_file_actions_t *actions, int *copies, int fd_count)
{
    int error = 0;
    for (int i = 0; i < fd_count && error == 0; i++)
        error = posix_spawn_file_actions_adddup2(actions, copies[i], 3 + i);
    return -error;
}

int bus1_sys_spawn(const char *path, char *const *arguments, char *const *environment,
                   const int *fds, int fd_count, int32_t *pid_out)
{
    int copies[16];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int copied = 0, error = 0;

    if (fd_count < 0 || fd_count > (int)(sizeof(copies) / sizeof(copies[0])))
        return -EINVAL;
    for (; copied < fd_count; copied++) {
        copies[copied] = fcntl(fds[copied], F_DUPFD_CLOEXEC, 3 + fd_count);
        if (copies[copied] < 0) {
            error = -errno;
            break;
        }
    }
    if (error == 0) {
        posix_spawn_file_actions_init(&actions);
        posix_spawnattr_init(&attributes);
        sigemptyset(&none);
        sigfillset(&all);
        /* A child begins with no signal blocked and none handled, whatever its parent does. */
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setsigdefault(&attributes, &all);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        error = actions_fill(&actions, copies, fd_count);
        pid_t pid = 0;
        if (error == 0)
            error = -posix_spawn(&pid, path, &actions, &attributes, arguments, environment);
        if (error == 0)
            *pid_out = pid;
        posix_spawnattr_destroy(&attributes);
        posix_spawn_file_actions_destroy(&actions);
    }
    for (int i = 0; i < copied; i++)
        close(copies[i]);
    return error;
}

struct thread_start {
    char name[16]; /* the caller's may be gone when the thread begins */
    void (*body)(void *);
    void *context;
};

static void *thread_main(void *argument)
{
    struct thread_start start = *(struct thread_start *)argument;
    free(argument);
    (void)prctl(PR_SET_NAME, start.name);
    start.body(start.context);
    return NULL;
}

int bus1_sys_thread_start(const char *name, void (*body)(void *), void *context)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;

    struct thread_start *start = malloc(sizeof(*start));
    if (start == NULL)
        return -ENOMEM;
    *start = (struct thread_start){.body = body, .context = context};
    snprintf(start->name, sizeof start->name, "%s", name);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    /* The application's signals are for the application's threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attributes, thread_main, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        free(start);
        return -error;
    }
    return 0;
}

int bus1_sys_thread_pin(int cpu)
{
    cpu_set_t set;
    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return -EINVAL;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    return sched_setaffinity(0, sizeof(set), &set) == 0 ? 0 : -errno;
}

int bus1_sys_random(void *bytes, size_t byte_count)
{
    for (size_t done = 0; done < byte_count;) {
        ssize_t got = getrandom((char *)bytes + done, byte_count - done, 0);
        if (got < 0 && errno != EINTR)
            return -errno;
        if (got > 0)
            done += (size_t)got;
    }
    return 0;
}

uint32_t bus1_sys_overflow_uid(void)
{
    unsigned uid = 65534;
    FILE *file = fopen("/proc/sys/kernel/overflowuid", "re");
    if (file != NULL) {
        if (fscanf(file, "%u", &uid) != 1)
            uid = 65534;
        fclose(file);
    }
    return uid;
}

void bus1_sys_futex_wake_all(uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

int bus1_sys_event_create(int *fd_out)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    *fd_out = fd;
    return 0;
}

void bus1_sys_event_signal(int fd)
{
    uint64_t one = 1;
    /* -EAGAIN: the counter is full, so that whoever waits is awake anyway. */
    (void)!write(fd, &one, sizeof(one));
}

void bus1_sys_event_drain(int fd)
{
    uint64_t count;
    (void)!read(fd, &count, sizeof count);
}

int bus1_sys_at_exit(void (*body)(void))
{
    return atexit(body) == 0 ? 0 : -ENOMEM;
}

const char *bus1_sys_errno_text(int number)
{
    const char *text = strerrordesc_np(number);
    return text != NULL ? text : "unknown error";
}
