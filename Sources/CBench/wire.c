#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench_wire.h"
#include "bench_work.h"

#define JOIN_BYTES 65536u /* what a reader of a byte stream takes at once, at least */
#define JOIN_MESSAGES 64u /* datagrams in one sendmmsg or recvmmsg */

static bool is_datagram(const struct bench_wire *wire)
{
    return wire->kind == BENCH_WIRE_SEQPACKET || wire->kind == BENCH_WIRE_QUEUE;
}

static int set_mode(int fd, bool spin)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    flags = spin ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int bench_wire_open(struct bench_wire *wire, uint64_t payload_max)
{
    wire->buffer_bytes = payload_max + JOIN_BYTES;
    if (wire->buffer_bytes < wire->datagram_max)
        wire->buffer_bytes = wire->datagram_max;
    wire->buffer = aligned_alloc(4096, (wire->buffer_bytes + 4095) & ~UINT64_C(4095));
    if (wire->buffer == NULL)
        return -ENOMEM;
    memset(wire->buffer, 0, wire->buffer_bytes); /* page faults now, not in the run */
    int error = 0;
    for (uint32_t i = 0; i < wire->send_fd_count && error == 0; i++)
        error = set_mode(wire->send_fds[i], wire->spin);
    if (error == 0 && wire->receive_fd >= 0)
        error = set_mode(wire->receive_fd, wire->spin);
    return error;
}

void bench_wire_close(struct bench_wire *wire)
{
    for (uint32_t i = 0; i < wire->send_fd_count; i++)
        if (wire->send_fds[i] != wire->receive_fd)
            close(wire->send_fds[i]);
    if (wire->receive_fd >= 0)
        close(wire->receive_fd);
    free(wire->buffer);
    wire->buffer = NULL;
}

/* ---- bytes ---------------------------------------------------------------------------------- */

static bool again(int error)
{
    return error == EAGAIN || error == EINTR;
}

/* Writes all bytes to one descriptor. A datagram goes whole or not at all. */
static int put(const struct bench_wire *wire, int fd, const uint8_t *bytes, uint64_t length)
{
    while (length > 0) {
        ssize_t done;
        if (wire->kind == BENCH_WIRE_QUEUE)
            done = mq_send(fd, (const char *)bytes, length, 0) == 0 ? (ssize_t)length : -1;
        else if (wire->kind == BENCH_WIRE_PIPE)
            done = write(fd, bytes, length);
        else
            done = send(fd, bytes, length, MSG_NOSIGNAL);
        if (done < 0) {
            if (!again(errno))
                return -errno;
            continue;
        }
        bytes += done;
        length -= (uint64_t)done;
    }
    return 0;
}

/* Reads at least one byte, at most `room`: what is there, or one datagram. */
static ssize_t take_some(const struct bench_wire *wire, uint8_t *bytes, uint64_t room)
{
    for (;;) {
        ssize_t done;
        if (wire->kind == BENCH_WIRE_QUEUE)
            done = mq_receive(wire->receive_fd, (char *)bytes, room, NULL);
        else
            done = read(wire->receive_fd, bytes, room);
        if (done > 0)
            return done;
        if (done == 0)
            return -EPIPE;
        if (!again(errno))
            return -errno;
    }
}

static int take(const struct bench_wire *wire, uint8_t *bytes, uint64_t length)
{
    while (length > 0) {
        /* A queue refuses a buffer smaller than its largest message; ours has room behind. */
        uint64_t room = wire->kind == BENCH_WIRE_QUEUE ? wire->datagram_max : length;
        ssize_t done = take_some(wire, bytes, room);
        if (done < 0)
            return (int)done;
        if ((uint64_t)done > length)
            return -EPROTO;
        bytes += done;
        length -= (uint64_t)done;
    }
    return 0;
}

/* The piece that a large payload is cut into, a multiple of 64; the whole if it isn't cut. */
static uint64_t piece_bytes(const struct bench_wire *wire, uint64_t payload_bytes)
{
    uint64_t piece = wire->chunk_bytes;
    if (is_datagram(wire) && (piece == 0 || piece > wire->datagram_max))
        piece = wire->datagram_max;
    return piece == 0 || piece > payload_bytes ? payload_bytes : piece;
}

