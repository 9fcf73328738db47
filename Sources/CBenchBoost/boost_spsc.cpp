#include "bench_boost.h"

#include <boost/lockfree/spsc_queue.hpp>
#include <cerrno>
#include <cstddef>
#include <new>

namespace {

struct Message {
    alignas(64) std::byte bytes[64];
};
using Queue = boost::lockfree::spsc_queue<Message, boost::lockfree::capacity<1024>>;

// With a fixed capacity it holds no pointers, so it may lie in shared memory.
struct Queues {
    alignas(128) Queue there, back;
};

struct End {
    Queue *out, *in;
    Message sent, received;
};

void prepare(void *shared)
{
    new (shared) Queues;
}

int open_end(const bench_rival_post *post, void **rival)
{
    auto *queues = static_cast<Queues *>(post->shared);
    auto *end = new (std::nothrow) End{};
    if (end == nullptr)
        return -ENOMEM;
    end->out = post->sends ? &queues->there : &queues->back;
    end->in = post->sends ? &queues->back : &queues->there;
    *rival = end;
    return 0;
}

void close_end(void *rival)
{
    delete static_cast<End *>(rival);
}

int loan(void *rival, void **payload)
{
    *payload = static_cast<End *>(rival)->sent.bytes;
    return 0;
}

int send_loaned(void *rival)
{
    auto *end = static_cast<End *>(rival);
    while (!end->out->push(end->sent)) {
    }
    return 0;
}

int receive_next(void *rival, const void **payload)
{
    auto *end = static_cast<End *>(rival);
    while (!end->in->pop(end->received)) {
    }
    *payload = end->received.bytes;
    return 0;
}

void release(void *)
{
}

} // namespace

const bench_rival_operations *bench_boost_spsc()
{
    static const bench_rival_operations operations = {
        "boost-spsc", sizeof(Queues), sizeof(Message), false,     prepare, open_end,
        close_end,    loan,           send_loaned,     receive_next, release,
    };
    return &operations;
}
