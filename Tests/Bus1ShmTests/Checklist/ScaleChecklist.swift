import Glibc
import Testing

@testable import Bus1Shm

/// The line X2 of docs/checklist.md; X1 is in Rights/ManyPeersTests.swift.
@Suite(.timeLimit(.minutes(1)))
struct ScaleChecklist {
    /// A peer with sixteen nodes, which `sender` may send to. Lists take no noncopyable elements.
    private final class Receiver {
        let peer: Peer
        private(set) var nodes: [NodeID] = []
        private(set) var handles: [HandleID] = []

        init(on bus: Bus, for sender: borrowing Peer) throws {
            peer = try Peer(on: bus)
            for tag in 0..<16 {
                let node = try peer.makeNode(tag: UInt64(tag))
                handles.append(try peer.give(node, to: sender))
                nodes.append(node.detach())
            }
        }
    }

    @Test("X2: 0 to 256 destinations, with and without payload, get what a seqpacket socket gets")
    func destinations() throws {
        let test = TestBus()
        let sender = try Peer(on: test.bus)
        let receivers = try (0..<16).map { _ in try Receiver(on: test.bus, for: sender) }
        let handles = (0..<256).map { receivers[$0 % 16].handles[$0 / 16] }
        var ends: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &ends) == 0)
        defer { for end in ends { close(end) } }
        for byteCount in [0, 1024] {
            for count in [0, 1, 2, 3, 7, 8, 9, 64, 255, 256] {
                let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ count) }
                let stamp = try sender.send(bytes.span.bytes, to: Array(handles[..<count]))
                for place in 0..<count {
                    #expect(write(ends[0], bytes, byteCount) == byteCount)
                    var packet = [UInt8](repeating: 0, count: 2048)
                    let length = read(ends[1], &packet, packet.count)
                    let message = try receivers[place % 16].peer.nextMessage()
                    #expect(message.stamp == stamp)
                    #expect(message.node == receivers[place % 16].nodes[place / 16])
                    #expect(message.byteCount == length)
                    let isSame = message.payload.withUnsafeBytes {
                        $0.elementsEqual(packet[..<length])
                    }
                    #expect(isSame)
                }
                for receiver in receivers { #expect(try receiver.peer.tryReceive() == nil) }
            }
        }
    }
}
