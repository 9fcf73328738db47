#if DEBUG
    import Glibc
    import Synchronization

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    /// What this process has in use: its memory, too.
    private struct InUse {
        var descriptors = entries(of: "/proc/self/fd").count
        var mappings = 0
        var bytes = 0

        init() {
            for line in lines(of: "/proc/self/maps") where !line.contains("[heap]") {
                // What stands beside each other may count as one, or not.
                if line.contains("memfd:") { mappings += 1 }
            }
            for line in lines(of: "/proc/self/status") {
                let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" || $0 == ":" })
                if words.count > 1, ["RssAnon", "RssShmem"].contains(words[0]) {
                    bytes += Int(words[1])! * 1024
                }
            }
        }

        private func lines(of path: String) -> [Substring] {
            guard let file = fopen(path, "re") else { return [] }
            defer { fclose(file) }
            var text: [UInt8] = []
            var block = [UInt8](repeating: 0, count: 65536)
            while true {
                let count = fread(&block, 1, block.count, file)
                guard count > 0 else { break }
                text += block[..<count]
            }
            return String(decoding: text, as: UTF8.self).split(separator: "\n")
        }
    }

    private struct WentWrong: Error {
        let what: String
        init(_ what: String) { self.what = what }
    }

    /// A thread that sends through a lane, to whatever handle it finds, until there is none.
    private final class LaneSender: Sendable {
        private struct Shared {
            var handle: HandleBox?
            var isOver = false
            var sent = 0
        }
        final class HandleBox: Sendable {
            let handle: Handle
            init(_ handle: consuming Handle) { self.handle = handle }
        }
        final class LaneBox: @unchecked Sendable {
            // @unchecked: the thread's from its beginning on.
            let lane: Lane
            init(_ lane: consuming Lane) { self.lane = lane }
        }
        private let shared = Mutex(Shared())
        private let lane: LaneBox

        init(_ lane: consuming Lane) { self.lane = LaneBox(lane) }

        var sent: Int { shared.withLock { $0.sent } }

        func use(_ handle: consuming Handle) {
            let box = HandleBox(handle)
            shared.withLock { $0.handle = box }
        }

        func rest() { shared.withLock { $0.handle = nil } }

        func end() { shared.withLock { $0.isOver = true } }

        func run() {
            let long = [UInt8](repeating: 3, count: 5000)
            var turn = 0
            while true {
                turn += 1
                let (handle, isOver) = shared.withLock { ($0.handle, $0.isOver) }
                if isOver { return }
                guard let handle else {
                    usleep(20)
                    continue
                }
                do throws(Bus1Error) {
                    let isSent =
                        turn % 16 == 0
                        ? try lane.lane.trySend(long.span.bytes, to: handle.handle)
                        : try lane.lane.trySend(UInt64(turn), to: handle.handle)
                    if isSent != nil { shared.withLock { $0.sent += 1 } }
                } catch { usleep(20) }
            }
        }
    }

    extension Actor {
        /// ROUNDS WAYS: lives through that many peers, each of which joins, exchanges messages, handles, slices, and goes;
        /// with "lane" a further thread sends to each of them all the time. Says what there is more than after a
        /// tenth as many before: descriptors, mappings, KiB.
        func outlive(_ words: [String]) throws -> String {
            let rounds = Int(words[0])!
            let isOnLane = words.dropFirst().contains("lane")
            let node = NodeBox(try box.peer.makeNode(tag: 7))
            let other = NodeBox(try box.peer.makeNode(tag: 8))
            let name = "outlive\(getpid())"
            try box.peer.publish(node.node, as: name)
            let sender = isOnLane ? LaneSender(try box.peer.lane()) : nil
            var thread = pthread_t()
            if let sender {
                let result = pthread_create(
                    &thread, nil,
                    { raw in
                        Unmanaged<LaneSender>.fromOpaque(raw!).takeRetainedValue().run()
                        return nil
                    }, Unmanaged.passRetained(sender).toOpaque())
                guard result == 0 else { throw WentWrong("no thread") }
            }
            defer {
                if let sender {
                    sender.end()
                    pthread_join(thread, nil)
                }
            }
            func meet(_ count: Int) throws -> InUse {
                for round in 0..<count { try meetOne(name, other, round, sender) }
                sender?.rest()
                try settle()
                return InUse()
            }
            _ = try meet(max(1, rounds / 10))
            let before = try meet(max(1, rounds / 10))
            let after = try meet(rounds)
            return "\(after.descriptors - before.descriptors) \(after.mappings - before.mappings) "
                + "\((after.bytes - before.bytes) / 1024) places \(box.peer.core.links.next) "
                + "departed \(box.peer.core.departed.count) sent \(sender?.sent ?? 0)"
        }

        /// Receives until there is nothing any more.
        private func settle() throws {
            let until = Deadline.after(.milliseconds(200))
            while !until.hasPassed {
                do throws(Bus1Error) {
                    while true { _ = try box.peer.receive(until: .after(.milliseconds(20))) }
                } catch { guard error.code == .timedOut else { throw error } }
                if box.peer.core.departed.isEmpty { return }
            }
        }

        private func meetOne(
            _ name: String, _ node: NodeBox, _ round: Int, _ sender: LaneSender?
        ) throws {
            // On a loaded machine everybody is slow.
            let visitor = Peer(
                core: try PeerCore(
                    Bus(path: busPath), .init(), ticket: .none, until: .after(.seconds(40))))
            let visited = try visitor.lookUp(name, until: .after(.seconds(5)))
            let inbox = try visitor.makeNode()
            let word: [UInt64] = [UInt64(round)]
            let back = try visitor.makeHandle(to: inbox)
            let again = try visitor.makeHandle(to: inbox)
            try visitor.send(word.span.bytes, to: visited, passing: [back.id, again.id])
            var held = try receiveOf(round)
            guard let first = held.takeHandle(0), let second = held.takeHandle(1) else {
                throw WentWrong("no handle came")
            }
            if let sender { sender.use(second) }
            // Both ways: short, long, to two at once, and with a right of the other's own.
            let long = [UInt8](repeating: 9, count: 6000)
            // The lane may have filled the visitor's ring.
            while try box.peer.trySend(word[0], to: first) == nil { try drain(visitor) }
            _ = try box.peer.trySend(long.span.bytes, to: first)
            if round % 3 == 0 {
                let own = try box.peer.makeHandle(to: node.node)
                _ = try? box.peer.send(
                    word.span.bytes, to: [first.id, own.id], until: .after(.milliseconds(1)))
            }
            try visitor.send(long.span.bytes, to: visited)
            let kept = try receiveOf(nil)
            if round % 2 == 0 { try drain(visitor) }
            switch round % 4 {
            case 0: visitor.close()
            case 1: try visitor.disconnect()
            default: _ = consume visitor
            }
            // What is held of the dead stays readable.
            let until = Deadline.after(.seconds(10))
            while try isThere(first), !until.hasPassed {
                do throws(Bus1Error) {
                    _ = try box.peer.receive(until: .after(.milliseconds(5)))
                } catch { guard error.code == .timedOut else { throw error } }
            }
            let isSame = kept.payload.withUnsafeBytes { $0.elementsEqual(long) }
            guard isSame else { throw WentWrong("a held payload has changed") }
        }

        private func drain(_ peer: borrowing Peer) throws {
            while try peer.tryReceive() != nil {}
        }

        private func isThere(_ handle: borrowing Handle) throws -> Bool {
            box.peer.core.handles.entry(handle.id) != nil
        }

        /// The next message to the node of that tag: of a visitor, not this peer's own.
        private func receiveOf(_ round: Int?) throws -> Message {
            while true {
                guard case .message(let message) = try box.peer.receive(until: .after(.seconds(5)))
                else { continue }
                if message.tag == 7 { return message }
            }
        }
    }
#endif
