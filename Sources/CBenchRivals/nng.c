#include "rivals.h"

#include <stddef.h>

#if defined(BUS1_WITH_NNG) && __has_include(<nng/nng.h>)

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <stdlib.h>

/* A pair socket over ipc, with an abstract name: nothing stays behind in a file system. */
struct nng_end {
    nng_socket socket;
    nng_msg *out, *in;
    uint64_t payload_bytes;
    int flags; /* NNG_FLAG_NONBLOCK when spinning */
};

static int nng_end_open(const struct bench_rival_post *post, void **rival)
{
    struct nng_end *end = calloc(1, sizeof *end);
    if (end == NULL)
        return -ENOMEM;
    end->payload_bytes = post->payload_bytes;
    end->flags = post->spin ? NNG_FLAG_NONBLOCK : 0;
    *rival = end;
    if (nng_pair0_open(&end->socket) != 0)
        return -ENOMEM;
    nng_socket_set_size(end->socket, NNG_OPT_RECVMAXSZ, 0); /* no limit */
    nng_socket_set_int(end->socket, NNG_OPT_SENDBUF, 128);
    nng_socket_set_int(end->socket, NNG_OPT_RECVBUF, 128);
    /* Non-blocking: goes on trying until the other side listens. */
    int result = post->sends ? nng_dial(end->socket, post->address, NULL, NNG_FLAG_NONBLOCK)
                             : nng_listen(end->socket, post->address, NULL, 0);
    return result == 0 ? 0 : -EIO;
}

static void nng_end_close(void *rival)
{
    struct nng_end *end = rival;
    nng_close(end->socket);
    free(end);
}

static int nng_end_loan(void *rival, void **payload)
{
    struct nng_end *end = rival;
    if (nng_msg_alloc(&end->out, end->payload_bytes) != 0)
        return -ENOMEM;
    *payload = nng_msg_body(end->out);
    return 0;
}

static int nng_end_send(void *rival)
{
    struct nng_end *end = rival;
    int result;
    while ((result = nng_sendmsg(end->socket, end->out, end->flags)) == NNG_EAGAIN)
        ;
    return result == 0 ? 0 : -EIO;
}

static int nng_end_receive(void *rival, const void **payload)
{
    struct nng_end *end = rival;
    int result;
    while ((result = nng_recvmsg(end->socket, &end->in, end->flags)) == NNG_EAGAIN)
        ;
    if (result != 0)
        return -EIO;
    *payload = nng_msg_body(end->in);
    return nng_msg_len(end->in) == end->payload_bytes ? 0 : -EPROTO;
}

static void nng_end_release(void *rival)
{
    nng_msg_free(((struct nng_end *)rival)->in);
}

const struct bench_rival_operations *bench_nng(void)
{
    static const struct bench_rival_operations operations = {
        .name = "nng",
        .payload_max = UINT64_C(1) << 30,
        .can_block = true,
        .open = nng_end_open,
        .close = nng_end_close,
        .loan = nng_end_loan,
        .send = nng_end_send,
        .receive = nng_end_receive,
        .release = nng_end_release,
    };
    return &operations;
}

#else

const struct bench_rival_operations *bench_nng(void)
{
    return NULL;
}

#endif