/* Fills and writes one message, piece by piece, to all receivers. Returns its sum in *sum. */
static int put_once(const struct bench_wire *wire, const struct bench_job *job, uint64_t sequence,
                    uint64_t *sum)
{
    uint64_t total = job->payload_bytes, piece = piece_bytes(wire, total);
    *sum = 0;
    for (uint64_t from = 0; from < total; from += piece) {
        uint64_t length = total - from < piece ? total - from : piece;
        *sum += bench_fill_part(wire->buffer, from, length, total, sequence);
        for (uint32_t i = 0; i < wire->send_fd_count; i++) {
            int error = put(wire, wire->send_fds[i], wire->buffer, length);
            if (error != 0)
                return error;
        }
    }
    return 0;
}

/* Reads one message, piece by piece. */
static int take_once(const struct bench_wire *wire, const struct bench_job *job,
                     uint64_t *sequence, uint64_t *sum)
{
    uint64_t total = job->payload_bytes, piece = piece_bytes(wire, total);
    *sum = 0;
    for (uint64_t from = 0; from < total; from += piece) {
        uint64_t length = total - from < piece ? total - from : piece;
        int error = take(wire, wire->buffer, length);
        if (error != 0)
            return error;
        if (from == 0)
            *sequence = bench_work_get(wire->buffer);
        *sum += bench_read_part(wire->buffer, from, length, total);
    }
    return 0;
}

/* One message as the job wants it: a handicapped wire moves each several times, counts it once. */
static int put_message(const struct bench_wire *wire, const struct bench_job *job,
                       uint64_t sequence, uint64_t *sum)
{
    uint64_t written = 0;
    int error = 0;
    for (uint32_t times = 0; times <= job->sabotage.repeats && error == 0; times++)
        error = put_once(wire, job, sequence, &written);
    *sum += written;
    return error;
}

static int take_message(const struct bench_wire *wire, const struct bench_job *job,
                        struct bench_check *check)
{
    uint64_t sequence = 0, sum = 0;
    int error = 0;
    for (uint32_t times = 0; times <= job->sabotage.repeats && error == 0; times++)
        error = take_once(wire, job, &sequence, &sum);
    if (error == 0)
        bench_check_note(check, sequence, sum);
    return error;
}

/* ---- ping-pong ------------------------------------------------------------------------------ */

int bench_wire_ping(struct bench_wire *wire, const struct bench_job *job,
                    struct bench_outcome *outcome)
{
    struct bench_check check;
    bench_check_begin(&check, job);
    uint64_t sum = 0, before = outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count; i++) {
        uint64_t index = i;
        if (job->interval_ticks)
            before = bench_pace(job, outcome->begin, i);
        if (job->sabotaged)
            bench_sabotage_step(job, &index);
        int error = put_message(wire, job, job->first_sequence + i, &sum);
        if (error == 0)
            error = take_message(wire, job, &check);
        if (error != 0)
            return error;
        before = bench_sample(job, i, before);
    }
    outcome->end = bench_ticks();
    bench_check_end(&check, outcome);
    outcome->faults += sum != outcome->sum;
    return 0;
}

int bench_wire_pong(struct bench_wire *wire, const struct bench_job *job,
                    struct bench_outcome *outcome)
{
    struct bench_check check;
    bench_check_begin(&check, job);
    uint64_t sum = 0;
    while (check.remaining) {
        uint64_t sequence = check.next[0];
        int error = take_message(wire, job, &check);
        if (error == 0)
            error = put_message(wire, job, sequence, &sum);
        if (error != 0)
            return error;
    }
    bench_check_end(&check, outcome);
    return 0;
}

/* ---- streams -------------------------------------------------------------------------------- */

/* Messages that go into one write, or one sendmmsg: a batch; more where the variant joins them. */
static uint64_t joined(const struct bench_wire *wire, const struct bench_job *job)
{
    uint64_t many = job->batch;
    if (many <= 1 || job->payload_bytes > JOIN_BYTES / 2)
        return 1;
    if (!is_datagram(wire) && wire->chunk_bytes > many * job->payload_bytes)
        many = wire->chunk_bytes / job->payload_bytes;
    if (is_datagram(wire) && many > JOIN_MESSAGES)
        many = JOIN_MESSAGES;
    if (many * job->payload_bytes > wire->buffer_bytes)
        many = wire->buffer_bytes / job->payload_bytes;
    return many;
}

static int put_datagrams(int fd, uint8_t *bytes, uint64_t payload_bytes, uint64_t many)
{
    struct mmsghdr headers[JOIN_MESSAGES];
    struct iovec vectors[JOIN_MESSAGES];
    for (uint64_t i = 0; i < many; i++) {
        vectors[i].iov_base = bytes + i * payload_bytes;
        vectors[i].iov_len = payload_bytes;
        headers[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &vectors[i], .msg_iovlen = 1}};
    }
    for (uint64_t done = 0; done < many;) {
        int sent = sendmmsg(fd, headers + done, (unsigned)(many - done), MSG_NOSIGNAL);
        if (sent < 0 && !again(errno))
            return -errno;
        done += sent > 0 ? (uint64_t)sent : 0;
    }
    return 0;
}

