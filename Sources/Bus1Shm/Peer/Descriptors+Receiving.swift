import CShmRing
import Glibc
import Synchronization

/// Descriptors that belong to a received message: in the link's socket until the program asks for the
/// first of them. Dropping this closes those that were not taken.
///
/// Any thread; also after the peer is closed, and after the sender is dead.
final class ReceivedDescriptors: Sendable {
    let count: Int
    private let attempt: Attempt
    /// nil: the sender never sent them, or named them twice.
    private let receiver: LinkReceiver?
    /// nil before the program asked; taken ones are -1.
    private let installed = Mutex<[Int32]?>(nil)

    fileprivate init(_ attempt: Attempt, count: Int, in receiver: LinkReceiver?) {
        self.attempt = attempt
        self.count = count
        self.receiver = receiver
    }

    /// Takes one. nil: it was taken before. The caller owns it; it is close-on-exec.
    ///
    /// - Throws: `system` (EMFILE) when this process has no room for all of them: nothing has changed,
    ///   and it can be asked again. `severed` when the sender did not send what its message says.
    func take(_ index: Int) throws(Bus1Error) -> Int32? {
        precondition((0..<count).contains(index), "the message has no descriptor \(index)")
        return try installed.withLock { (installed) throws(Bus1Error) in
            if installed == nil { installed = try receive() }
            let taken = installed![index]
            installed![index] = -1
            return taken < 0 ? nil : taken
        }
    }

    /// The first: for good if it is the only one; else a duplicate, and the first is still to be taken.
    func takeFirst() throws(Bus1Error) -> Int32? {
        guard count > 1 else { return try take(0) }
        guard let receiver else { throw Bus1Error(.severed, "copy a descriptor") }
        return try installed.withLock { (installed) throws(Bus1Error) in
            if let installed {
                let copy = installed[0] < 0 ? -1 : fcntl(installed[0], F_DUPFD_CLOEXEC, 3)
                guard copy >= 0 else {
                    throw Bus1Error(.system, "copy a descriptor", errno: errno)
                }
                return copy
            }
            return try receiver.withQueue(
                { (queue, end) throws(Bus1Error) in
                    try queue.copyFirst(attempt, at: end) as Int32?
                }, forked: nil)
        }
    }

    private func receive() throws(Bus1Error) -> [Int32] {
        guard let receiver else { throw Bus1Error(.severed, "take a descriptor") }
        let received = try receiver.withQueue(
            { (queue, end) throws(Bus1Error) in
                try queue.take(attempt, count: count, at: end) as [Int32]?
            }, forked: nil)
        guard let received else { throw Bus1Error(.forked, "take a descriptor") }
        return received
    }

    deinit {
        let rest = installed.withLock { $0 }
        if let rest {
            for one in rest where one >= 0 { close(one) }
        } else if let receiver {
            receiver.withQueue({ queue, end in queue.forget(attempt, at: end) }, forked: ())
        }
    }
}

extension PeerCore {
    /// For a message that names an attempt: to be called when it is taken out of the ring, in the order
    /// of the ring, also if the message is kept for later or dropped. The peer's own thread.
    func expectDescriptors(attempt: UInt64, count: Int, link: Link) -> ReceivedDescriptors {
        if connection.isAskedForSocket(to: link.peer) { findSocket(of: link) }
        if link.socket.withLock({ $0 }) == nil {
            let isRead = (try? readAllEvents()) != nil
            // Where the broker's news can't be read, for want of a descriptor, the socket is among them.
            guard !isRead || link.socket.withLock({ $0 }) != nil else {
                return ReceivedDescriptors(Attempt(rawValue: attempt), count: count, in: nil)
            }
        }
        let attempt = Attempt(rawValue: attempt)
        // One lane more than the program may use: the library's own.
        let isExpected = link.receiver.withQueue(
            { queue, _ in queue.expect(attempt, lanes: link.lanes + 1) }, forked: false)
        return ReceivedDescriptors(attempt, count: count, in: isExpected ? link.receiver : nil)
    }

    /// The link's peer is dead, and all that it wrote has been taken out of the ring: what its messages
    /// did not name is closed, and the socket with the last message that still has some in it.
    func endDescriptors(of link: Link) {
        link.socket.withLock { $0 = nil }
        link.receiver.withQueue({ queue, end in queue.finish(at: end) }, forked: ())
    }
}
