#include "shmring_gate.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

static int membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0) == 0 ? 0 : -errno;
}

int shmring_gate_prepare(void)
{
    return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
}

int shmring_gate_barrier(void)
{
    /* SYNC G2 full barrier in every thread, pairs with G1 in shmring_gate_enter: either the gate is
     * seen closed after it, or what was taken out of sight before it is not found behind the
     * gate. */
    return membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}
