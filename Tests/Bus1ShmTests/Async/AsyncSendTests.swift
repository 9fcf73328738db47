import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

@Suite(.timeLimit(.minutes(2)))
struct AsyncSendTests {
    /// A ring of 16 slots, and a receiver that takes its time.
    @Test(arguments: Place.allCases)
    func everyWayOfSendingWaitsForRoom(_ place: Place) async throws {
        let test = TestBus()
        let bus = test.bus
        let count: UInt64 = 400
        let receiver = try inTask(place) {
            var options = Peer.Options()
            options.slots = 16
            let peer = try Peer(on: bus, options)
            let node = try peer.makeNode()
            try peer.publish(node, as: "slow")
            var next: UInt64 = 0
            while next < 4 * count {
                guard
                    case .message(let message) = try await peer.receive(until: .after(.seconds(20)))
                else { continue }
                let value = message.payload.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
                guard value == next else { throw PeerTestFailure("\(value) for \(next)") }
                next += 1
                if next % 32 == 0 { usleep(500) }
            }
            return true
        }
        let sender = try inTask(place) {
            let peer = try Peer(on: bus)
            let target = try peer.lookUp("slow", until: .after(.seconds(10)))
            let own = try peer.makeNode()
            let ownHandle = try peer.makeHandle(to: own).detach()
            var next: UInt64 = 0
            for _ in 0..<count {
                try await peer.send(next, to: target)
                let bytes = [next + 1, 0, 0]
                try await peer.send(bytes.span.bytes, to: target)
                var slice = try peer.loan(1000, until: .after(.seconds(5)))
                var room = slice.bytes
                room.withUnsafeMutableBytes { $0.storeBytes(of: next + 2, as: UInt64.self) }
                try await peer.send(slice, to: target)
                let last = [next + 3]
                try await peer.send(last.span.bytes, to: target, passing: [ownHandle])
                next += 4
            }
            return try await peer.receive(until: .after(.seconds(20))).isNotice
        }
        #expect(try await receiver.value)
        // The receiver is gone, and with it the handles.
        #expect(try await sender.value)
        withExtendedLifetime(test) {}
    }

    @Test(arguments: Place.allCases)
    func aSendThatIsCancelledOrLateSendsNothing(_ place: Place) async throws {
        let test = TestBus()
        let bus = test.bus
        let (codes, stamps) = try await inTask(place) {
            var options = Peer.Options()
            options.slots = 16
            let peer = try Peer(on: bus, options)
            let node = try peer.makeNode()
            let handle = try peer.makeHandle(to: node)
            var sent = 0
            while try peer.trySend(UInt64(sent), to: handle) != nil { sent += 1 }
            var codes: [Bus1Error.Code?] = []
            codes.append(
                await asyncCode {
                    try await peer.send(UInt64(1), to: handle, until: .after(.milliseconds(20)))
                })
            codes.append(
                await asyncCode {
                    var one = peer.transaction()
                    try one.send(UInt64(1), to: handle.id)
                    try await one.commit(until: .after(.milliseconds(20)))
                })
            withUnsafeCurrentTask { $0?.cancel() }
            codes.append(await asyncCode { try await peer.send(UInt64(1), to: handle) })
            codes.append(
                await asyncCode {
                    var one = peer.transaction()
                    try one.send(UInt64(1), to: handle.id)
                    try await one.commit()
                })
            var received = 0
            while try peer.tryReceive() != nil { received += 1 }
            return (codes, (sent, received))
        }.value
        #expect(codes == [.timedOut, .timedOut, .cancelled, .cancelled])
        #expect(stamps.0 == stamps.1)
        withExtendedLifetime(test) {}
    }
}

extension Delivery {
    var isNotice: Bool {
        borrowing get {
            switch self {
            case .message: false
            case .notice: true
            }
        }
    }
}