/* Fills `many` messages behind each other, then hands them over with one call for each receiver. */
static int put_batch(const struct bench_wire *wire, const struct bench_job *job, uint64_t sequence,
                     uint64_t many, uint64_t *sum)
{
    uint64_t bytes = job->payload_bytes;
    for (uint64_t i = 0; i < many; i++)
        *sum += bench_fill(wire->buffer + i * bytes, bytes, sequence + i);
    for (uint32_t i = 0; i < wire->send_fd_count; i++) {
        int error = wire->kind == BENCH_WIRE_SEQPACKET
                        ? put_datagrams(wire->send_fds[i], wire->buffer, bytes, many)
                        : put(wire, wire->send_fds[i], wire->buffer, many * bytes);
        if (error != 0)
            return error;
    }
    return 0;
}

int bench_wire_send(struct bench_wire *wire, const struct bench_job *job,
                    struct bench_outcome *outcome)
{
    uint64_t sum = 0, many = wire->kind == BENCH_WIRE_QUEUE ? 1 : joined(wire, job);
    int error = 0;
    outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count && error == 0;) {
        if (job->sabotaged || many == 1) {
            uint64_t index = i++;
            unsigned times = job->sabotaged ? bench_sabotage_step(job, &index) : 1;
            for (; times > 0 && error == 0; times--)
                error = put_message(wire, job, job->first_sequence + index, &sum);
        } else {
            uint64_t now = job->count - i < many ? job->count - i : many;
            error = put_batch(wire, job, job->first_sequence + i, now, &sum);
            i += now;
        }
    }
    outcome->end = bench_ticks();
    outcome->sum = sum;
    outcome->messages = job->count;
    return error;
}

/* Small messages of a byte stream: takes what is there and cuts it up. */
static int receive_joined(struct bench_wire *wire, const struct bench_job *job,
                          struct bench_check *check)
{
    uint64_t bytes = job->payload_bytes, held = 0, room = JOIN_BYTES / bytes * bytes;
    while (check->remaining) {
        ssize_t done = take_some(wire, wire->buffer + held, room - held);
        if (done < 0)
            return (int)done;
        held += (uint64_t)done;
        uint64_t at = 0;
        for (; held - at >= bytes; at += bytes) {
            uint64_t sequence, sum = bench_read(wire->buffer + at, bytes, &sequence);
            bench_check_note(check, sequence, sum);
        }
        held -= at;
        memmove(wire->buffer, wire->buffer + at, held);
    }
    return 0;
}

static int receive_datagrams(struct bench_wire *wire, const struct bench_job *job,
                             struct bench_check *check)
{
    struct mmsghdr headers[JOIN_MESSAGES];
    struct iovec vectors[JOIN_MESSAGES];
    uint64_t bytes = job->payload_bytes, many = joined(wire, job);
    for (uint64_t i = 0; i < many; i++) {
        vectors[i] = (struct iovec){.iov_base = wire->buffer + i * bytes, .iov_len = bytes};
        headers[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &vectors[i], .msg_iovlen = 1}};
    }
    while (check->remaining) {
        int came = recvmmsg(wire->receive_fd, headers, (unsigned)many, MSG_WAITFORONE, NULL);
        if (came < 0 && !again(errno))
            return -errno;
        for (int i = 0; i < came; i++) {
            uint64_t sequence, sum = bench_read(vectors[i].iov_base, bytes, &sequence);
            if (headers[i].msg_len != bytes)
                return headers[i].msg_len == 0 ? -EPIPE : -EPROTO;
            bench_check_note(check, sequence, sum);
        }
    }
    return 0;
}

int bench_wire_receive(struct bench_wire *wire, const struct bench_job *job,
                       struct bench_outcome *outcome)
{
    struct bench_check check;
    int error = 0;
    bench_check_begin(&check, job);
    if (!is_datagram(wire) && job->payload_bytes <= JOIN_BYTES / 2 && job->sabotage.repeats == 0)
        error = receive_joined(wire, job, &check);
    else if (wire->kind == BENCH_WIRE_SEQPACKET && joined(wire, job) > 1 && !job->sabotaged)
        error = receive_datagrams(wire, job, &check);
    else
        while (check.remaining && error == 0)
            error = take_message(wire, job, &check);
    outcome->end = bench_ticks();
    bench_check_end(&check, outcome);
    return error;
}
