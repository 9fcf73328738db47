#include "rivals.h"

#include <stddef.h>

#if defined(BUS1_WITH_ICEORYX) && __has_include(<iceoryx_binding_c/publisher.h>)

#include <errno.h>
#include <iceoryx_binding_c/log.h>
#include <iceoryx_binding_c/publisher.h>
#include <iceoryx_binding_c/runtime.h>
#include <iceoryx_binding_c/subscriber.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench_clock.h"

/* A publisher and a subscriber that lose nothing: who is too fast waits. Polled, which is its best;
 * its daemon, iox-roudi, is started by the coordinator. */
struct iceoryx {
    iox_pub_storage_t publisher_storage;
    iox_sub_storage_t subscriber_storage;
    iox_pub_t publisher;
    iox_sub_t subscriber;
    void *out;
    const void *in;
    uint32_t payload_bytes;
};

static unsigned open_ends; /* of this process; with the last one its registration goes */

static int iceoryx_open(const struct bench_rival_post *post, void **rival)
{
    struct iceoryx *iceoryx = calloc(1, sizeof *iceoryx);
    if (iceoryx == NULL)
        return -ENOMEM;
    if (open_ends++ == 0) {
        char name[64];
        iox_set_loglevel(Iceoryx_LogLevel_Off);
        snprintf(name, sizeof name, "bus1-bench-%d", (int)getpid());
        iox_runtime_init(name);
    }
    *rival = iceoryx;
    iceoryx->payload_bytes = (uint32_t)post->payload_bytes;
    iox_pub_options_t publishes;
    iox_pub_options_init(&publishes);
    publishes.subscriberTooSlowPolicy = ConsumerTooSlowPolicy_WAIT_FOR_CONSUMER;
    iceoryx->publisher = iox_pub_init(&iceoryx->publisher_storage, "bus1-bench", post->address,
                                      post->sends ? "there" : "back", &publishes);
    iox_sub_options_t subscribes;
    iox_sub_options_init(&subscribes);
    /* Fewer than the daemon's pools have chunks, or it complains of every one that is missing. */
    subscribes.queueCapacity = post->payload_bytes <= 16384    ? 256
                               : post->payload_bytes <= 131072 ? 128
                                                               : 16;
    subscribes.queueFullPolicy = QueueFullPolicy_BLOCK_PRODUCER;
    iceoryx->subscriber = iox_sub_init(&iceoryx->subscriber_storage, "bus1-bench", post->address,
                                       post->sends ? "back" : "there", &subscribes);
    /* Before both know each other, messages would go nowhere. */
    uint64_t end = bench_monotonic_ns() + 5000000000u;
    while (!iox_pub_has_subscribers(iceoryx->publisher) ||
           iox_sub_get_subscription_state(iceoryx->subscriber) != SubscribeState_SUBSCRIBED)
        if (bench_monotonic_ns() > end)
            return -ETIMEDOUT;
    return 0;
}

static void iceoryx_close(void *rival)
{
    struct iceoryx *iceoryx = rival;
    iox_sub_deinit(iceoryx->subscriber);
    iox_pub_deinit(iceoryx->publisher);
    free(iceoryx);
    if (--open_ends == 0)
        iox_runtime_shutdown();
}

static int iceoryx_loan(void *rival, void **payload)
{
    struct iceoryx *iceoryx = rival;
    enum iox_AllocationResult result;
    while ((result = iox_pub_loan_chunk(iceoryx->publisher, &iceoryx->out,
                                        iceoryx->payload_bytes)) != AllocationResult_SUCCESS)
        if (result != AllocationResult_RUNNING_OUT_OF_CHUNKS)
            return -ENOBUFS;
    *payload = iceoryx->out;
    return 0;
}

static int iceoryx_send(void *rival)
{
    struct iceoryx *iceoryx = rival;
    iox_pub_publish_chunk(iceoryx->publisher, iceoryx->out);
    return 0;
}

static int iceoryx_receive(void *rival, const void **payload)
{
    struct iceoryx *iceoryx = rival;
    enum iox_ChunkReceiveResult result;
    while ((result = iox_sub_take_chunk(iceoryx->subscriber, &iceoryx->in)) !=
           ChunkReceiveResult_SUCCESS)
        if (result != ChunkReceiveResult_NO_CHUNK_AVAILABLE)
            return -EIO;
    *payload = iceoryx->in;
    return 0;
}

static void iceoryx_release(void *rival)
{
    struct iceoryx *iceoryx = rival;
    iox_sub_release_chunk(iceoryx->subscriber, iceoryx->in);
}

const struct bench_rival_operations *bench_iceoryx(void)
{
    static const struct bench_rival_operations operations = {
        .name = "iceoryx",
        .payload_max = UINT64_C(1) << 20, /* of the daemon's default pools */
        .open = iceoryx_open,
        .close = iceoryx_close,
        .loan = iceoryx_loan,
        .send = iceoryx_send,
        .receive = iceoryx_receive,
        .release = iceoryx_release,
    };
    return &operations;
}

#else

const struct bench_rival_operations *bench_iceoryx(void)
{
    return NULL;
}

#endif
