import CBus1TestSupport
import Glibc
import Testing

@testable import Bus1Shm

/// Every wait, while signals interrupt the waiting thread five thousand times a second: none ends early, none fails.
@Suite(.serialized, .timeLimit(.minutes(1)))
struct SignalTests {
    /// Runs the body under such signals, and shows that they came.
    private func underSignals(_ body: () throws -> Void) throws {
        let storm = try #require(test_storm_begin(200))
        let began = now_ms()
        let result = Result { try body() }
        let took = now_ms() - began
        let handled = test_storm_end(storm)
        try result.get()
        // One at least for each 20 ms, on a busy machine, too.
        #expect(handled > took / 20)
    }

    private func now_ms() -> UInt64 { monotonicNow_ns() / 1_000_000 }

    /// Does something on another thread, after a while.
    private func later(_ milliseconds: UInt32, _ body: @escaping @Sendable () -> Void) {
        // A thread of its own: a task's may not be free while this one waits.
        let box = Unmanaged.passRetained(Later(milliseconds, body))
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { raw in
                let later = Unmanaged<Later>.fromOpaque(raw!).takeRetainedValue()
                usleep(later.milliseconds * 1000)
                later.body()
                return nil
            }, box.toOpaque())
        pthread_detach(thread)
    }

    private final class Later: Sendable {
        let milliseconds: UInt32
        let body: @Sendable () -> Void
        init(_ milliseconds: UInt32, _ body: @escaping @Sendable () -> Void) {
            self.milliseconds = milliseconds
            self.body = body
        }
    }

    /// A peer that another thread has from now on.
    private final class Lent: @unchecked Sendable {
        // @unchecked: handed to one thread, which alone uses it then.
        let peer: Peer
        init(_ peer: consuming Peer) { self.peer = peer }
    }

    @Test("a wait for a message lasts as long as it should, and ends when one comes")
    func receiving() throws {
        let company = Company()
        var options = Peer.Options()
        options.spin = .zero
        let receiver = try Peer(on: company.test.bus, options)
        let node = try receiver.publishNode("receiver")
        let sender = Lent(try company.stranger())
        let handle = try sender.peer.look("receiver").detach()
        try underSignals {
            let began = now_ms()
            #expect(throws: Bus1Error.self) {
                _ = try receiver.receive(until: .after(.milliseconds(100)))
            }
            #expect(now_ms() - began >= 100)
            later(50) { _ = try? sender.peer.trySend(UInt64(5), to: handle) }
            let message = try receiver.nextMessage()
            #expect(try message.load(as: UInt64.self) == 5)
        }
        withExtendedLifetime(node) {}
    }

    @Test("a wait for room in a ring ends when there is some, or at its deadline")
    func sending() throws {
        let company = Company()
        var options = Peer.Options()
        options.slots = 64
        let receiver = Lent(try Peer(on: company.test.bus, options))
        let node = try receiver.peer.publishNode("receiver")
        let sender = try company.stranger()
        let handle = try sender.look("receiver")
        while try sender.trySend(UInt64(0), to: handle) != nil {}
        try underSignals {
            let began = now_ms()
            #expect(throws: Bus1Error.self) {
                try sender.send(UInt64(1), to: handle, until: .after(.milliseconds(100)))
            }
            #expect(now_ms() - began >= 100)
            later(50) {
                while let delivery = try? receiver.peer.tryReceive() { _ = consume delivery }
            }
            try sender.send(UInt64(1), to: handle, until: .after(.seconds(20)))
        }
        withExtendedLifetime(node) {}
    }

    @Test("joining, looking up a late name, introductions and releases work")
    func asking() throws {
        let company = Company()
        let late = Lent(try company.stranger())
        try underSignals {
            let peer = try company.stranger()
            #expect(throws: Bus1Error.self) {
                _ = try peer.lookUp("late", until: .after(.milliseconds(50)))
            }
            later(50) {
                guard let node = try? late.peer.makeNode() else { return }
                try? late.peer.publish(node, as: "late")
                _ = node.detach()
            }
            let handle = try peer.lookUp("late", until: .after(.seconds(20)))
            let node = try peer.makeNode()
            let own = try peer.makeHandle(to: node)
            try peer.send(([1] as [UInt8]).span.bytes, to: handle, passing: [own.id])
            own.release()
            node.release()
            handle.release()
            peer.close()
        }
    }

    @Test("descriptors and large payloads go across, and their waits end")
    func payloads() throws {
        let company = Company()
        let receiver = try company.stranger()
        let node = try receiver.publishNode("receiver")
        let sender = try company.stranger()
        let handle = try sender.look("receiver")
        let long = [UInt8](repeating: 7, count: 300_000)
        var pipe: (Int32, Int32) = (-1, -1)
        withUnsafeMutablePointer(to: &pipe) {
            _ = $0.withMemoryRebound(to: Int32.self, capacity: 2) { Glibc.pipe($0) }
        }
        defer {
            close(pipe.0)
            close(pipe.1)
        }
        try underSignals {
            for round in 0..<200 {
                try sender.send(long.span.bytes, to: handle, until: .after(.seconds(20)))
                let message = try receiver.nextMessage(until: .after(.seconds(20)))
                let size = message.byteCount
                #expect(size == long.count)
                if round % 10 == 0 {
                    try sender.send(
                        ([2] as [UInt8]).span.bytes, to: handle, passing: [],
                        descriptors: [pipe.1], until: .after(.seconds(20)))
                    var bearing = try receiver.nextMessage(until: .after(.seconds(20)))
                    let descriptor = try bearing.takeDescriptor()
                    #expect(close(try #require(descriptor)) == 0)
                }
            }
        }
        withExtendedLifetime(node) {}
    }

    @Test("a program is started and its end is waited for")
    func spawning() throws {
        let company = Company()
        let parent = try company.stranger()
        let node = try parent.makeNode()
        let own = try parent.makeHandle(to: node)
        try underSignals {
            let child = try parent.spawn("/bin/sleep", ["0.2"], giving: [own.id])
            let early = child.wait(until: .after(.milliseconds(50)))
            #expect(early == nil)
            let status = child.wait(until: .after(.seconds(20)))
            #expect(status == 0)
        }
    }
}
