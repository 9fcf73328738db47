#if DEBUG
    import CShmRing
    import Glibc

    @testable import Bus1Shm

    /// How a message of the process tests goes.
    enum ItemKind: UInt32 {
        case unicast = 0
        case multicast = 1
        case loan = 2
        case longMulticast = 3
        /// Nothing follows from this sender.
        case end = 4
        /// Must never arrive: who sends it has no right to.
        case forged = 5
    }

    /// The begin of each payload of the process tests: who says it, and the how-manieth it is.
    struct Item: BitwiseCopyable {
        var tag: UInt32
        var kind: UInt32
        var sequence: UInt64

        init(_ tag: UInt32, _ kind: ItemKind, _ sequence: UInt64) {
            self.tag = tag
            self.kind = kind.rawValue
            self.sequence = sequence
        }

        /// What fills the rest of a long payload.
        var filling: UInt8 { UInt8(truncatingIfNeeded: sequence &+ UInt64(tag)) }

        /// Fills a payload in: this value, then the filling.
        func write(to buffer: UnsafeMutableRawBufferPointer) {
            memset(buffer.baseAddress!, Int32(filling), buffer.count)
            buffer.storeBytes(of: self, as: Item.self)
        }

        /// Reads a payload, every byte of it. nil: it is not what was written.
        init?(_ buffer: UnsafeRawBufferPointer) {
            guard buffer.count >= MemoryLayout<Item>.size else { return nil }
            self = buffer.loadUnaligned(as: Item.self)
            let rest = UnsafeRawBufferPointer(rebasing: buffer.dropFirst(MemoryLayout<Item>.size))
            guard let first = rest.first else { return }
            guard first == filling,
                memcmp(rest.baseAddress!, rest.baseAddress! + 1, rest.count - 1) == 0
            else { return nil }
        }
    }

    /// What one receiver got, in one line that two receivers can be compared by.
    struct Log {
        var count = 0
        /// Payloads that are not what was sent, and sequence numbers that are not the next.
        var bad: [String] = []
        var ends = 0
        var forged = 0
        var released = 0
        var severed = 0
        /// Why it was severed last: the rule, and a user of the trust domain.
        var breach = ""
        /// Messages whose stamp lay ahead of the clock.
        var ahead = 0
        var late = false
        /// Over the multicasts in the order in which they came, stamps included.
        var order: UInt64 = 0xcbf2_9ce4_8422_2325
        var multicasts = 0
        var last: [UInt64: UInt64] = [:]

        mutating func add(_ payload: RawSpan, _ stamp: Stamp) {
            count += 1
            guard let item = payload.withUnsafeBytes({ Item($0) }),
                let kind = ItemKind(rawValue: item.kind)
            else { return bad.append("payload") }
            switch kind {
            case .end: ends += 1
            case .forged: forged += 1
            default:
                let key = UInt64(item.tag) << 32 | UInt64(item.kind)
                let before = last[key] ?? 0
                if item.sequence != before + 1, bad.count < 4 {
                    bad.append("\(item.tag).\(item.kind):\(before)>\(item.sequence)")
                }
                last[key] = item.sequence
                guard kind == .multicast || kind == .longMulticast else { return }
                multicasts += 1
                for word in [key, item.sequence, stamp.rawValue] {
                    order = (order ^ word) &* 0x100_0000_01b3
                }
            }
        }

        /// key=value, space between; `last` as tag.kind:sequence with commas.
        var line: String {
            let lasts = last.map { "\($0.key >> 32).\($0.key & 0xffff_ffff):\($0.value)" }.sorted()
            return "count=\(count) bad=\(bad.joined(separator: ";")) ends=\(ends) forged=\(forged)"
                + " released=\(released) severed=\(severed) late=\(late) order=\(order)"
                + " breach=\(breach) ahead=\(ahead) multicasts=\(multicasts) last=\(lasts.joined(separator: ","))"
        }
    }

    /// Words that a sender counts up and a test reads, also after the sender was killed.
    final class Progress {
        static let wordCount = 8
        private let words: UnsafeMutablePointer<UInt64>

        /// Maps the file; makes it when it is not there.
        init(_ path: String) throws {
            let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o666)
            let size = Self.wordCount * MemoryLayout<UInt64>.size
            guard descriptor >= 0, ftruncate(descriptor, size) == 0 else {
                throw Bus1Error(.system, "make a progress file", errno: errno)
            }
            let memory = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
            close(descriptor)
            guard let memory, memory != MAP_FAILED else {
                throw Bus1Error(.system, "map a progress file", errno: errno)
            }
            words = memory.assumingMemoryBound(to: UInt64.self)
        }

        deinit { munmap(words, Self.wordCount * MemoryLayout<UInt64>.size) }

        subscript(kind: ItemKind) -> UInt64 {
            get { shmring_load_acquire(words + Int(kind.rawValue)) }
            set { shmring_store_release(words + Int(kind.rawValue), newValue) }
        }
    }
#endif
