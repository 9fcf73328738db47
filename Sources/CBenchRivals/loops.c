#include <errno.h>
#include <string.h>

#include "bench_rivals.h"
#include "bench_work.h"
#include "rivals.h"

const struct bench_rival_operations *bench_rival_find(const char *name)
{
    const struct bench_rival_operations *known[] = {bench_zeromq(), bench_nng(), bench_iceoryx()};
    for (unsigned i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i] != NULL && strcmp(known[i]->name, name) == 0)
            return known[i];
    return NULL;
}

static int put(const struct bench_rival_operations *operations, void *rival, uint64_t bytes,
               uint64_t sequence, uint64_t *sum)
{
    void *payload;
    int error = operations->loan(rival, &payload);
    if (error != 0)
        return error;
    *sum += bench_fill(payload, bytes, sequence);
    return operations->send(rival);
}

static int take(const struct bench_rival_operations *operations, void *rival, uint64_t bytes,
                struct bench_check *check)
{
    const void *payload;
    uint64_t sequence, sum;
    int error = operations->receive(rival, &payload);
    if (error != 0)
        return error;
    sum = bench_read(payload, bytes, &sequence);
    bench_check_note(check, sequence, sum);
    operations->release(rival);
    return 0;
}

int bench_rival_ping(const struct bench_rival_operations *operations, void *rival,
                     const struct bench_job *job, struct bench_outcome *outcome)
{
    struct bench_check check;
    bench_check_begin(&check, job);
    uint64_t sum = 0, before = outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count; i++) {
        if (job->interval_ticks)
            before = bench_pace(job, outcome->begin, i);
        int error = put(operations, rival, job->payload_bytes, job->first_sequence + i, &sum);
        if (error == 0)
            error = take(operations, rival, job->payload_bytes, &check);
        if (error != 0)
            return error;
        before = bench_sample(job, i, before);
    }
    outcome->end = bench_ticks();
    bench_check_end(&check, outcome);
    outcome->faults += sum != outcome->sum;
    return 0;
}

int bench_rival_pong(const struct bench_rival_operations *operations, void *rival,
                     const struct bench_job *job, struct bench_outcome *outcome)
{
    struct bench_check check;
    uint64_t sum = 0;
    bench_check_begin(&check, job);
    while (check.remaining) {
        uint64_t sequence = check.next[0];
        int error = take(operations, rival, job->payload_bytes, &check);
        if (error == 0)
            error = put(operations, rival, job->payload_bytes, sequence, &sum);
        if (error != 0)
            return error;
    }
    bench_check_end(&check, outcome);
    return 0;
}

int bench_rival_send(const struct bench_rival_operations *operations, void *rival,
                     const struct bench_job *job, struct bench_outcome *outcome)
{
    uint64_t sum = 0;
    int error = 0;
    outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count && error == 0; i++)
        error = put(operations, rival, job->payload_bytes, job->first_sequence + i, &sum);
    outcome->end = bench_ticks();
    outcome->sum = sum;
    outcome->messages = job->count;
    return error;
}

int bench_rival_receive(const struct bench_rival_operations *operations, void *rival,
                        const struct bench_job *job, struct bench_outcome *outcome)
{
    struct bench_check check;
    int error = 0;
    bench_check_begin(&check, job);
    while (check.remaining && error == 0)
        error = take(operations, rival, job->payload_bytes, &check);
    outcome->end = bench_ticks();
    bench_check_end(&check, outcome);
    return error;
}
