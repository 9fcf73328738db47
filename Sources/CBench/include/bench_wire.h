/*
 * bench_wire.h - the rivals that move bytes through descriptors: pipe, sockets, message queue.
 *
 * A wire is one worker's end: descriptors to send on, one to receive from. Byte streams are cut
 * into messages by the payload size, which both sides know. Every function returns 0 or -errno.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "bench_job.h"

enum bench_wire_kind {
    BENCH_WIRE_PIPE,
    BENCH_WIRE_STREAM,    /* AF_UNIX */
    BENCH_WIRE_SEQPACKET, /* AF_UNIX */
    BENCH_WIRE_QUEUE,     /* POSIX message queue */
    BENCH_WIRE_TCP,       /* over loopback */
};

/* The descriptors of one link, made by the coordinator, which owns them: at the sender's end one to
 * send and one to receive on, at the receiver's end likewise. Sockets use one for both. */
struct bench_link {
    int sender_send, sender_receive, receiver_send, receiver_receive;
};

/* buffer_bytes: of the pipe or socket, 0 for the default. max_message: queues only. */
int bench_link_make(uint32_t kind, uint64_t buffer_bytes, uint64_t max_message,
                    struct bench_link *link);
/* The largest message of a queue that may be made here. */
uint64_t bench_queue_message_max(void);

struct bench_wire {
    uint32_t kind; /* enum bench_wire_kind */
    bool spin;     /* descriptors are non-blocking and tried again and again */
    int send_fds[BENCH_WORKERS_MAX];
    uint32_t send_fd_count;
    int receive_fd;       /* -1: none */
    uint64_t chunk_bytes; /* payloads are cut into these; a batch is joined up to it. 0: don't */
    uint64_t datagram_max;
    uint8_t *buffer;
    uint64_t buffer_bytes;
};

/* Sets the descriptors' mode and allocates the buffer for payloads up to payload_max. */
int bench_wire_open(struct bench_wire *wire, uint64_t payload_max);
void bench_wire_close(struct bench_wire *wire);

int bench_wire_ping(struct bench_wire *wire, const struct bench_job *job,
                    struct bench_outcome *outcome);
int bench_wire_pong(struct bench_wire *wire, const struct bench_job *job,
                    struct bench_outcome *outcome);
int bench_wire_send(struct bench_wire *wire, const struct bench_job *job,
                    struct bench_outcome *outcome);
int bench_wire_receive(struct bench_wire *wire, const struct bench_job *job,
                       struct bench_outcome *outcome);
