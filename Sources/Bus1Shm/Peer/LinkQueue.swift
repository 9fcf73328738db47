import CBus1System
import CShmRing
import Glibc

/// What stands in a link's socket, unread by the kernel's account: packets are looked at where they
/// are, taken from there when somebody wants them, and dropped in order once nobody can want them any
/// more.
///
/// Guarantees:
///   1. No descriptor is installed that was not asked for; none is dropped that may still be.
///   2. Where the table of descriptors is full, nothing changes.
///   3. What the sender writes can only fail what it sent itself.
///
/// NOTE - a message that is kept without asking for its descriptors holds up what was sent behind
/// them, up to what the sender may have under way on this link.
struct LinkQueue {
    private struct Entry {
        /// nil: what no honest peer sends.
        let packet: LinkPacket?
        let length: Int
        /// Nobody wants it any more.
        var isDone = false
    }

    private var entries: [Entry] = []
    private var byteCount = 0
    /// Of each lane, the newest attempt whose message was taken out of the ring: older ones that are
    /// not expected were skipped.
    private var reached: [UInt32: Attempt] = [:]
    /// Of messages that are with the program, unasked for.
    private var expected: Set<Attempt> = []
    /// The sender is dead, and everything that it wrote has been taken out of the ring.
    private var isFinished = false
    private var isBroken = false
    /// Packets that no honest peer sends.
    private var strangeCount = 0

    /// An honest sender's packets are few: the kernel bounds them.
    private static let entriesMax = 4096

    // MARK: What messages say

    /// A message that names this attempt was taken out of the ring. False: it can't be, an earlier one
    /// named it, or a later one.
    mutating func expect(_ attempt: Attempt, lanes: UInt32) -> Bool {
        guard attempt.lane < lanes, reached[attempt.lane].map({ $0 < attempt }) ?? true else {
            return false
        }
        reached[attempt.lane] = attempt
        expected.insert(attempt)
        return true
    }

    /// No message will name these: the sender says so behind every message that it sent before.
    mutating func abandon(_ attempts: [Attempt], at end: Int32) {
        for attempt in attempts where !expected.contains(attempt) {
            if let index = firstIndex(of: attempt, at: end) { entries[index].isDone = true }
        }
        dropDecided(at: end)
    }

    /// Looks no further than where it stands.
    private mutating func firstIndex(of attempt: Attempt, at end: Int32) -> Int? {
        let isIt = { (entry: Entry) in
            !entry.isDone && entry.packet?.kind == .descriptors && entry.packet?.attempt == attempt
        }
        if let index = entries.firstIndex(where: isIt) { return index }
        look(at: end, until: attempt)
        return entries.last.map(isIt) == true ? entries.count - 1 : nil
    }

    /// The message is gone, and nobody has asked.
    mutating func forget(_ attempt: Attempt, at end: Int32) {
        expected.remove(attempt)
        _ = firstIndex(of: attempt, at: end)
        dropDecided(at: end)
    }

    /// Nobody can ask for anything any more.
    var isOver: Bool { isFinished && expected.isEmpty }

    /// Nothing follows any more.
    mutating func finish(at end: Int32) {
        isFinished = true
        look(at: end)
        dropDecided(at: end)
    }

    /// How many packets came, since this was last asked, that no honest peer sends.
    mutating func takeStrange() -> Int {
        defer { strangeCount = 0 }
        return strangeCount
    }

    // MARK: What is asked for

    /// The descriptors of a message. The caller owns them.
    mutating func take(_ attempt: Attempt, count: Int, at end: Int32) throws(Bus1Error) -> [Int32] {
        let operation: StaticString = "take a descriptor"
        let index = try find(attempt, at: end)
        let descriptors = try install(index, at: end, operation)
        expected.remove(attempt)
        entries[index].isDone = true
        dropDecided(at: end)
        guard descriptors.count == count else {
            for one in descriptors { close(one) }
            throw Bus1Error(.severed, operation)
        }
        return descriptors
    }

