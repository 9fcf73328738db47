import CShmRing
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// When the broker aborts, and when not. Peers without a data path: each word is written by hand.
@Suite(.serialized, .timeLimit(.minutes(1)))
struct LeaseTests {
    private static let pending: UInt64 = 2 << 62
    private static let aborted: UInt64 = 1 << 62

    /// One with commit words, and one that knows it and asks.
    private struct Pair {
        let owner: TestPeer
        let asker: TestPeer
        var clock = shmring_clock()

        init(_ bus: Bus) throws {
            owner = try TestPeer(bus)
            asker = try TestPeer(bus)
            try owner.connection.publish("service", node: 1, access: .sameUser)
            _ = try asker.connection.lookUp("service", until: .after(.seconds(20)))
            _ = try owner.introduction()
            let page = owner.busPage.base.assumingMemoryBound(to: shmring_bus_page.self)
            #expect(shmring_clock_attach(page, &clock) == 0)
        }

        func begin(_ index: Int, generation: UInt32, aside: Int64 = 0) {
            let units = withUnsafePointer(to: clock) { shmring_clock_now($0) } >> 10
            let begun = UInt64(bitPattern: Int64(units) + aside) & 0xffff_ffff
            owner.setCommit(
                word: index, to: LeaseTests.pending | UInt64(generation) << 32 | begun)
        }

        func ask(_ index: Int, generation: UInt32) {
            // The broker may be behind with its packets.
            try? asker.connection.askToAbort(
                owner.id, commitIndex: UInt32(index), generation: generation)
        }

        func isPending(_ index: Int) -> Bool { owner.commit(word: index) >> 62 == 2 }
    }

    @Test func nothingIsAbortedBeforeItsLeaseHoweverOftenSomebodyAsks() throws {
        try withBus { bus in
            let pair = try Pair(bus)
            // Each is taken for another transaction, so that the first 100 have the first lease.
            for round in 1...300 {
                let generation = UInt32(round * 100)
                let begun_ns = monotonicNow_ns()
                pair.begin(3, generation: generation)
                while pair.isPending(3) {
                    for _ in 0..<4 { pair.ask(3, generation: generation) }
                }
                let age_ns = monotonicNow_ns() - begun_ns
                #expect(pair.owner.commit(word: 3) == Self.aborted | UInt64(generation) << 32)
                #expect(age_ns >= (round <= 50 ? 990_000 : 99_000), "in round \(round)")
            }
        }
    }

    @Test func eachFurtherTryHasTwiceTheTime() throws {
        try withBus { bus in
            let pair = try Pair(bus)
            for try_ in 0..<4 {
                let begun_ns = monotonicNow_ns()
                pair.begin(try_, generation: UInt32(7 + try_))
                pair.ask(try_, generation: UInt32(7 + try_))
                #expect(eventually { !pair.isPending(try_) }, "one ask is enough")
                #expect(monotonicNow_ns() - begun_ns >= 990_000 << UInt64(try_), "\(try_)")
            }
        }
    }

    @Test func whoSaysThatItBeginsInTheFutureHasTheShortestLeaseAndNotLess() throws {
        try withBus { bus in
            let pair = try Pair(bus)
            for round in 1...20 {
                let begun_ns = monotonicNow_ns()
                pair.begin(3, generation: UInt32(round), aside: 1 << 30)
                pair.ask(3, generation: UInt32(round))
                #expect(eventually { !pair.isPending(3) })
                #expect(monotonicNow_ns() - begun_ns >= 99_000)
            }
        }
    }

    @Test func aFinalWordAnotherGenerationAndAStrangerChangeNothing() throws {
        try withBus { bus in
            let pair = try Pair(bus)
            let stranger = try TestPeer(bus)
            pair.begin(3, generation: 5)
            let begun_ns = monotonicNow_ns()
            while monotonicNow_ns() < begun_ns + 10_000_000 {
                pair.ask(3, generation: 4)
                pair.ask(4, generation: 5)
                pair.ask(1 << 30, generation: 5)
                try? stranger.connection.askToAbort(
                    pair.owner.id, commitIndex: 3, generation: 5)
            }
            _ = try pair.asker.connection.makeOwnRing()
            _ = try stranger.connection.makeOwnRing()
            #expect(pair.isPending(3))
            pair.owner.setCommit(word: 3, to: 1234)
            pair.ask(3, generation: 5)
            _ = try pair.asker.connection.makeOwnRing()
            #expect(pair.owner.commit(word: 3) == 1234)
        }
    }

    /// A lane has one pending word, or lies; but the younger may be of an honest one.
    @Test func twoPendingWordsOfALaneAreAbortedButForTheYoung() throws {
        try withBus { bus in
            let pair = try Pair(bus)
            let old = -Int64(1 << 20)
            // More of them than a lease each would allow for: some 50 s.
            for index in 0..<500 { pair.begin(index, generation: UInt32(index + 1), aside: old) }
            for index in 0..<500 {
                #expect(
                    eventually {
                        pair.ask(index, generation: UInt32(index + 1))
                        return !pair.isPending(index)
                    })
            }
            for round in 1...20 {
                pair.begin(1, generation: 5000, aside: 1 << 20)
                pair.ask(1, generation: 5000)
                let begun_ns = monotonicNow_ns()
                pair.begin(2, generation: UInt32(5000 + round))
                while pair.isPending(2) { pair.ask(2, generation: UInt32(5000 + round)) }
                #expect(monotonicNow_ns() - begun_ns >= 99_000)
            }
        }
    }
}
