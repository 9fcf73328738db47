/*
 * bench_rivals.h - other people's message systems, where their libraries are installed.
 *
 * Each is a table of functions; the loops over them are the same for all. A message is made in the
 * place that `loan` gives, so that what can do without a copy does.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "bench_job.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How one end is to be opened. */
struct bench_rival_post {
    const char *address;    /* unique to the channel */
    void *shared;           /* a mapping of shared_bytes, for those that want one; else NULL */
    uint64_t payload_bytes; /* of every message */
    bool sends;             /* or receives; answers to pings go the other way */
    bool spin;              /* never sleep */
};

/* Functions that can fail return 0 or -errno; `rival` is what open returned. */
struct bench_rival_operations {
    const char *name;
    uint64_t shared_bytes; /* of the memfd that both ends map; 0: none */
    uint64_t payload_max;
    bool can_block;
    void (*prepare)(void *shared); /* once, before both ends open; may be NULL */
    int (*open)(const struct bench_rival_post *post, void **rival);
    void (*close)(void *rival);
    int (*loan)(void *rival, void **payload);
    int (*send)(void *rival); /* what was loaned; waits for room */
    int (*receive)(void *rival, const void **payload);
    void (*release)(void *rival); /* what was received */
};

/* NULL when this build knows no rival of that name. */
const struct bench_rival_operations *bench_rival_find(const char *name);

int bench_rival_ping(const struct bench_rival_operations *operations, void *rival,
                     const struct bench_job *job, struct bench_outcome *outcome);
int bench_rival_pong(const struct bench_rival_operations *operations, void *rival,
                     const struct bench_job *job, struct bench_outcome *outcome);
int bench_rival_send(const struct bench_rival_operations *operations, void *rival,
                     const struct bench_job *job, struct bench_outcome *outcome);
int bench_rival_receive(const struct bench_rival_operations *operations, void *rival,
                        const struct bench_job *job, struct bench_outcome *outcome);

#ifdef __cplusplus
}
#endif
