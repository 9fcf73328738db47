import CBus1System
import CShmRing
import Glibc

/// Descriptors in one message.
let attachedDescriptorsMax = Int(BUS1_SYS_LINK_DESCRIPTORS_MAX)

extension PeerCore {
    /// Sends the descriptors of one message ahead of it, before anything is claimed; the message names
    /// the attempt. Duplicates go: the caller keeps its own. Lane's thread.
    ///
    /// If the message is not sent, ``abandonDescriptors(attempt:link:by:)`` follows. The messages of one
    /// lane name their attempts in the order in which they were made.
    ///
    /// - Parameters:
    ///   - producer: the lane's way into the other's ring, to tell it what was abandoned.
    ///   - deadline: how long to wait for the other to take what it was sent before.
    /// - Throws: `system` (EBADF) when one of them is not open, `tooLarge` for more than 253,
    ///   `overQuota` when the other has too many of this peer's unreceived, or all together this user
    ///   has too many under way, `denied` as ``linkSocket(of:lane:)``, `severed`. Nothing was sent then.
    func sendDescriptors(
        _ raw: [Int32], over link: Link, lane: UInt32,
        by producer: UnsafeMutablePointer<shmring_producer>? = nil,
        until deadline: Deadline = .after(.seconds(1))
    ) throws(Bus1Error) -> UInt64 {
        let operation: StaticString = "send descriptors"
        guard raw.count <= attachedDescriptorsMax else { throw Bus1Error(.tooLarge, operation) }
        let socket = try linkSocket(of: link, lane: lane, until: deadline)
        let limit = descriptorsUnderWayMax
        var pause_ms: Int32 = 1
        while true {
            var attempt = Attempt(lane: lane, count: 0)
            var underWay = 0
            let result = socket.withOutgoing { outgoing, end in
                outgoing.update(from: end)
                underWay = outgoing.descriptorsUnderWay
                guard underWay == 0 || underWay + raw.count <= limit else { return -EAGAIN }
                attempt = outgoing.nextAttempt(ofLane: lane)
                let result = outgoing.send(
                    LinkPacket(attempt: attempt, count: raw.count), raw, to: end)
                if result == 0 { outgoing.countAttempt(ofLane: lane) }
                return result
            }
            switch result {
            case 0: return attempt.rawValue
            case -EAGAIN: break
            case -ETOOMANYREFS:
                let all = Int(clamping: bus1_sys_descriptor_limit())
                throw tooManyDescriptors(operation, used: all, limit: all)
            default: throw LinkSocket.error(result, operation)
            }
            // What was abandoned may be all that stands there.
            tellAbandoned(link, lane: lane, by: producer)
            guard !deadline.hasPassed else {
                throw tooManyDescriptors(operation, used: underWay, limit: limit)
            }
            socket.pause(&pause_ms, until: deadline)
        }
    }

    /// The message that names this attempt was not sent, and will not be. The other closes what it got
    /// when it hears of it, or takes a later message of this lane that bears descriptors out of its ring.
    /// Lane's thread.
    func abandonDescriptors(
        attempt: UInt64, link: Link, by producer: UnsafeMutablePointer<shmring_producer>? = nil
    ) {
        guard let socket = link.socket.withLock({ $0 }) else { return }
        let attempt = Attempt(rawValue: attempt)
        socket.withOutgoing { outgoing, _ in
            outgoing.untold[attempt.lane, default: []].append(attempt)
        }
        tellAbandoned(link, lane: attempt.lane, by: producer)
        // A further lane tells with its next descriptors; the peer's own thread comes by before.
        if attempt.lane == 0 { linksToTell.append(link) }
    }

    /// Tells those who could not be told when it happened. The peer's own thread.
    func tellAllAbandoned() {
        linksToTell.removeAll { link in
            guard !link.isDead, let socket = link.socket.withLock({ $0 }) else { return true }
            tellAbandoned(link, lane: 0)
            return socket.withOutgoing { outgoing, _ in outgoing.untold[0, default: []].isEmpty }
        }
    }

    /// Tells the other, if its ring has room, which attempts of this lane no message will name. Lane's
    /// thread.
    func tellAbandoned(
        _ link: Link, lane: UInt32, by producer: UnsafeMutablePointer<shmring_producer>? = nil
    ) {
        guard let producer = producer ?? (lane == 0 ? link.producer : nil),
            let socket = link.socket.withLock({ $0 })
        else { return }
        let room = Int(producer.pointee.body_bytes) / MemoryLayout<Attempt>.size
        while true {
            var some = socket.withOutgoing { outgoing, _ in
                Array(outgoing.untold[lane, default: []].prefix(room))
            }
            guard !some.isEmpty else { return }
            var stamp: UInt64 = 0
            let result = shmring_producer_send(
                producer, clock, ReservedGrant.readSocket, 0, &some,
                UInt64(some.count * MemoryLayout<Attempt>.size), &stamp)
            guard result == 0 else { return }
            socket.withOutgoing { outgoing, _ in outgoing.untold[lane]?.removeFirst(some.count) }
        }
    }

    /// An eighth of what this process may open: whoever does not receive what it is sent must not use
    /// up what the user may have under way to all. One message always goes.
    private var descriptorsUnderWayMax: Int {
        max(attachedDescriptorsMax, Int(clamping: bus1_sys_descriptor_limit() / 8))
    }

    private func tooManyDescriptors(
        _ operation: StaticString, used: Int, limit: Int
    ) -> Bus1Error {
        Bus1Error(
            .overQuota, operation,
            refusal: .init(resource: .descriptors, used: used, limit: limit, account: account))
    }
}
