#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    /// What a program does, from joining to leaving, where something cannot be had: a clear error at the call, everything
    /// undone, and the same again works afterwards. Told by its arguments; tools/check-failing-calls reads what it says.
    enum Exhaustion {
        static func run(_ words: [String]) -> Never {
            var template = Array("/tmp/bus1-exhaust-XXXXXX".utf8CString)
            let directory = String(cString: mkdtemp(&template))
            let ground = Ground(bus: Bus(path: directory + "/bus"))
            var isRight = true
            switch words.first {
            case "calls": isRight = ground.failOnce()
            case "nofile":
                isRight = ground.sweep(
                    RLIMIT_NOFILE, from: entries(of: "/proc/self/fd").count, by: 1, most: 120)
            case "as":
                isRight = ground.sweep(
                    RLIMIT_AS, from: Ground.addressSpace, by: 32 << 20, most: 400)
            case "fsize": isRight = ground.sweep(RLIMIT_FSIZE, from: 0, by: 64 << 10, most: 200)
            case "peers": isRight = ground.join(65_536)
            default: print("calls, nofile, as, fsize or peers")
            }
            removeTree(directory)
            exit(isRight ? 0 : 1)
        }

        private static func removeTree(_ directory: String) {
            for name in entries(of: directory) { unlink(directory + "/" + name) }
            rmdir(directory)
        }
    }

    private struct Ground {
        let bus: Bus
        private let patience = Duration.seconds(3)

        /// What this process owns.
        struct Owned: Equatable {
            let descriptors: Int
            let mappings: Int
        }

        /// Once nobody is connected any more, the broker's thread ends.
        private func owned() -> Owned {
            let deadline = Deadline.after(.seconds(5))
            while entries(of: "/proc/self/task").count > 1, !deadline.hasPassed { usleep(500) }
            let mappings = Self.lines(of: "/proc/self/maps").filter { $0.contains("memfd:") }
            return Owned(
                descriptors: entries(of: "/proc/self/fd").count, mappings: mappings.count)
        }

        private static func lines(of path: String) -> [Substring] {
            let file = open(path, O_RDONLY | O_CLOEXEC)
            defer { close(file) }
            var text: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 65_536)
            while case let count = read(file, &chunk, chunk.count), count > 0 {
                text += chunk.prefix(count)
            }
            return String(decoding: text, as: UTF8.self).split(separator: "\n")
        }

        static var addressSpace: Int {
            let pages = lines(of: "/proc/self/statm").first?.split(separator: " ").first
            return Int(pages ?? "0")! * 4096
        }

        // MARK: One round

        /// Everything from joining to leaving.
        private func round() throws(Bus1Error) {
            var options = Peer.Options()
            options.lanes = 1
            options.poolBytes = 1 << 22
            let receiver = try Peer(on: bus, options)
            let sender = try Peer(on: bus, options)
            let node = try receiver.makeNode()
            try receiver.publish(node, as: "exhaust")
            let found = try sender.lookUp("exhaust", until: .after(patience))
            let id = try receiver.give(node, to: sender)
            try sender.send(UInt64(7), to: found, until: .after(patience))
            guard try next(receiver).byteCount == 8 else { throw Bus1Error(.mismatch, "read") }
            let slice = try sender.loan(100_000, until: .after(patience))
            try sender.send(slice, to: found, until: .after(patience))
            guard try next(receiver).byteCount == 100_000 else {
                throw Bus1Error(.mismatch, "read a slice")
            }
            var one = sender.transaction()
            try one.send(UInt64(9), to: id, descriptors: [0])
            try one.commit(until: .after(patience))
            var message = try next(receiver)
            if let taken = try message.takeDescriptor() { close(taken) }
            try sender.release(id)
        }

        private func next(_ peer: borrowing Peer) throws(Bus1Error) -> Message {
            while true {
                switch try peer.receive(until: .after(patience)) {
                case .message(let message): return message
                case .notice: continue
                }
            }
        }

        private func attempt() -> Bus1Error? {
            do throws(Bus1Error) {
                try round()
                return nil
            } catch { return error }
        }

        // MARK: What is tried

        /// Between the two marks one system call fails, or none. Afterwards nothing is left, and all goes well.
        func failOnce() -> Bool {
            if let early = attempt() { print("before: \(early)") }
            let before = owned()
            _ = access("/bus1-mark", F_OK)
            let first = attempt()
            _ = access("/bus1-mark", F_OK)
            let after = owned()
            // Not every round makes each call as often: the failure may come only now, and is over then.
            var second = attempt()
            if first == nil, let late = second {
                print("late: \(late)")
                second = attempt()
            }
            print(
                "first: \(first.map { "\($0)" } ?? "ok")  second: \(second.map { "\($0)" } ?? "ok")",
                after == before ? "" : "LEFT \(before) \(after)")
            return second == nil && after == before
        }

        /// Under ever larger limits, up to one that is large enough.
        func sweep(
            _ kind: __rlimit_resource, from first: Int, by step: Int, most: Int
        ) -> Bool {
            let resource = __rlimit_resource_t(kind.rawValue)
            var whole = rlimit()
            guard attempt() == nil, getrlimit(resource, &whole) == 0 else { return false }
            let before = owned()
            var (refused, granted, wrong) = (0, 0, 0)
            for index in 0..<most where granted < 3 {
                var less = whole
                less.rlim_cur = UInt(first + index * step)
                setrlimit(resource, &less)
                let error = attempt()
                setrlimit(resource, &whole)
                if error == nil { granted += 1 } else { refused += 1 }
                let after = owned()
                let again = attempt()
                if after != before || again != nil {
                    wrong += 1
                    print(
                        "at \(less.rlim_cur): \(error.map { "\($0)" } ?? "ok"), then",
                        "\(again.map { "\($0)" } ?? "ok"), \(before) \(after)")
                }
            }
            print("\(refused) limits refused, \(granted) large enough, \(wrong) wrong")
            return wrong == 0 && refused > 0 && granted > 0
        }

        /// So many peers are asked for; those beyond a limit are refused with its name.
        func join(_ count: Int) -> Bool {
            let before = owned()
            var peers: [Box] = []
            var (refused, unclear) = (0, 0)
            for _ in 0..<count {
                do throws(Bus1Error) {
                    peers.append(Box(try Peer(on: bus)))
                } catch {
                    refused += 1
                    let isClear =
                        error.code == .overQuota && error.refusal != nil
                        || error.code == .system && error.errno == EMFILE
                    if !isClear {
                        unclear += 1
                        if unclear < 5 { print(error) }
                    }
                }
            }
            let most = peers.count
            peers = []
            let after = owned()
            let again = attempt()
            print(
                "\(most) peers joined, \(refused) refused, \(unclear) of them unclearly;",
                "then \(again.map { "\($0)" } ?? "ok")",
                after == before ? "" : "LEFT \(before) \(after)")
            return most > 0 && refused > 0 && unclear == 0 && again == nil && after == before
        }

        private final class Box {
            let peer: Peer
            init(_ peer: consuming Peer) { self.peer = peer }
        }
    }
#endif
