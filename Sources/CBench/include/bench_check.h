/*
 * bench_check.h - what the processes of `bus1-bench check` share: a stage, and a recorder for each
 * peer, in one sparse memfd.
 *
 * The words of the stage say only who is where. They are stored and loaded without barriers, and
 * seldom: a run must not be put in order by its own bookkeeping.
 */
#pragma once

#include "bench_history.h"
#include "shmring_faults.h"

#define BENCH_CHECK_PEERS 512u
#define BENCH_CHECK_PLACES 64u /* nodes that one peer offers at a time */
#define BENCH_CHECK_COUNTS 32u
#define BENCH_CHECK_SERVERS 16u /* processes at a time that serve the bus, or stand by for that */

enum bench_check_phase {
    BENCH_CHECK_GATHER = 1, /* join, make nodes */
    BENCH_CHECK_ACT,    /* send, receive, everything */
    BENCH_CHECK_EMPTY,  /* only receive */
    BENCH_CHECK_LET_GO, /* give up all handles */
    BENCH_CHECK_SETTLE, /* receive the notices of that */
    BENCH_CHECK_LEAVE,
};

struct bench_check_peer {
    uint32_t phase; /* the one that this peer has done its part of; the peer */
    uint32_t dead;  /* the coordinator, once the process is gone */
    uint64_t sent;  /* transactions; the peer */
    uint64_t full;  /* attempts that found no room, or no living destination; the peer */
    uint64_t passed; /* transactions that passed handles on; the peer */
    uint64_t released; /* nodes; the peer */
    uint64_t forged; /* messages under grants of others; the peer */
    uint32_t places[BENCH_CHECK_PLACES]; /* numbers of nodes that can be looked up; the peer */
    uint64_t counts[BENCH_CHECK_COUNTS]; /* how often rules acted; the peer */
    uint64_t received; /* messages and notices; the peer */
    uint32_t asks; /* it waits for the broker; the peer */
    uint32_t pad0;
    uint64_t pad[7];
};

/* A process that does nothing but be the broker, its heir, or ready to be. */
struct bench_check_server {
    uint32_t role;     /* as `BrokerRole` in Bus1Shm; 0: it has not joined; the server */
    uint32_t received; /* messages; the server */
};

struct bench_check_stage {
    uint32_t phase;      /* the coordinator */
    uint32_t peer_count; /* that were ever started; the coordinator */
    uint64_t recorder_bytes;
    uint32_t is_broker_away; /* the coordinator: nobody shall ask it now */
    uint32_t may_bus_end; /* the coordinator: broker and heir may be gone, which is no fault */
    uint64_t pad[13];
    struct bench_check_peer peers[BENCH_CHECK_PEERS];
    struct bench_check_server servers[BENCH_CHECK_SERVERS];
    /* Behind the peers': the servers'. */
    struct shmring_fault_control faults[BENCH_CHECK_PEERS + BENCH_CHECK_SERVERS];
};

/* Makes it; the caller owns the descriptor. -errno. */
int bench_check_create(uint64_t recorder_bytes);
/* Maps it. NULL: errno says why. */
struct bench_check_stage *bench_check_map(int fd);
void bench_check_unmap(struct bench_check_stage *stage);
struct bench_recorder *bench_check_recorder(struct bench_check_stage *stage, uint32_t peer);

static inline uint32_t bench_check_load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}
static inline void bench_check_store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}
static inline struct bench_check_peer *bench_check_peer_at(struct bench_check_stage *stage,
                                                           uint32_t peer)
{
    return &stage->peers[peer];
}
static inline struct shmring_fault_control *bench_check_faults(struct bench_check_stage *stage,
                                                               uint32_t peer)
{
    return &stage->faults[peer];
}
static inline uint32_t *bench_check_place(struct bench_check_stage *stage, uint32_t peer,
                                          uint32_t place)
{
    return &stage->peers[peer].places[place];
}
static inline uint64_t *bench_check_count(struct bench_check_stage *stage, uint32_t peer,
                                          uint32_t count)
{
    return &stage->peers[peer].counts[count];
}

static inline struct bench_check_server *bench_check_server_at(struct bench_check_stage *stage,
                                                               uint32_t server)
{
    return &stage->servers[server];
}

/* Becomes this user, for good, with no group but its own. 0 or -errno. */
int bench_check_become(uint32_t user, int32_t parent);
