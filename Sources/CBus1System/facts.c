#include <sched.h>
#include <stdlib.h>

#include "bus1_sys_facts.h"

uint64_t bus1_sys_unique(void)
{
    static uint64_t last;
    /* Relaxed: only that no two get the same matters. */
    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

int bus1_sys_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : count;
}

const char *bus1_sys_environment(const char *name)
{
    return secure_getenv(name);
}
