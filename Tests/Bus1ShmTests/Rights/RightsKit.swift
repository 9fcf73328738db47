import CShmRing
import Testing

@testable import Bus1Shm

/// An owner with a node and a holder of handles to it, in one process.
struct OwnerAndHolder: ~Copyable {
    let test: TestBus
    let owner: Peer
    let node: Node
    let holder: Peer

    init(slots: Int = 1024) throws {
        let test = TestBus()
        var options = Peer.Options()
        options.slots = slots
        let owner = try Peer(on: test.bus, options)
        let node = try owner.makeNode(tag: 7)
        let holder = try Peer(on: test.bus, options)
        self.test = test
        self.owner = owner
        self.node = node
        self.holder = holder
    }

    /// One more handle of the holder.
    func give() throws -> HandleID { try owner.give(node, to: holder) }
}

func code(_ body: () throws -> Void) -> Bus1Error.Code? {
    do {
        try body()
        return nil
    } catch { return (error as? Bus1Error)?.code }
}

extension Peer {
    /// Sends without looking whether the handle leads anywhere, and under another grant than its own.
    func sendUnchecked(_ value: UInt64, to id: HandleID, grantsBeyond distance: UInt32 = 0) throws {
        guard let entry = entry(id) else { throw PeerTestFailure("no handle") }
        var value = value
        var stamp: UInt64 = 0
        let result = shmring_producer_send(
            entry.pointee.producer, core.clock, entry.pointee.grant ^ distance, 0, &value, 8,
            &stamp)
        guard result == 0 else { throw PeerTestFailure("result \(result)") }
    }

    /// Everything that is there now: notices as they are, messages as their one number.
    func everything() throws -> [Told] {
        var all: [Told] = []
        while let delivery = try tryReceive() {
            switch consume delivery {
            case .message(let message):
                all.append(
                    .message(
                        try message.load(as: UInt64.self), message.stamp, more: message.moreFollow))
            case .notice(let notice):
                all.append(.notice(notice.kind, notice.stamp, more: notice.moreFollow))
            }
        }
        return all
    }
}

/// What a peer received.
enum Told: Equatable {
    case message(UInt64, Stamp, more: Bool)
    case notice(Notice.Kind, Stamp, more: Bool)

    var kind: Notice.Kind? {
        if case .notice(let kind, _, _) = self { return kind }
        return nil
    }

    var number: UInt64? {
        if case .message(let number, _, _) = self { return number }
        return nil
    }

    var stamp: Stamp {
        switch self {
        case .message(_, let stamp, _), .notice(_, let stamp, _): return stamp
        }
    }

    var more: Bool {
        switch self {
        case .message(_, _, let more), .notice(_, _, let more): return more
        }
    }
}
