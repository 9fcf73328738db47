#include "test_stop.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <ucontext.h>

#if defined(__x86_64__)

static const uint64_t *watched;
static uint32_t watched_count;

static int in_commit(void)
{
    for (uint32_t i = 0; i < watched_count; i++)
        if (__atomic_load_n(&watched[i], __ATOMIC_ACQUIRE) >> 62 == 2)
            return 1;
    return 0;
}

/* Makes the reading in place of the instruction, and goes on behind it. */
static void read_counter(mcontext_t *machine, long length)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    machine->gregs[REG_RAX] = low;
    machine->gregs[REG_RDX] = high;
    if (length == 3)
        machine->gregs[REG_RCX] = 0;
    machine->gregs[REG_RIP] += length;
}

static void trapped(int signal, siginfo_t *info, void *context)
{
    (void)info;
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
    const uint8_t *at = (const uint8_t *)(uintptr_t)machine->gregs[REG_RIP];
    long length = at[0] == 0x0f && at[1] == 0x31                    ? 2
                  : at[0] == 0x0f && at[1] == 0x01 && at[2] == 0xf9 ? 3
                                                                    : 0;
    (void)prctl(PR_SET_TSC, PR_TSC_ENABLE);
    if (length == 0) {
        (void)sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        return;
    }
    if (in_commit()) {
        (void)raise(SIGSTOP);
        return;
    }
    read_counter(machine, length);
    (void)prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
}

int test_stop_in_commit(const uint64_t *words, uint32_t count)
{
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    watched = words;
    watched_count = count;
    if (sigaction(SIGSEGV, &action, NULL) != 0 || prctl(PR_SET_TSC, PR_TSC_SIGSEGV) != 0)
        return -errno;
    return 0;
}

#else

int test_stop_in_commit(const uint64_t *words, uint32_t count)
{
    (void)words;
    (void)count;
    return -ENOTSUP;
}

#endif
