#include "rivals.h"

#include <stddef.h>

#if defined(BUS1_WITH_ZEROMQ) && __has_include(<zmq.h>)

#include <errno.h>
#include <stdlib.h>
#include <zmq.h>

/* A pair socket over ipc, with an abstract name: nothing stays behind in a file system. */
struct zeromq {
    void *context, *socket;
    zmq_msg_t out, in;
    uint64_t payload_bytes;
    int flags; /* ZMQ_DONTWAIT when spinning */
};

static int zeromq_open(const struct bench_rival_post *post, void **rival)
{
    int none = 0;
    struct zeromq *zeromq = calloc(1, sizeof *zeromq);
    if (zeromq == NULL)
        return -ENOMEM;
    zeromq->payload_bytes = post->payload_bytes;
    zeromq->flags = post->spin ? ZMQ_DONTWAIT : 0;
    zeromq->context = zmq_ctx_new();
    zeromq->socket = zmq_socket(zeromq->context, ZMQ_PAIR);
    zmq_setsockopt(zeromq->socket, ZMQ_LINGER, &none, sizeof none);
    *rival = zeromq;
    int result = post->sends ? zmq_connect(zeromq->socket, post->address)
                             : zmq_bind(zeromq->socket, post->address);
    return result == 0 ? 0 : -errno;
}

static void zeromq_close(void *rival)
{
    struct zeromq *zeromq = rival;
    zmq_close(zeromq->socket);
    zmq_ctx_term(zeromq->context);
    free(zeromq);
}

static int zeromq_loan(void *rival, void **payload)
{
    struct zeromq *zeromq = rival;
    if (zmq_msg_init_size(&zeromq->out, zeromq->payload_bytes) != 0)
        return -errno;
    *payload = zmq_msg_data(&zeromq->out);
    return 0;
}

static int zeromq_send(void *rival)
{
    struct zeromq *zeromq = rival;
    while (zmq_msg_send(&zeromq->out, zeromq->socket, zeromq->flags) < 0)
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
    return 0;
}

static int zeromq_receive(void *rival, const void **payload)
{
    struct zeromq *zeromq = rival;
    zmq_msg_init(&zeromq->in);
    while (zmq_msg_recv(&zeromq->in, zeromq->socket, zeromq->flags) < 0)
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
    *payload = zmq_msg_data(&zeromq->in);
    return zmq_msg_size(&zeromq->in) == zeromq->payload_bytes ? 0 : -EPROTO;
}

static void zeromq_release(void *rival)
{
    zmq_msg_close(&((struct zeromq *)rival)->in);
}

const struct bench_rival_operations *bench_zeromq(void)
{
    static const struct bench_rival_operations operations = {
        .name = "zeromq",
        .payload_max = UINT64_C(1) << 30,
        .can_block = true,
        .open = zeromq_open,
        .close = zeromq_close,
        .loan = zeromq_loan,
        .send = zeromq_send,
        .receive = zeromq_receive,
        .release = zeromq_release,
    };
    return &operations;
}

#else

const struct bench_rival_operations *bench_zeromq(void)
{
    return NULL;
}

#endif
