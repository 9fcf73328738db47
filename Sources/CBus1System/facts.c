#include <stdlib.h>
#include <unistd.h>

#include "bus1_sys_facts.h"

uint64_t bus1_sys_unique_block(uint64_t count)
{
    static uint64_t next = 1;
    /* Relaxed: only that no two get the same matters. */
    return __atomic_fetch_add(&next, count, __ATOMIC_RELAXED);
}

uint64_t bus1_sys_unique(void)
{
    return bus1_sys_unique_block(1);
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
