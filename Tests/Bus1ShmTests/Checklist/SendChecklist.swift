import Glibc
import Testing

@testable import Bus1Shm

/// The lines S1 to S11 of docs/checklist.md that are about payloads, destinations and errors.
@Suite(.timeLimit(.minutes(1)))
struct SendChecklist {
    /// A peer with a node and a handle to it.
    private final class Loop {
        let test = TestBus()
        let peer: Peer
        let node: Node
        let handle: Handle

        init(_ options: Peer.Options = .init()) throws {
            peer = try Peer(on: test.bus, options)
            node = try peer.makeNode()
            handle = try peer.makeHandle(to: node)
        }
    }

    private func code(_ body: () throws -> Void) -> Bus1Error.Code? {
        do {
            try body()
            return nil
        } catch { return (error as? Bus1Error)?.code }
    }

    @Test("S1: a send to an unknown handle does nothing; one to nobody succeeds and has no effect")
    func destinations() throws {
        let loop = try Loop()
        let released = try loop.peer.makeHandle(to: loop.node).detach()
        try loop.peer.release(released)
        #expect(code { try loop.peer.trySend(UInt64(1), to: released) } == .noSuchHandle)
        let known = loop.handle.id
        #expect(
            code { try loop.peer.send([1].span.bytes, to: [known, released]) } == .noSuchHandle)
        #expect(try loop.peer.tryReceive() == nil)
        try loop.peer.send([1].span.bytes, to: [HandleID]())
        #expect(try loop.peer.tryReceive() == nil)
        try loop.peer.send(UInt64(2), to: loop.handle)
        #expect(try loop.peer.nextMessage().sequence == 1)
    }

    @Test("S4: a destination stands once in a transaction; two nodes of one peer are two messages")
    func repeatedDestinations() throws {
        let loop = try Loop()
        let other = try loop.peer.makeNode(tag: 7)
        let handles = [loop.handle.id, try loop.peer.makeHandle(to: other).detach()]
        #expect(
            code { try loop.peer.send([1].span.bytes, to: [handles[0], handles[1], handles[0]]) }
                == .duplicateDestination)
        #expect(try loop.peer.tryReceive() == nil)
        let stamp = try loop.peer.send([1].span.bytes, to: handles)
        let first = try loop.peer.nextMessage()
        let second = try loop.peer.nextMessage()
        #expect(first.stamp == stamp && second.stamp == stamp)
        #expect(first.node == loop.node.id && second.node == other.id)
        #expect(first.moreFollow && !second.moreFollow)
    }

    @Test(
        "S5: up to 1,024 pieces make one payload; none is a message, too",
        arguments: [0, 1, 2, 3, 100, 1024])
    func pieces(count: Int) throws {
        let loop = try Loop()
        for length in [0, 1, 40, 3000] {
            let whole = (0..<count * length).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            var gather = Gather()
            for index in 0..<count {
                gather.append(
                    whole.span.bytes.extracting(index * length..<(index + 1) * length))
            }
            #expect(gather.count == count && gather.byteCount == count * length)
            try loop.peer.send(gather, to: loop.handle)
            let message = try loop.peer.nextMessage()
            #expect(message.byteCount == count * length)
            let isSame = message.payload.withUnsafeBytes { $0.elementsEqual(whole) }
            #expect(isSame, "\(count) pieces of \(length)")
        }
    }

    @Test("S5: more than 1,024 pieces, or lengths whose sum overflows, are too large")
    func tooManyPieces() throws {
        let loop = try Loop()
        let piece: [UInt8] = [1]
        var many = Gather()
        for _ in 0...Gather.countMax { many.append(piece.span.bytes) }
        do {
            try loop.peer.send(many, to: loop.handle)
            Issue.record("1,025 pieces were sent")
        } catch { #expect(error.code == .tooLarge) }
        // Nothing is read of a piece before its length has been looked at.
        var long = Gather()
        let word = UnsafeRawPointer(bitPattern: 4096)!
        for _ in 0..<3 {
            long.append(
                RawSpan(_unsafeBytes: UnsafeRawBufferPointer(start: word, count: .max / 2)))
        }
        do {
            try loop.peer.send(long, to: loop.handle)
            Issue.record("more bytes than there are numbers were sent")
        } catch { #expect(error.code == .tooLarge) }
        #expect(try loop.peer.tryReceive() == nil)
    }

    @Test("S6: what the sender writes later does not change a copied message")
    func copies() throws {
        let loop = try Loop()
        for size in [8, 104, 105, 50_000] {
            var bytes = [UInt8](repeating: 1, count: size)
            try loop.peer.send(bytes.span.bytes, to: loop.handle)
            try loop.peer.send(bytes.span.bytes, to: [loop.handle.id])
            for index in bytes.indices { bytes[index] = 2 }
            for _ in 0..<2 {
                let message = try loop.peer.nextMessage()
                #expect(message.payload.withUnsafeBytes { $0.allSatisfy { $0 == 1 } })
            }
        }
    }

    @Test("S10: a node that is known to be gone is refused as a destination")
    func releasedDestination() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let owner = try Peer(on: test.bus)
        let sender = try Peer(on: test.bus)
        let node = try owner.makeNode()
        let id = try owner.give(node, to: sender)
        try sender.trySend(UInt64(1), to: id)
        owner.close()
        #expect(code { try sender.trySend(UInt64(1), to: id) } == .nodeReleased)
        #expect(code { try sender.send([1].span.bytes, to: [id]) } == .nodeReleased)
    }

    @Test("S11: whatever the error, the bus is as if the call had not been made")
    func errorsChangeNothing() throws {
        var options = Peer.Options()
        options.slots = 16
        options.poolBytes = 1 << 20
        let loop = try Loop(options)
        let gone = try loop.peer.makeHandle(to: loop.node).detach()
        try loop.peer.release(gone)
        let both = [loop.handle.id, gone]
        let long = [UInt8](repeating: 1, count: 50_000)
        for _ in 0..<100 {
            #expect(code { try loop.peer.send([1].span.bytes, to: both) } != nil)
            #expect(code { try loop.peer.send(long.span.bytes, to: both) } != nil)
            #expect(code { try loop.peer.send(long.span.bytes, to: [gone]) } != nil)
            #expect(code { _ = try loop.peer.loan(2 << 20) } != nil)
            // What was prepared for the first is taken back when the second is refused.
            var transaction = loop.peer.transaction()
            try transaction.send(long.span.bytes, to: both[0])
            try transaction.send([1].span.bytes, to: both[1])
            do {
                try transaction.commit(until: .now)
                Issue.record("sent to a handle that is gone")
            } catch { #expect(error.code == .noSuchHandle) }
        }
        // Full: neither a position nor memory is lost by trying.
        while try loop.peer.trySend(UInt64(1), to: loop.handle) != nil {}
        for _ in 0..<100 {
            #expect(try loop.peer.trySend(long.span.bytes, to: loop.handle) == nil)
            #expect(
                code {
                    try loop.peer.send(long.span.bytes, to: [loop.handle.id], until: .after(.zero))
                } != nil)
        }
        var count: UInt64 = 0
        while case .message(let message)? = try loop.peer.tryReceive() {
            count += 1
            #expect(message.sequence == count)
            #expect(try message.load(as: UInt64.self) == 1)
        }
        // One slot held the end of the handle that is gone.
        #expect(count >= 13)
        for _ in 0..<30 {
            try loop.peer.send(long.span.bytes, to: loop.handle, until: .after(.seconds(5)))
            #expect(try loop.peer.nextMessage().byteCount == long.count)
        }
    }
}
