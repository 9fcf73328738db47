// Records what is published, and publishes it again. The programs know the topic's name and its type, not each other.
//
//     swift run example-record watch &
//     swift run example-record record prices.bin &
//     swift run example-record publish 2 100          # when 2 have subscribed, 100 prices
//     swift run example-record watch &
//     swift run example-record replay prices.bin 1    # to 1 subscriber, with the same pauses in between
import Bus1Shm
import Bus1Topics
import Glibc

struct Price: BitwiseCopyable {
    var cents: Int64
    /// CLOCK_MONOTONIC, when it was made.
    var made_ns: UInt64
}

func now_ns() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// A topic for whoever needs every value: the publisher waits for slow ones.
func openTopic(subscribers: Int) throws -> Topic<Price> {
    var topic = try Topic("prices", carrying: Price.self, whenSlow: .wait)
    var waiting = pollfd(fd: try topic.descriptor(), events: Int16(POLLIN), revents: 0)
    while topic.subscriberCount < subscribers {
        poll(&waiting, 1, -1)
        try topic.accept()
    }
    return topic
}

func publish(_ count: Int, to subscribers: Int) throws {
    var topic = try openTopic(subscribers: subscribers)
    var cents: Int64 = 4200
    for turn in 0..<Int64(count) {
        cents += turn * 31 % 7 - 3
        try topic.publish(Price(cents: cents, made_ns: now_ns()))
        usleep(500)
    }
}

/// Calls with each value, until the topic is gone.
func subscribe(_ body: (Price) -> Void) throws {
    var subscription = try Subscription(to: "prices", carrying: Price.self)
    while true {
        do throws(Bus1Error) {
            body(try subscription.next().value)
        } catch {
            guard error.code == .nodeReleased else { throw error }
            return
        }
    }
}

func watch() throws {
    var (count, last, sum) = (0, Int64(0), Int64(0))
    try subscribe { price in
        (count, last, sum) = (count + 1, price.cents, sum + price.cents)
    }
    print("\(count) prices, the last one \(last), \(sum) in all")
}

func open(_ path: String, _ mode: String) -> UnsafeMutablePointer<FILE> {
    guard let file = fopen(path, mode) else {
        fatalError("\(path): \(String(cString: strerror(errno)))")
    }
    return file
}

func record(in path: String) throws {
    let file = open(path, "w")
    var count = 0
    try subscribe { price in
        withUnsafeBytes(of: price) { bytes in
            count += fwrite(bytes.baseAddress, bytes.count, 1, file)
        }
    }
    guard fclose(file) == 0 else { fatalError("\(path): \(String(cString: strerror(errno)))") }
    print("\(count) prices recorded")
}

func replay(_ path: String, to subscribers: Int) throws {
    let file = open(path, "r")
    defer { fclose(file) }
    var topic = try openTopic(subscribers: subscribers)
    var price = Price(cents: 0, made_ns: 0)
    var count = 0
    var before: UInt64?
    while fread(&price, MemoryLayout<Price>.size, 1, file) == 1 {
        let made_ns = price.made_ns
        if let before, made_ns > before { usleep(UInt32(clamping: (made_ns - before) / 1000)) }
        before = made_ns
        price.made_ns = now_ns()
        try topic.publish(price)
        count += 1
    }
    print("\(count) prices replayed")
}

let words = CommandLine.arguments.dropFirst()
switch (words.first, words.dropFirst().first, words.dropFirst(2).first.flatMap { Int($0) }) {
case ("publish", let subscribers?, let count?): try publish(count, to: Int(subscribers) ?? 1)
case ("watch", nil, nil): try watch()
case ("record", let path?, nil): try record(in: path)
case ("replay", let path?, let subscribers): try replay(path, to: subscribers ?? 1)
default:
    fatalError(
        "example-record watch | record FILE | publish SUBSCRIBERS COUNT | replay FILE [SUBSCRIBERS]"
    )
}
