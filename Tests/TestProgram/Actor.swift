#if DEBUG
    import CBus1System
    import CBus1TestSupport
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    /// A whole peer, told by lines what to do. One thread, so that only the library makes others.
    final class Actor {
        /// Classes hold no noncopyable optionals that can be borrowed.
        final class Box {
            let peer: Peer
            init(_ peer: consuming Peer) { self.peer = peer }
        }
        final class NodeBox {
            let node: Node
            init(_ node: consuming Node) { self.node = node }
        }
        final class MessageBox {
            var message: Message
            init(_ message: consuming Message) { self.message = message }
            var descriptorCount: Int { message.descriptorCount }
            func takeDescriptor(_ index: Int) throws(Bus1Error) -> Int32? {
                try message.takeDescriptor(index)
            }
            func openPayload() throws(Bus1Error) { try message.openPayload() }
            var isMappedSealed: Bool { message.attachments?.sealed?.view != nil }
            var item: Item? { Self.item(of: message) }
            private static func item(of message: borrowing Message) -> Item? {
                message.payload.withUnsafeBytes { Item($0) }
            }
        }
        final class ChildBox {
            let child: Bus1Shm.Child
            init(_ child: consuming Bus1Shm.Child) { self.child = child }
        }

        var box: Box!
        var busPath = ""
        var nodes: [NodeBox] = []
        var handles: [HandleID] = []
        var messages: [MessageBox] = []
        var children: [ChildBox] = []
        /// Descriptors taken out of messages, and those that only fill the table.
        var taken: [Int32] = []
        var blockers: [Int32] = []

        /// Ends the process when the lines do.
        func run() -> Never {
            while let line = RemoteControl.readLine() {
                let words = line.split(separator: " ").map(String.init)
                guard let verb = words.first, verb != "exit" else { break }
                do {
                    RemoteControl.say("ok " + (try perform(verb, Array(words.dropFirst()))))
                } catch {
                    RemoteControl.say("error " + Self.describe(error))
                }
            }
            // As a program that returns from main does: the broker's files go.
            exit(0)
        }

        static func describe(_ error: any Error) -> String {
            guard let error = error as? Bus1Error else { return "\(error)" }
            guard let refusal = error.refusal else { return "\(error.code) \(error)" }
            return "\(error.code) \(refusal.resource) \(refusal.used) \(refusal.limit) \(error)"
        }

        func perform(_ verb: String, _ words: [String]) throws -> String {
            switch verb {
            case "setuid":
                guard setuid(UInt32(words[0])!) == 0 else {
                    throw Bus1Error(.system, "change the user", errno: errno)
                }
                return ""
            case "beopen":
                guard test_sandbox_be_open() == 0 else {
                    throw Bus1Error(.system, "be looked at", errno: errno)
                }
                return ""
            case "namespaces": throw enterNamespaces(otherTime: words.first == "time")
            case "seccomp":
                let result = test_sandbox_seccomp()
                guard result == 0 else {
                    throw Bus1Error(.system, "filter system calls", errno: -result)
                }
                return ""
            case "reach": return reach(Int32(words[0])!)
            case "processor": return "\(pinProcess(to: Int(words[0])!))"
            case "open": return try open(words)
            case "close":
                messages = []
                nodes = []
                handles = []
                children = []
                box = nil
                return ""
            case "counts": return Self.counts
            case "facts":
                return box.peer.facts.map { "\($0.key)=\($0.value)" }.sorted().joined(
                    separator: " ")
            case "loop": return BrokerThread.loopNames.joined(separator: " ")
            case "rings": return "\(box.peer.core.rings.count)"
            case "parkings": return "\(box.peer.core.inbox.pointee.counts.parked)"
            case "refused": return "\(box.peer.core.refused)"
            case "node":
                let node = try box.peer.makeNode(tag: UInt64(nodes.count))
                try box.peer.publish(node, as: words[0], to: access(words.dropFirst().first))
                nodes.append(NodeBox(node))
                return ""
            case "dropnode":
                nodes.remove(at: Int(words[0])!)
                return ""
            case "look":
                handles.append(try box.peer.lookUp(words[0], until: ms(words[1])).detach())
                return "\(handles.count - 1)"
            case "spawn": return try spawn(words)
            case "outlive": return try outlive(words)
            case "signal":
                children[Int(words[0])!].child.signal(Int32(words[1])!)
                return ""
            case "wait":
                return children[Int(words[0])!].child.wait(until: ms(words[1])).map { "\($0)" }
                    ?? "late"
            case "children":
                // Nobody to wait for: no zombie either.
                var info = siginfo_t()
                return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 ? "some" : "none"
            case "send", "long", "loan", "multicast": return try send(verb, words)
            case "forward": return try forward(to: handles[Int(words[0])!])
            case "pass": return try pass(words)
            case "passfew": return try passFew(words)
            case "flood": return try flood(words)
            case "takehandle": return try takeHandle(until: ms(words[0]))
            case "release":
                try box.peer.release(handles[Int(words[0])!])
                return ""
            case "takeout": return try takeOut(until: ms(words[0]))
            case "receive": return try receiveOne(until: ms(words[0]))
            case "pollone": return try receiveInLoop(until: ms(words[0]))
            case "hold": return try hold(until: ms(words[0]))
            case "held": return heldItems()
            case "letgo":
                messages = []
                return ""
            case "collect": return try collect(ends: Int(words[0])!, until: ms(words[1]))
            case "awaitdeath": return try awaitDeath(Int(words[0])!, until: ms(words[1]))
            case "stream": return try stream(words)
            case "forever": return try forever(words)
            case "lendall": return try lendAll(words)
            case "die": try die(words)
            case "eat": return eat()
            case "fork": return try callInForkedChild()
            case "stopincommit", "stall", "stallall", "nag", "inbox", "credit":
                return try stalls(verb, words)
            case "assault": return try assault(words)
            case "floodbroker": return try floodBroker(words)
            case "limitfds": return limitDescriptors(Int(words[0])!)
            case "owner":
                return try withHandle(handles[Int(words[0])!]) {
                    box.peer.owner(of: $0).map { "\($0.uid) \($0.pid)" } ?? "nobody"
                }
            case "squat": return try squat(Int(words[0])!)
            case "attack": return try attack(words[0], Dice(UInt64(words[1])!))
            default: return try descriptors(verb, words)
            }
        }

        func ms(_ word: String) -> Deadline { .after(.milliseconds(Int(word)!)) }

        /// PATH and key=value.
        private func open(_ words: [String]) throws -> String {
            var options = Peer.Options()
            var isolation = Bus.Isolation.user
            for word in words.dropFirst() {
                let pair = word.split(separator: "=")
                switch pair[0] {
                case "slots": options.slots = Int(pair[1])!
                case "lanes": options.lanes = Int(pair[1])!
                case "handles": options.handlesMax = Int(pair[1])!
                case "pool": options.poolBytes = Int(pair[1])!
                case "spin": options.spin = .microseconds(Int(pair[1])!)
                default: isolation = .process
                }
            }
            busPath = words[0]
            box = Box(try Peer(on: Bus(path: words[0], isolation: isolation), options))
            return "\(box.peer.account.pid) \(box.peer.account.uid)"
        }

        /// ROLE HANDLE...
        private func spawn(_ words: [String]) throws -> String {
            let program = RemotePeer.directory + "/bus1-test-program"
            let giving = words.dropFirst().map { handles[Int($0)!] }
            let child = try box.peer.spawn(program, [words[0]], giving: giving)
            let pid = child.pid
            children.append(ChildBox(child))
            return "\(pid)"
        }

        /// "anyone", user IDs with commas, or nothing.
        private func access(_ rule: String?) -> Access {
            guard let rule else { return .sameUser }
            return rule == "anyone"
                ? .anyone : .users(rule.split(separator: ",").map { UInt32($0)! })
        }

        private func pinProcess(to processor: Int) -> Int32 {
            bus1_sys_thread_pin(Int32(processor))
        }

        /// Descriptors, mappings of shared memory, threads.
        static var counts: String {
            let descriptors = entries(of: "/proc/self/fd").count
            let threads = entries(of: "/proc/self/task").count
            var mappings = 0
            if let maps = fopen("/proc/self/maps", "re") {
                var line = [CChar](repeating: 0, count: 4096)
                while fgets(&line, Int32(line.count), maps) != nil {
                    if strstr(line, "memfd:") != nil { mappings += 1 }
                }
                fclose(maps)
            }
            return "\(descriptors) \(mappings) \(threads)"
        }
    }

    /// What a spawned program does, by its argument.
    enum Child {
        static func run(_ role: String) -> Never {
            do {
                let peer = try Peer.inherited()
                switch role {
                case "tell":
                    // Says in which place each handle stood, then that it has ended.
                    var place: UInt64 = 0
                    while let handle = peer.takeInherited(Int(place)) {
                        try peer.send(Item(UInt32(place), .unicast, place), to: handle)
                        place += 1
                    }
                    do {
                        _ = try Peer.inherited()
                        exit(9)
                    } catch { if error.code != .denied { exit(8) } }
                    exit(Int32(place))
                case "idle":
                    let handle = peer.takeInherited()!
                    try peer.send(Item(0, .unicast, 0), to: handle)
                    while true { pause() }
                default: exit(100)
                }
            } catch { exit(101) }
        }
    }
#endif
