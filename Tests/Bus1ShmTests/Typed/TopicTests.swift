import Bus1Topics
import Glibc
import Testing

@testable import Bus1Shm

private struct Tick: BitwiseCopyable, Sendable, Equatable { var number: UInt64, price: Int64 }

@Suite(.timeLimit(.minutes(1)))
struct TopicTests {
    private static func tick(_ number: UInt64) -> Tick { Tick(number: number, price: -1) }
    private static let soon = Deadline.after(.seconds(10))

    @Test func allSubscribersGetAllValuesAtOneInstantEach() throws {
        let test = TestBus()
        var topic = try Topic("ticks", on: test.bus, carrying: Tick.self, whenSlow: .wait)
        #expect(try topic.publish(Self.tick(1)) == 0)
        var first = try Subscription<Tick>(to: "ticks", on: test.bus, until: Self.soon)
        var second = try Subscription<Tick>(to: "ticks", on: test.bus, until: Self.soon)
        for number: UInt64 in 2...40 { #expect(try topic.publish(Self.tick(number)) == 2) }
        for number: UInt64 in 2...40 {
            let one = try first.next(until: Self.soon)
            let other = try second.next(until: Self.soon)
            #expect(one.value == Self.tick(number) && other.value == one.value)
            #expect(one.stamp == other.stamp && one.sequence == number && one.missed == 0)
        }
        #expect(try first.tryNext() == nil)
    }

    @Test func whoSubscribesLateGetsTheHistory() throws {
        let test = TestBus()
        var topic = try Topic(
            "ticks", on: test.bus, carrying: Tick.self, history: 3, whenSlow: .dropNewest)
        for number: UInt64 in 1...10 { try topic.publish(Self.tick(number)) }
        var late = try Subscription<Tick>(to: "ticks", on: test.bus, until: Self.soon)
        try topic.accept()
        #expect(topic.subscriberCount == 1)
        try topic.publish(Self.tick(11))
        for number: UInt64 in 8...11 {
            let update = try late.next(until: Self.soon)
            #expect(update.value.number == number && update.missed == 0)
        }
    }

    @Test func aSlowSubscriberIsToldHowManyItMissed() throws {
        let test = TestBus()
        var topic = try Topic("ticks", on: test.bus, carrying: Tick.self, whenSlow: .dropNewest)
        var slow = try Subscription<Tick>(to: "ticks", on: test.bus, slots: 16, until: Self.soon)
        for number: UInt64 in 1...100 { try topic.publish(Self.tick(number)) }
        var last: UInt64 = 0, missed = 0
        while let update = try slow.tryNext() {
            #expect(update.value.number == last + 1)
            last = update.value.number
            missed += update.missed
        }
        #expect(last >= 8 && last < 100 && missed == 0)
        try topic.publish(Self.tick(101))
        let update = try slow.next(until: Self.soon)
        #expect(update.value.number == 101 && update.missed == 100 - Int(last))
    }

    @Test func whoSkipsGetsTheNewestAlsoWhenItHadNoRoomForIt() throws {
        let test = TestBus()
        var topic = try Topic("ticks", on: test.bus, carrying: Tick.self, whenSlow: .skipToLatest)
        var slow = try Subscription<Tick>(to: "ticks", on: test.bus, slots: 16, until: Self.soon)
        for number: UInt64 in 1...100 { try topic.publish(Self.tick(number)) }
        let first = try slow.next(until: Self.soon)
        #expect(first.value.number < 100 && first.missed == Int(first.value.number) - 1)
        try topic.accept()
        let newest = try slow.next(until: Self.soon)
        #expect(newest.value.number == 100)
        #expect(newest.missed == 99 - Int(first.value.number))
        #expect(try slow.tryNext() == nil)
    }

    @Test func whoIsTooSlowIsDetachedAndToldSoBehindWhatItGot() throws {
        let test = TestBus()
        var topic = try Topic("ticks", on: test.bus, carrying: Tick.self, whenSlow: .detach)
        var slow = try Subscription<Tick>(to: "ticks", on: test.bus, slots: 16, until: Self.soon)
        var quick = try Subscription<Tick>(to: "ticks", on: test.bus, slots: 16, until: Self.soon)
        for number: UInt64 in 1...100 {
            try topic.publish(Self.tick(number))
            #expect(try quick.next(until: Self.soon).value.number == number)
        }
        #expect(topic.subscriberCount == 1)
        var got: UInt64 = 0
        do throws(Bus1Error) {
            while true { got = try slow.next(until: Self.soon).value.number }
        } catch { #expect(error.code == .nodeReleased) }
        #expect(got >= 8 && got < 100)
    }

    @Test func aPublisherThatWaitsLosesNothing() throws {
        let test = TestBus()
        var topic = try Topic("ticks", on: test.bus, carrying: Tick.self, whenSlow: .wait)
        let bus = test.bus
        let reader = TestThread {
            var subscription = try Subscription<Tick>(
                to: "ticks", on: bus, slots: 16, until: Self.soon)
            for number: UInt64 in 1...500 {
                let update = try subscription.next(until: Self.soon)
                #expect(update.value.number == number && update.missed == 0)
                if number % 50 == 0 { usleep(1000) }
            }
        }
        while topic.subscriberCount == 0, !Self.soon.hasPassed {
            try topic.accept()
            usleep(100)
        }
        for number: UInt64 in 1...500 {
            #expect(try topic.publish(Self.tick(number), until: Self.soon) == 1)
        }
        try reader.join()
    }

    @Test func theEndOfATopicComesBehindItsLastValue() throws {
        let test = TestBus()
        // Of somebody else, so that the bus goes on.
        let other = try Peer(on: test.bus)
        _ = other.account
        var subscription: Subscription<Tick>
        do {
            var topic = try Topic("ticks", on: test.bus, carrying: Tick.self)
            subscription = try Subscription<Tick>(to: "ticks", on: test.bus, until: Self.soon)
            try topic.publish(Self.tick(1))
        }
        #expect(try subscription.next(until: Self.soon).value.number == 1)
        do throws(Bus1Error) {
            _ = try subscription.next(until: Self.soon)
            Issue.record("a topic that is gone went on")
        } catch { #expect(error.code == .nodeReleased) }
    }

    @Test func aSubscriberThatIsGoneIsForgotten() throws {
        let test = TestBus()
        var topic = try Topic("ticks", on: test.bus, carrying: Tick.self)
        do {
            let visitor = try Subscription<Tick>(to: "ticks", on: test.bus, until: Self.soon)
            #expect(try topic.publish(Self.tick(1)) == 1)
            _ = try visitor.descriptor()
        }
        while topic.subscriberCount > 0, !Self.soon.hasPassed {
            try topic.publish(Self.tick(2))
            usleep(1000)
        }
        #expect(topic.subscriberCount == 0)
    }

    @Test func aTopicOfAnotherTypeIsRefused() throws {
        let test = TestBus()
        let topic = try Topic("ticks", on: test.bus, carrying: Tick.self)
        #expect(topic.subscriberCount == 0)
        do throws(Bus1Error) {
            _ = try Subscription<UInt64>(to: "ticks", on: test.bus, until: Self.soon)
            Issue.record("another type was admitted")
        } catch { #expect(error.code == .mismatch) }
    }
}
