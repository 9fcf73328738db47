#include "shmring_faults.h"

#if defined(SHMRING_SWITCHES)

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shmring_atomics.h"

struct shmring_fault_control *shmring_fault_own;
__thread uint32_t shmring_fault_acts_as = SHMRING_FAULT_SENDER;

#define NAME(name, text, roles) text,
static const char *const names[] = {"none", SHMRING_FAULT_POINTS(NAME)};
#define ROLES(name, text, roles) roles,
static const uint32_t all_roles[] = {0, SHMRING_FAULT_POINTS(ROLES)};

const char *shmring_fault_name(uint32_t point)
{
    return point < SHMRING_FAULT_COUNT ? names[point] : "unknown";
}

uint32_t shmring_fault_roles(uint32_t point)
{
    return point < SHMRING_FAULT_COUNT ? all_roles[point] : 0;
}

/* Of the control nothing is published but orders and arrivals, and both sides look again and again:
 * what this comment calls relaxed is enough, but for the order's parts, which `armed` publishes. */
void shmring_fault_here(uint32_t point)
{
    struct shmring_fault_control *control = shmring_fault_own;
    uint32_t role = shmring_fault_acts_as;
    uint32_t *count = &control->arrivals[role == SHMRING_FAULT_RECEIVER][point];
    /* Relaxed: only this process counts. */
    shmring_store_relaxed_u32(count, shmring_load_relaxed_u32(count) + 1);
    uint32_t armed = shmring_load_acquire_u32(&control->armed); /* Not relaxed: see above. */
    if (armed != point || (control->role & role) == 0)
        return;
    if (control->pass > 0) {
        control->pass--;
        return;
    }
    /* Relaxed order would do: taken once, by the process or by who takes it back. */
    if (!shmring_cas_acq_rel_u32(&control->armed, &armed, 0))
        return;
    shmring_store_release_u32(&control->arrived, point); /* Relaxed would do: the kernel follows. */
    /* To this very thread, so that it does nothing more: the signal is there when the call
     * returns. */
    (void)syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), control->signal);
}

void shmring_fault_arm(struct shmring_fault_control *control, uint32_t point, uint32_t role,
                       uint32_t pass, int32_t signal_number)
{
    control->role = role;
    control->pass = pass;
    control->signal = signal_number;
    /* Relaxed: nobody else writes it while no order is given. */
    shmring_store_relaxed_u32(&control->arrived, 0);
    shmring_store_release_u32(&control->armed, point); /* Not relaxed: publishes the parts. */
}

bool shmring_fault_disarm(struct shmring_fault_control *control)
{
    /* Relaxed: the compare-and-swap decides. */
    uint32_t armed = shmring_load_relaxed_u32(&control->armed);
    return armed != 0 && shmring_cas_acq_rel_u32(&control->armed, &armed, 0);
}

uint32_t shmring_fault_arrived(struct shmring_fault_control *control)
{
    /* Relaxed: a number, and looked at again. */
    return shmring_load_relaxed_u32(&control->arrived);
}

#else

/* A file without a declaration is not C. */
typedef int shmring_no_faults;

#endif
