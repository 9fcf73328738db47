import CShmRing
import Glibc

/// Address space that is not moved and holds memory only where it was touched. Empty in a forked child.
enum ReservedMemory {
    static func map<T>(_ type: T.Type, count: Int) -> UnsafeMutablePointer<T>? {
        let memory = mmap(
            nil, byteCount(type, count), PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let memory, memory != MAP_FAILED else { return nil }
        madvise(memory, byteCount(type, count), MADV_WIPEONFORK)
        return memory.bindMemory(to: type, capacity: count)
    }

    static func unmap<T>(_ pointer: UnsafeMutablePointer<T>, count: Int) {
        munmap(pointer, byteCount(T.self, count))
    }

    private static func byteCount<T>(_ type: T.Type, _ count: Int) -> Int {
        count * MemoryLayout<T>.stride
    }
}

/// Where the grants of one peer are: the owner's list, in four tables that never move. Other threads fill
/// entries before the message that shows them.
///
///     nodes    by their release words, under the lock of the nodes
///     entries  by the owner's number: what the path of a message reads
///     records  by the owner's number: the rest, under the lock of the nodes
///     bound    by ring, sender and the holder's number without its top bit: the owner's number; 0: none
final class GrantMemory: @unchecked Sendable {
    // @unchecked: the pointers are fixed; who writes behind them is said above and in NodeTable.
    let nodes: UnsafeMutablePointer<NodePlace>
    let entries: UnsafeMutablePointer<GrantEntry>
    let records: UnsafeMutablePointer<GrantRecord>
    let bound: UnsafeMutablePointer<BoundRing?>
    /// To be unmapped. Only the receiving thread.
    private var rings: [BoundRing] = []
    private var numbers: Set<BoundNumbers> = []

    typealias BoundNumbers = UnsafeMutablePointer<UInt32>
    typealias BoundRing = UnsafeMutablePointer<BoundNumbers?>

    init(_ operation: StaticString) throws(Bus1Error) {
        let nodes = ReservedMemory.map(NodePlace.self, count: Int(SHMRING_RELEASE_WORDS))
        let entries = ReservedMemory.map(GrantEntry.self, count: Int(PeerHot.grantsMax))
        let records = ReservedMemory.map(GrantRecord.self, count: Int(PeerHot.grantsMax))
        let bound = ReservedMemory.map(BoundRing?.self, count: PeerHot.ringsMax)
        guard let nodes, let entries, let records, let bound else {
            if let nodes { ReservedMemory.unmap(nodes, count: Int(SHMRING_RELEASE_WORDS)) }
            if let entries { ReservedMemory.unmap(entries, count: Int(PeerHot.grantsMax)) }
            if let records { ReservedMemory.unmap(records, count: Int(PeerHot.grantsMax)) }
            throw Bus1Error(.system, operation, errno: ENOMEM)
        }
        self.nodes = nodes
        self.entries = entries
        self.records = records
        self.bound = bound
    }

    /// The table of one holder's own numbers; made when first needed. nil: no address space. Only the receiving
    /// thread.
    func numbers(ofRing ring: UInt32, sender: UInt32) -> BoundNumbers? {
        if bound[Int(ring)] == nil {
            guard
                let made = ReservedMemory.map(BoundNumbers?.self, count: Int(SHMRING_SENDERS_MAX))
            else { return nil }
            rings.append(made)
            bound[Int(ring)] = made
        }
        let place = bound[Int(ring)]! + Int(sender)
        if place.pointee == nil {
            guard let made = ReservedMemory.map(UInt32.self, count: Int(PeerHot.boundMax)) else {
                return nil
            }
            numbers.insert(made)
            place.pointee = made
        }
        return place.pointee
    }

    /// A holder is gone, and its grants have ended. Only the receiving thread, under the lock of the nodes.
    func forgetNumbers(ofRing ring: UInt32, sender: UInt32) {
        guard let table = bound[Int(ring)]?[Int(sender)] else { return }
        bound[Int(ring)]![Int(sender)] = nil
        numbers.remove(table)
        ReservedMemory.unmap(table, count: Int(PeerHot.boundMax))
    }

    /// The owner's number for a holder's own one. Only the receiving thread.
    func owned(_ number: UInt32, sender: UInt32, ring: UInt32) -> UInt32? {
        let index = number & ~PeerHot.chosenByHolder
        guard index < PeerHot.boundMax, Int(ring) < PeerHot.ringsMax,
            let numbers = bound[Int(ring)]?[Int(sender)]
        else { return nil }
        return numbers[Int(index)] == 0 ? nil : numbers[Int(index)]
    }

    /// A ring has left its place; the last one, if it was another, has taken it.
    func move(fromRing old: UInt32, toRing new: UInt32) {
        bound[Int(new)] = old == new ? nil : bound[Int(old)]
        bound[Int(old)] = nil
    }

    deinit {
        ReservedMemory.unmap(nodes, count: Int(SHMRING_RELEASE_WORDS))
        ReservedMemory.unmap(entries, count: Int(PeerHot.grantsMax))
        ReservedMemory.unmap(records, count: Int(PeerHot.grantsMax))
        ReservedMemory.unmap(bound, count: PeerHot.ringsMax)
        for ring in rings { ReservedMemory.unmap(ring, count: Int(SHMRING_SENDERS_MAX)) }
        for table in numbers { ReservedMemory.unmap(table, count: Int(PeerHot.boundMax)) }
    }
}
