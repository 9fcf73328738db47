// Frames in shared memory, from C++: filled in place, read in place, never copied.
//
//     c++ frames.cpp $(pkg-config --cflags --libs bus1) -o frames
//     ./frames show 10 &
//     ./frames shoot 10
#include <bus1.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

constexpr std::size_t width = 1920, height = 1080;

static void check(int result)
{
    char text[256];
    if (result == 0) return;
    bus1_last_error_text(text, sizeof(text));
    throw std::runtime_error(text);
}

struct Close {
    void operator()(bus1_peer *peer) const { bus1_close(peer); }
};
using Peer = std::unique_ptr<bus1_peer, Close>;

static Peer join()
{
    bus1_peer *peer;
    check(bus1_open(nullptr, nullptr, &peer));
    return Peer(peer);
}

// What was received, given back at the end of its life.
class Received {
public:
    explicit Received(const Peer &peer)
    {
        view.size = sizeof(view);
        check(bus1_receive(peer.get(), bus1_after(60000000000), &view));
    }
    Received(const Received &) = delete;
    Received &operator=(const Received &) = delete;
    ~Received() { bus1_give_back(&view); }
    const bus1_received *operator->() const { return &view; }

private:
    bus1_received view{};
};

static int shoot(int count)
{
    auto peer = join();
    uint64_t viewer;
    check(bus1_look_up(peer.get(), "viewer", bus1_after(60000000000), &viewer));
    for (int i = 0; i < count; i++) {
        bus1_slice *slice;
        void *pixels;
        check(bus1_loan(peer.get(), width * height, BUS1_NEVER, &slice, &pixels));
        std::memset(pixels, i, width * height);
        check(bus1_slice_send(peer.get(), slice, viewer, BUS1_NEVER));
    }
    return 0;
}

static int show(int count)
{
    auto peer = join();
    uint64_t node;
    check(bus1_node_make(peer.get(), 0, &node));
    check(bus1_publish(peer.get(), node, "viewer", BUS1_ACCESS_SAME_USER, 0, nullptr));
    for (int i = 0; i < count;) {
        Received frame(peer);
        if (frame->kind != BUS1_RECEIVED_MESSAGE) continue;
        if (frame->n_data != width * height) throw std::runtime_error("no frame");
        unsigned long sum = 0;
        auto pixels = static_cast<const unsigned char *>(frame->data);
        for (std::size_t k = 0; k < frame->n_data; k++) sum += pixels[k];
        std::printf("frame %d: mean %lu\n", i++, sum / frame->n_data);
    }
    return 0;
}

int main(int count, char **arguments)
try {
    if (count == 3 && std::string(arguments[1]) == "show") return show(std::atoi(arguments[2]));
    if (count == 3 && std::string(arguments[1]) == "shoot") return shoot(std::atoi(arguments[2]));
    std::fprintf(stderr, "usage: frames show COUNT | frames shoot COUNT\n");
    return 64;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
