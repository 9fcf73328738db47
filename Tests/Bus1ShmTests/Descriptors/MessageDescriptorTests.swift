import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// Descriptors in messages, between peers of this process.
@Suite(.timeLimit(.minutes(1)))
struct MessageDescriptorTests {
    @Test("S9: a message bears descriptors, taken once each and close-on-exec")
    func taken() throws {
        let pair = try DescriptorPair()
        let witnesses = (0..<3).map { _ in Witness() }
        try pair.sender.send(
            UInt64(7), to: pair.handle, descriptors: witnesses.map(\.writing))
        for one in witnesses { one.letGo() }
        var message = try pair.message()
        #expect(try message.load(as: UInt64.self) == 7)
        #expect(message.descriptorCount == 3)
        for index in [2, 0] {
            let descriptor = try #require(try message.takeDescriptor(index))
            #expect(witnesses[index].isThis(descriptor))
            #expect(fcntl(descriptor, F_GETFD) & FD_CLOEXEC != 0)
            #expect(try message.takeDescriptor(index) == nil)
            close(descriptor)
        }
        #expect(!witnesses[1].isAlone)
        drop(message)
        #expect(witnesses.allSatisfy { $0.isLeftAlone })
    }

    @Test("S9: up to 253 descriptors a message, more are refused")
    func most() throws {
        let pair = try DescriptorPair()
        let witness = Witness()
        let most = [Int32](repeating: witness.writing, count: 253)
        for payload in [0, 8, 5000] {
            let bytes = [UInt8](repeating: 5, count: payload)
            try pair.sender.send(
                bytes.span.bytes, to: pair.handle, passing: [], descriptors: most)
            var message = try pair.message()
            #expect(message.byteCount == payload && message.descriptorCount == 253)
            close(try #require(try message.takeDescriptor(252)))
        }
        let error = failure {
            try pair.sender.send(UInt64(1), to: pair.handle, descriptors: most + [0])
        }
        #expect(error?.code == .tooLarge)
        witness.letGo()
        #expect(witness.isLeftAlone)
        #expect(try pair.receiver.tryReceive() == nil)
    }

    @Test("S9, S11: a closed descriptor is refused and nothing has happened")
    func closed() throws {
        let pair = try DescriptorPair()
        let witness = Witness()
        for bad in [Int32(-1), 1_000_000] {
            let error = failure {
                try pair.sender.send(
                    UInt64(1), to: pair.handle, descriptors: [witness.writing, bad])
            }
            #expect(error?.code == .system && error?.errno == EBADF)
        }
        witness.letGo()
        #expect(witness.isLeftAlone)
        #expect(try pair.receiver.tryReceive() == nil)
    }

    @Test(
        "S9: descriptors go with slices and handles, and with several messages of one transaction")
    func mixed() throws {
        let pair = try DescriptorPair()
        let other = try Peer(on: pair.test.bus)
        let otherID = try pair.receiver.give(pair.node, to: other)
        let second = try pair.receiver.makeNode(tag: 2)
        let id = try pair.receiver.give(second, to: pair.sender)
        let witnesses = (0..<4).map { _ in Witness() }
        let own = try pair.sender.makeNode()
        let passed = try pair.sender.makeHandle(to: own)
        var slice = try pair.sender.loan(10_000)
        var bytes = slice.bytes
        bytes.withUnsafeMutableBytes { $0[9_999] = 9 }
        var one = pair.sender.transaction()
        try one.send(
            slice, to: pair.handle.id, passing: [passed.id],
            descriptors: [witnesses[0].writing, witnesses[1].writing])
        try one.send(UInt64(2), to: id, descriptors: [witnesses[2].writing])
        try one.commit()
        try other.send(UInt64(3), to: otherID, descriptors: [witnesses[3].writing])
        for one in witnesses { one.letGo() }
        var first = try pair.message()
        #expect(first.payload.withUnsafeBytes { $0[9_999] } == 9)
        #expect(first.handleCount == 1 && first.descriptorCount == 2)
        var next = try pair.message()
        #expect(next.tag == 2)
        var last = try pair.message()
        // Asked for in another order than sent.
        let third = try #require(try last.takeDescriptor())
        #expect(witnesses[3].isThis(third))
        close(third)
        let taken = try #require(try next.takeDescriptor())
        #expect(witnesses[2].isThis(taken))
        close(taken)
        close(try #require(try first.takeDescriptor(1)))
        #expect(witnesses[1].isLeftAlone && !witnesses[0].isAlone)
        drop(first)
        #expect(witnesses.allSatisfy { $0.isLeftAlone })
    }

    @Test("S9: descriptors of messages that are not sent, or dropped, are closed")
    func notSent() throws {
        let pair = try DescriptorPair(slots: 16)
        let (abandoned, dropped, unread) = (Witness(), Witness(), Witness())
        do {
            // A transaction that is not committed has not sent any.
            var one = pair.sender.transaction()
            try one.send(UInt64(0), to: pair.handle.id, descriptors: [abandoned.writing])
        }
        try pair.sender.send(UInt64(1), to: pair.handle, descriptors: [dropped.writing])
        while try pair.sender.trySend(UInt64(2), to: pair.handle) != nil {}
        for _ in 0..<3 {
            let error = failure {
                try pair.sender.send(
                    UInt64(3), to: pair.handle, descriptors: [abandoned.writing], until: .now)
            }
            #expect(error?.code == .timedOut)
        }
        abandoned.letGo()
        dropped.letGo()
        #expect(!dropped.isAlone)
        while try pair.receiver.tryReceive() != nil {}
        #expect(dropped.isLeftAlone)
        // The next one with descriptors says that those before it will not be named.
        try pair.sender.send(UInt64(4), to: pair.handle, descriptors: [unread.writing])
        unread.letGo()
        drop(try pair.message())
        #expect(abandoned.isLeftAlone && unread.isLeftAlone)
        // A node that is released drops its messages, and what came with them.
        let late = Witness()
        let node = try pair.receiver.makeNode()
        let id = try pair.receiver.give(node, to: pair.sender)
        try pair.sender.send(UInt64(5), to: id, descriptors: [late.writing])
        late.letGo()
        pair.receiver.core.releaseNode(node.id)
        while try pair.receiver.tryReceive() != nil {}
        #expect(late.isLeftAlone)
    }

    @Test("S9: messages kept by a peek or for another node keep their descriptors")
    func kept() throws {
        let pair = try DescriptorPair()
        let other = try pair.receiver.makeNode(tag: 9)
        let id = try pair.receiver.give(other, to: pair.sender)
        let (first, second) = (Witness(), Witness())
        try pair.sender.send(UInt64(1), to: pair.handle, descriptors: [first.writing])
        try pair.sender.send(UInt64(2), to: id, descriptors: [second.writing])
        first.letGo()
        second.letGo()
        guard case .message(let preview) = try pair.receiver.peek() else {
            Issue.record("nothing to peek at")
            return
        }
        #expect(preview.descriptorCount == 1)
        guard var selected = try pair.receiver.tryReceive(on: other) else {
            Issue.record("nothing for the other node")
            return
        }
        let taken = try #require(try selected.takeDescriptor())
        #expect(second.isThis(taken) && !first.isAlone)
        close(taken)
        var message = try pair.message()
        let before = try #require(try message.takeDescriptor())
        #expect(first.isThis(before))
        close(before)
        #expect(first.isLeftAlone && second.isLeftAlone)
    }

    @Test("S9: a further lane sends descriptors, once the peer has prepared the link")
    func lanes() throws {
        let pair = try DescriptorPair()
        let lane = try pair.sender.lane()
        let witness = Witness()
        var one = lane.transaction()
        try one.send(UInt64(1), to: pair.handle.id, descriptors: [witness.writing])
        do throws(Bus1Error) {
            try one.commit()
            Issue.record("no socket, no descriptors")
        } catch {
            #expect(error.code == .denied)
        }
        try pair.sender.prepareToLend(to: pair.handle)
        var another = lane.transaction()
        try another.send(UInt64(2), to: pair.handle.id, descriptors: [witness.writing])
        try another.commit()
        try pair.sender.send(UInt64(3), to: pair.handle, descriptors: [witness.writing])
        witness.letGo()
        for value in [UInt64(2), 3] {
            var message = try pair.message()
            #expect(try message.load(as: UInt64.self) == value)
            close(try #require(try message.takeDescriptor()))
        }
        #expect(witness.isLeftAlone)
    }

    @Test("S9: a full table leaves the message as it was, and it can be asked again")
    func fullTable() async {
        await #expect(processExitsWith: .success) {
            let pair = try DescriptorPair()
            let witness = Witness()
            let files = [Int32](repeating: witness.writing, count: 9)
            try pair.sender.send(UInt64(1), to: pair.handle, descriptors: files)
            witness.letGo()
            var message = try pair.message()
            allowDescriptors(300)
            var blockers: [Int32] = []
            while case let one = dup(0), one >= 0 { blockers.append(one) }
            for free in 0..<9 {
                let error = failure { _ = try message.takeDescriptor(3) }
                #expect(error?.code == .system && error?.errno == EMFILE)
                #expect(try message.load(as: UInt64.self) == 1 && message.descriptorCount == 9)
                if free < 9 { close(blockers.removeLast()) }
            }
            for index in 0..<9 { close(try #require(try message.takeDescriptor(index))) }
            #expect(witness.isLeftAlone)
        }
    }

    @Test("S9: a message outlives its peer, and its descriptors with it")
    func outliving() throws {
        let witness = Witness()
        let (message, unasked): (MessageKeeper, MessageKeeper) = try {
            let pair = try DescriptorPair()
            for value in [UInt64(1), 2, 3] {
                try pair.sender.send(value, to: pair.handle, descriptors: [witness.writing])
            }
            witness.letGo()
            return (MessageKeeper(try pair.message()), MessageKeeper(try pair.message()))
        }()
        #expect(!witness.isAlone)
        close(try #require(try message.message.takeDescriptor()))
        #expect(unasked.message.descriptorCount == 1 && !witness.isAlone)
        withExtendedLifetime(unasked) {}
    }
}

private final class MessageKeeper {
    var message: Message
    init(_ message: consuming Message) { self.message = message }
}

func drop(_ message: consuming Message) {}
