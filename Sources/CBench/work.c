#include "bench_work.h"

static uint64_t ticks_base, ns_base;

void bench_clock_begin(void)
{
    if (ns_base == 0) {
        ns_base = bench_monotonic_ns();
        ticks_base = bench_ticks();
    }
}

double bench_ticks_per_ns(void)
{
    bench_clock_begin();
    uint64_t ns;
    do
        ns = bench_monotonic_ns() - ns_base;
    while (ns < 20000000);
    return (double)(bench_ticks() - ticks_base) / (double)ns;
}

void bench_check_begin(struct bench_check *check, const struct bench_job *job)
{
    memset(check, 0, sizeof *check);
    for (uint64_t sender = 0; sender < BENCH_WORKERS_MAX; sender++)
        check->next[sender] = sender << BENCH_SENDER_SHIFT | job->first_sequence;
    check->remaining = job->count * job->senders;
}

void bench_check_fault(struct bench_check *check, uint64_t sequence)
{
    uint64_t sender = sequence >> BENCH_SENDER_SHIFT;
    uint64_t want = check->next[sender < BENCH_WORKERS_MAX ? sender : 0];
    if (check->faults++ == 0) {
        check->fault_want = want;
        check->fault_got = sequence;
    }
    /* Going on from the later of the two lets the run end although something was lost; a number
     * that is not of this run at all moves nothing. */
    uint64_t ahead = sequence - want;
    if (sender < BENCH_WORKERS_MAX && ahead < check->remaining) {
        check->next[sender] = sequence + 1;
        check->remaining -= ahead + 1;
    }
}

void bench_check_end(const struct bench_check *check, struct bench_outcome *outcome)
{
    outcome->sum = check->sum;
    outcome->messages = check->messages;
    outcome->faults = check->faults;
    outcome->fault_want = check->fault_want;
    outcome->fault_got = check->fault_got;
}

static void waste(uint64_t ticks)
{
    uint64_t begin = bench_ticks_unfenced();
    while (bench_ticks_unfenced() - begin < ticks)
        ;
}

unsigned bench_sabotage_step(const struct bench_job *job, uint64_t *index)
{
    const struct bench_sabotage *sabotage = &job->sabotage;
    if (sabotage->delay_ticks)
        waste(sabotage->delay_ticks);
    for (uint32_t i = 0; i < sabotage->system_calls; i++)
        (void)getppid();
    for (uint32_t i = 0; i < sabotage->allocations; i++) {
        void *volatile wasted = malloc(48);
        free(wasted);
    }
    uint64_t at = sabotage->fault_at;
    switch (sabotage->fault) {
    case BENCH_FAULT_DROP:
        return *index == at ? 0 : 1;
    case BENCH_FAULT_DOUBLE:
        return *index == at ? 2 : 1;
    case BENCH_FAULT_SWAP:
        if (*index == at)
            *index = at + 1;
        else if (*index == at + 1)
            *index = at;
        return 1;
    default:
        return 1;
    }
}
