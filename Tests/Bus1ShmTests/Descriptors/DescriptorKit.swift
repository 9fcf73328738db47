import CBus1System
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// A pipe whose writing end is sent about: its reading end hears when the last duplicate is closed, in
/// whatever process or socket it was.
final class Witness {
    private let reading: Int32
    private(set) var writing: Int32

    init() {
        var ends: [Int32] = [-1, -1]
        precondition(Self.pipe2(&ends, O_CLOEXEC) == 0)
        (reading, writing) = (ends[0], ends[1])
    }

    /// From now on only the duplicates keep it open.
    func letGo() {
        if writing >= 0 { close(writing) }
        writing = -1
    }

    /// True when no duplicate of the writing end is open anywhere.
    var isAlone: Bool {
        var end = pollfd(fd: reading, events: Int16(POLLIN), revents: 0)
        return poll(&end, 1, 0) == 1 && end.revents & Int16(POLLHUP) != 0
    }

    /// The same, but for what a fork of another test holds until it executes its program.
    var isLeftAlone: Bool { eventually(within: .seconds(5)) { isAlone } }

    /// Glibc's module lacks it.
    private static let pipe2 = unsafeBitCast(
        dlsym(nil, "pipe2"),
        to: (@convention(c) (UnsafeMutablePointer<Int32>, Int32) -> Int32).self)

    /// True for a duplicate of the writing end.
    func isThis(_ descriptor: Int32) -> Bool {
        var (own, other) = (stat(), stat())
        return fstat(reading, &own) == 0 && fstat(descriptor, &other) == 0
            && own.st_ino == other.st_ino && own.st_dev == other.st_dev
            && fcntl(descriptor, F_GETFL) & O_ACCMODE == O_WRONLY
    }

    deinit {
        letGo()
        close(reading)
    }
}

/// Two peers of this process; the sender has a handle to the receiver's node.
final class DescriptorPair {
    let test: TestBus
    let sender: Peer
    let receiver: Peer
    let node: Node
    let handle: Handle

    init(slots: Int = 64) throws {
        test = TestBus()
        sender = try Peer(on: test.bus)
        var options = Peer.Options()
        options.slots = slots
        receiver = try Peer(on: test.bus, options)
        node = try receiver.makeNode()
        let id = try receiver.give(node, to: sender)
        guard let handle = sender.adopt(id) else { throw Bus1Error(.noSuchHandle, "adopt") }
        self.handle = handle
    }

    /// As the sender sees it, and as the receiver does.
    var out: Link { link(of: sender.core, to: receiver.core) }
    var into: Link { link(of: receiver.core, to: sender.core) }

    var outIndex: Int { sender.core.linkOfPeer[receiver.core.ownPeer]! }

    private func link(of core: PeerCore, to other: PeerCore) -> Link {
        core.links.first { $0.peer == other.ownPeer }!
    }

    func send(_ descriptors: [Int32], lane: UInt32 = 0, until deadline: Deadline = .now)
        throws(Bus1Error) -> UInt64
    {
        try sender.core.sendDescriptors(descriptors, over: out, lane: lane, until: deadline)
    }

    func expect(_ attempt: UInt64, _ count: Int = 1) -> ReceivedDescriptors {
        receiver.core.expectDescriptors(attempt: attempt, count: count, link: into)
    }
}

extension DescriptorPair {
    func message() throws -> Message { try receiver.nextMessage() }
}

extension Peer {
    /// Sends a value with descriptors.
    func send(
        _ value: UInt64, to id: HandleID, descriptors: [Int32],
        until deadline: Deadline = .after(.seconds(5))
    ) throws(Bus1Error) {
        var one = transaction()
        try one.send(value, to: id, descriptors: descriptors)
        try one.commit(until: deadline)
    }

    func send(
        _ value: UInt64, to handle: borrowing Handle, descriptors: [Int32],
        until deadline: Deadline = .after(.seconds(5))
    ) throws(Bus1Error) {
        try send(value, to: handle.id, descriptors: descriptors, until: deadline)
    }
}

/// Opens something under each free number below the highest descriptor: one that was inherited from a busy process may
/// be far above the others.
func fillDescriptors() {
    let highest = entries(of: "/proc/self/fd").compactMap { Int32($0) }.max()!
    while true {
        let filler = open("/dev/null", O_RDONLY | O_CLOEXEC)
        guard filler >= 0, filler < highest else {
            close(filler)
            return
        }
    }
}

/// So many descriptors may be open in this process from now on, those that are there included.
func allowDescriptors(_ count: Int) {
    var limit = rlimit()
    precondition(getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0)
    limit.rlim_cur = UInt(count)
    precondition(setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0)
}

/// What the error of a call says.
func failure(_ body: () throws -> Void) -> Bus1Error? {
    do {
        try body()
        return nil
    } catch { return error as? Bus1Error }
}
