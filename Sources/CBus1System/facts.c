#include <stdlib.h>
#include <unistd.h>

#include "bus1_sys_facts.h"

uint64_t bus1_sys_unique(void)
{
    static uint64_t last;
    /* Relaxed: only that no two get the same matters. */
    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

int bus1_sys_cpu_count(void)
{
    /* Not the affinity: a receiver pinned to one processor has its senders on others. */
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : (int)count;
}

const char *bus1_sys_environment(const char *name)
{
    return secure_getenv(name);
}
