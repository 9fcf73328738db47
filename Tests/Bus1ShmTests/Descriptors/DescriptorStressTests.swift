import Glibc
import Synchronization
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// Lanes on threads of their own send descriptors over one link, and messages are asked on other threads.
@Suite(.timeLimit(.minutes(1)))
struct DescriptorStressTests {
    private final class Mail {
        var message: Message
        init(_ message: consuming Message) { self.message = message }

        /// What the pipe says that came with it; nil: nothing came.
        func contents() throws -> UInt64? {
            guard let end = try message.takeDescriptor() else { return nil }
            defer { close(end) }
            var value: UInt64 = 0
            return read(end, &value, 8) == 8 ? value : nil
        }
    }

    /// A pipe in which a number waits.
    private static func letter(_ value: UInt64) throws -> Int32 {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw Bus1Error(.system, "make a pipe", errno: errno) }
        var value = value
        _ = write(ends[1], &value, 8)
        close(ends[1])
        return ends[0]
    }

    /// What is handed from one thread to others.
    private final class Letters: @unchecked Sendable {
        // @unchecked: under its lock.
        /// Retained, as numbers: a lock takes no ownership of what is not Sendable.
        private let list = Mutex<[UInt]>([])
        private let isOver = Atomic(false)
        func put(_ mail: Mail) {
            let raw = UInt(bitPattern: Unmanaged.passRetained(mail).toOpaque())
            list.withLock { $0.append(raw) }
        }
        func close() { isOver.store(true, ordering: .releasing) }
        func next() -> Mail? {
            while true {
                let over = isOver.load(ordering: .acquiring)
                if let raw = list.withLock({ $0.popLast() }) {
                    return Unmanaged<Mail>.fromOpaque(UnsafeRawPointer(bitPattern: raw)!)
                        .takeRetainedValue()
                }
                if over { return nil }
                sched_yield()
            }
        }
    }

    @Test("S9: each message gets its own descriptors, whoever sends and asks beside it")
    func threads() throws {
        var dice = Dice()
        let seed = dice.seed
        let pair = try DescriptorPair(slots: 64)
        try pair.sender.prepareToLend(to: pair.handle)
        let (count, lanes) = (400, 3)
        let threads = try (0..<lanes).map { number in
            let lane = try pair.sender.lane()
            var dice = Dice(dice.next())
            let id = pair.handle.id
            return TestThread {
                for sequence in 0..<count {
                    let value = UInt64(number * count + sequence)
                    let end = try Self.letter(value)
                    defer { close(end) }
                    if dice.next() % 4 == 0 {
                        // One that comes to nothing.
                        var wrong = lane.transaction()
                        try wrong.send(value, to: id, descriptors: [end, end])
                        do throws(Bus1Error) {
                            let attempt = try lane.core.sendDescriptors(
                                [end], over: pair.out, lane: lane.state.number, until: .now)
                            lane.core.abandonDescriptors(
                                attempt: attempt, link: pair.out,
                                by: try lane.state.laneProducer(at: Int(pair.outIndex)))
                        } catch {
                            guard error.code == .overQuota else { throw error }
                        }
                    }
                    var one = lane.transaction()
                    try one.send(value, to: id, descriptors: [end])
                    try one.commit(until: .after(.seconds(20)))
                }
            }
        }
        let letters = Letters()
        let wrong = Mutex<[UInt64]>([])
        let readers = (0..<2).map { _ in
            TestThread {
                while let mail = letters.next() {
                    let value = try mail.message.load(as: UInt64.self)
                    if try mail.contents() != value { wrong.withLock { $0.append(value) } }
                }
            }
        }
        var dropped = 0
        for _ in 0..<(lanes * count) {
            let mail = Mail(try pair.receiver.nextMessage(until: .after(.seconds(20))))
            if dice.next() % 5 == 0 { dropped += 1 } else { letters.put(mail) }
        }
        for one in threads { try one.join() }
        letters.close()
        for one in readers { try one.join() }
        #expect(wrong.withLock { $0 } == [], "seed \(seed)")
        // Nothing is left under way once the last that was abandoned has been told of.
        let last = try Self.letter(7)
        try pair.sender.send(UInt64(7), to: pair.handle, descriptors: [last])
        close(last)
        while try pair.receiver.tryReceive() != nil {}
        #expect(dropped > 0)
    }
}