    /// A duplicate of the first descriptor of a message, which the caller owns; they all stay there.
    mutating func copyFirst(_ attempt: Attempt, at end: Int32) throws(Bus1Error) -> Int32 {
        let operation: StaticString = "copy a descriptor"
        let index = try find(attempt, at: end)
        guard let first = try install(index, most: 1, at: end, operation).first else {
            throw Bus1Error(.severed, operation)
        }
        return first
    }

    private mutating func find(_ attempt: Attempt, at end: Int32) throws(Bus1Error) -> Int {
        guard end >= 0 || isFinished else {
            // There was no room for the socket itself.
            throw Bus1Error(.system, "take a link's socket", errno: EMFILE)
        }
        guard expected.contains(attempt), let index = firstIndex(of: attempt, at: end), !isBroken
        else {
            throw Bus1Error(.severed, "take a descriptor")
        }
        return index
    }

    /// The next news of the sender's segments, and the descriptor that belongs to it (-1: none), which
    /// the caller owns. nil: there is none, or no room for its descriptor.
    mutating func nextNews(at end: Int32) -> (packet: LinkPacket, descriptor: Int32)? {
        look(at: end)
        let index = entries.firstIndex { entry in
            guard !entry.isDone, let kind = entry.packet?.kind else { return false }
            return kind != .descriptors
        }
        guard !isBroken, let index, let packet = entries[index].packet else {
            dropDecided(at: end)
            return nil
        }
        var descriptor: Int32 = -1
        if packet.kind == .segment {
            guard let all = try? install(index, at: end, "take a segment") else { return nil }
            descriptor = all.first ?? -1
            for one in all.dropFirst() { close(one) }
        }
        entries[index].isDone = true
        return (packet, descriptor)
    }

    // MARK: The socket

    private mutating func install(
        _ index: Int, most: Int = attachedDescriptorsMax, at end: Int32, _ operation: StaticString
    ) throws(Bus1Error) -> [Int32] {
        let offset = entries[..<index].reduce(0) { $0 + $1.length }
        var result: Int32 = 0
        let descriptors = [Int32](unsafeUninitializedCapacity: most) { buffer, count in
            result = bus1_sys_link_take(end, offset, buffer.baseAddress, Int32(most))
            count = Int(max(0, result))
        }
        guard result >= 0 else { throw Bus1Error(.system, operation, errno: -result) }
        return descriptors
    }

    /// Takes note of what has come, up to the packet that is wanted.
    private mutating func look(at end: Int32, until wanted: Attempt? = nil) {
        while !isBroken, entries.count < Self.entriesMax {
            var packet = LinkPacket(kind: .retired, segment: 0)
            let length = bus1_sys_link_look(end, byteCount, &packet, MemoryLayout<LinkPacket>.size)
            guard length >= 0 else { return }
            guard length > 0 else {
                // The end of the connection, or an empty packet, which has no place among the others.
                if bus1_sys_link_has_ended(end) == 0 { giveUp(at: end) }
                return
            }
            let isWhole = length == MemoryLayout<LinkPacket>.size && packet.kind != nil
            if !isWhole { strangeCount += 1 }
            entries.append(Entry(packet: isWhole ? packet : nil, length: length))
            byteCount += length
            if shmring_unchecked_peek() {
                _ = try? install(entries.count - 1, at: end, "take descriptors")
            }
            if let wanted, isWhole, packet.kind == .descriptors, packet.attempt == wanted { return }
        }
    }

    private func isDecided(_ entry: Entry) -> Bool {
        guard !entry.isDone, let packet = entry.packet else { return true }
        guard packet.kind == .descriptors else { return isFinished }
        let attempt = packet.attempt
        guard !expected.contains(attempt) else { return false }
        return isFinished || reached[attempt.lane].map { attempt <= $0 } ?? false
    }

    private mutating func dropDecided(at end: Int32) {
        while !isBroken, let first = entries.first, isDecided(first) {
            guard bus1_sys_link_drop(end) == first.length else { return giveUp(at: end) }
            entries.removeFirst()
            byteCount -= first.length
        }
    }

    /// The sender is not honest: nothing that it sends here is used any more.
    private mutating func giveUp(at end: Int32) {
        isBroken = true
        entries = []
        byteCount = 0
        for _ in 0..<Self.entriesMax where bus1_sys_link_drop(end) < 0 { return }
    }
}
