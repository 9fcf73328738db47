/* Leases: pure functions, so that each rule can be tested with a clock of its own. */
#include "shmring_lease.h"

#include "shmring_layout.h"

#define NS_PER_S INT64_C(1000000000)
#define FIRST_A_SECOND_NS INT64_C(100000000)
#define MORE_A_SECOND_NS INT64_C(10000000)
/* Nobody is in debt for ever: leases that overlap in time are counted each. */
#define DEBT_MAX_NS INT64_C(100000000)

static int64_t lesser(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t greater(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void shmring_stall_budget_init(struct shmring_stall_budget *budget, uint64_t now_ns)
{
    *budget = (struct shmring_stall_budget){
        .first_ns = FIRST_A_SECOND_NS, .more_ns = MORE_A_SECOND_NS, .at_ns = now_ns};
}

static void refill(struct shmring_stall_budget *budget, uint64_t now_ns)
{
    if (now_ns <= budget->at_ns)
        return;
    /* Whatever was spent is back after this long. */
    const uint64_t enough_ns = 20 * (uint64_t)NS_PER_S;
    uint64_t passed = now_ns - budget->at_ns;
    int64_t ns = (int64_t)(passed < enough_ns ? passed : enough_ns);
    /* What was too little to count stays to be counted: asking often refills no less. */
    int64_t rest = ns % (NS_PER_S / MORE_A_SECOND_NS);
    ns -= rest;
    budget->first_ns = lesser(budget->first_ns + ns / (NS_PER_S / FIRST_A_SECOND_NS),
                              FIRST_A_SECOND_NS);
    budget->more_ns = lesser(budget->more_ns + ns / (NS_PER_S / MORE_A_SECOND_NS),
                             MORE_A_SECOND_NS);
    budget->at_ns = now_ns - (uint64_t)rest;
}

bool shmring_stall_budget_is_full(const struct shmring_stall_budget *budget, uint64_t now_ns)
{
    struct shmring_stall_budget later = *budget;
    refill(&later, now_ns);
    return later.first_ns == FIRST_A_SECOND_NS && later.more_ns == MORE_A_SECOND_NS;
}

static void spend(struct shmring_stall_budget *budget, int64_t waited_ns)
{
    /* What everybody has in any case is not counted: who has spent all recovers. */
    budget->first_ns -=
        greater(lesser(waited_ns, SHMRING_LEASE_FIRST_NS) - SHMRING_LEASE_MIN_NS, 0);
    budget->more_ns -= greater(waited_ns - SHMRING_LEASE_FIRST_NS, 0);
    budget->first_ns = greater(budget->first_ns, -DEBT_MAX_NS);
    budget->more_ns = greater(budget->more_ns, -DEBT_MAX_NS);
}

static bool is_further_try(const struct shmring_lease *lease, uint32_t generation)
{
    uint32_t later = (generation - lease->aborted) & (uint32_t)SHMRING_COMMIT_GENERATION_MASK;
    return lease->tries != 0 && later != 0 && later <= SHMRING_LEASE_FURTHER;
}

uint64_t shmring_lease_begin(struct shmring_lease *lease, struct shmring_stall_budget *budget,
                             uint32_t index, uint32_t generation, uint64_t now_ns, int64_t age_ns)
{
    if (lease->until_ns != 0 && lease->index == index && lease->generation == generation)
        return lease->until_ns;
    if (!is_further_try(lease, generation))
        lease->tries = 0;
    refill(budget, now_ns);
    int64_t length_ns = lesser(SHMRING_LEASE_FIRST_NS << lease->tries, SHMRING_LEASE_MAX_NS);
    /* Whoever says that it begins later than now lies, unless two cores' clocks are that far
     * apart. */
    if (budget->first_ns <= 0 || budget->more_ns <= 0 || age_ns < -SHMRING_LEASE_MIN_NS)
        length_ns = SHMRING_LEASE_MIN_NS;
    uint64_t age = age_ns > 0 ? (uint64_t)age_ns : 0;
    lease->index = index;
    lease->generation = generation;
    lease->from_ns = now_ns - (age < now_ns ? age : now_ns);
    lease->until_ns = lease->from_ns + (uint64_t)length_ns;
    return lease->until_ns;
}

void shmring_lease_end(struct shmring_lease *lease, struct shmring_stall_budget *budget,
                       uint64_t now_ns, bool aborted)
{
    if (lease->until_ns == 0)
        return;
    refill(budget, now_ns);
    /* Nobody waited for what is longer ago than the lease: it would be over. */
    uint64_t until_ns = now_ns < lease->until_ns ? now_ns : lease->until_ns;
    spend(budget, until_ns > lease->from_ns ? (int64_t)(until_ns - lease->from_ns) : 0);
    lease->until_ns = 0;
    lease->aborted = lease->generation;
    lease->tries = !aborted ? 0 : lease->tries < 6 ? lease->tries + 1 : 6;
}
