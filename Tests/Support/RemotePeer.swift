#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm

    /// A peer in a process of its own, told by lines through a socket what to do. Killed when this
    /// is dropped.
    final class RemotePeer {
        let pid: Int32
        private let pidfd: Int32
        private let socket: Int32
        private var pending: [UInt8] = []
        private(set) var isReaped = false
        /// What waitpid said of its end.
        private(set) var status: Int32 = -1

        /// `environment`: what is added to ours. `program`: a path, or the name of one that stands beside the program that
        /// runs the tests.
        init(environment extra: [String] = [], program name: String = "bus1-test-peer") throws {
            let program = name.hasPrefix("/") ? name : Self.directory + "/" + name
            var ends: [Int32] = [-1, -1]
            let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
            guard socketpair(AF_UNIX, type, 0, &ends) == 0 else {
                throw Bus1Error(.system, "make a pair of sockets", errno: errno)
            }
            let arguments: [UnsafeMutablePointer<CChar>?] = [strdup(program), nil]
            var variables = extra.map { strdup($0) }
            var index = 0
            while let variable = environ[index] {
                variables.append(strdup(variable))
                index += 1
            }
            variables.append(nil)
            var pid: Int32 = 0
            let result = bus1_sys_spawn(program, arguments, variables, [ends[1]], 1, &pid)
            for pointer in arguments + variables { free(pointer) }
            close(ends[1])
            socket = ends[0]
            self.pid = pid
            guard result == 0 else {
                pidfd = -1
                isReaped = true
                throw Bus1Error(.system, "start a helper program", errno: -result)
            }
            var pidfd: Int32 = -1
            bus1_sys_pidfd_open(pid, &pidfd)
            self.pidfd = pidfd
        }

        deinit {
            if !isReaped { kill() }
            close(socket)
            if pidfd >= 0 { close(pidfd) }
        }

        /// Beside the program that runs the tests.
        static let directory: String = {
            var path = [CChar](repeating: 0, count: 4096)
            let length = readlink("/proc/self/exe", &path, path.count - 1)
            let whole = String(
                decoding: path.prefix(max(0, length)).map(UInt8.init(bitPattern:)), as: UTF8.self)
            return String(whole[..<(whole.lastIndex(of: "/") ?? whole.startIndex)])
        }()

        /// Sends a command, not waiting for its answer.
        func begin(_ command: String) {
            let line = Array((command + "\n").utf8)
            // Not write(2): a process that has ended must not end this one by SIGPIPE.
            _ = send(socket, line, line.count, Int32(MSG_NOSIGNAL))
        }

        /// The next answer; nil when the process has ended, or the time is over.
        func answer(within patience: Duration = .seconds(30)) -> String? {
            let deadline = Deadline.after(patience)
            while true {
                if let end = pending.firstIndex(of: UInt8(ascii: "\n")) {
                    let line = String(decoding: pending[..<end], as: UTF8.self)
                    pending.removeSubrange(...end)
                    return line
                }
                guard bus1_sys_wait_readable(socket, deadline.pollTimeout_ms) == 1 else {
                    return nil
                }
                var bytes = [UInt8](repeating: 0, count: 4096)
                let count = read(socket, &bytes, bytes.count)
                guard count > 0 else { return nil }
                pending += bytes.prefix(count)
            }
        }

        func ask(_ command: String) -> String? {
            begin(command)
            return answer()
        }

        func kill() {
            Glibc.kill(pid, SIGKILL)
            reap()
        }

        /// Lets it end in order.
        func end() {
            begin("exit")
            reap()
        }

        /// Waits for its end.
        func reap() {
            guard !isReaped else { return }
            _ = bus1_sys_child_reap(pid, &status)
            isReaped = true
        }
    }

    /// The other end: does what the lines say until they end.
    public enum RemoteControl {
        /// Ends the process when the lines do.
        public static func run() {
            var peer: TestPeer?
            while let line = readLine() {
                let words = line.split(separator: " ").map(String.init)
                guard let verb = words.first, verb != "exit" else { break }
                do {
                    say("ok " + (try perform(verb, Array(words.dropFirst()), &peer)))
                } catch {
                    say("error \((error as? Bus1Error)?.description ?? "\(error)")")
                }
            }
            exit(0)
        }

        private static func perform(_ verb: String, _ words: [String], _ peer: inout TestPeer?)
            throws -> String
        {
            switch verb {
            case "setuid":
                guard setuid(UInt32(words[0])!) == 0 else {
                    throw Bus1Error(.system, "change the user", errno: errno)
                }
                return ""
            case "open":
                let made = try TestPeer(Bus(path: words[0]))
                peer = made
                return "\(made.id.rawValue) \(made.broker.pid) \(made.account.uid)"
            case "publish":
                let access: Access = words[1] == "anyone" ? .anyone : .sameUser
                try peer?.connection.publish(words[0], node: 1, access: access)
                return ""
            case "lookup":
                let deadline = Deadline.after(.milliseconds(Int(words[1])!))
                let grant = try peer?.connection.lookUp(words[0], wait: true, until: deadline)
                return "\(grant?.owner.rawValue ?? 0) \(grant?.number.rawValue ?? 0)"
            case "claim":
                peer?.setClaim(
                    word: 0, count: 2, ring: RingID(rawValue: UInt32(words[0])!),
                    position: UInt64(words[1])!)
                return ""
            case "pend":
                peer?.setCommit(word: 3, to: SHMRING_COMMIT_PENDING_WORD | 5 << 32)
                return ""
            case "ring":
                guard let peer else { return "" }
                let introduction = try peer.introduction()
                return "\(introduction.itsRing.rawValue)"
            case "rewrite":
                // Of the other's outbox: by a new mapping, by a new descriptor, by another one's mode.
                guard var introduction = try peer?.introduction(),
                    let outbox = introduction.outbox.take()?.take()
                else { return "none" }
                defer { Glibc.close(outbox) }
                let path = "/proc/self/fd/\(outbox)"
                let memory = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, outbox, 0)
                let again = open(path, O_RDWR | O_CLOEXEC)
                let mode = chmod(path, 0o777)
                return "\(memory == MAP_FAILED) \(again < 0) \(mode != 0)"
            case "loop":
                return BrokerThread.loopNames.joined(separator: " ")
            case "descriptors":
                var limit = rlimit(rlim_cur: UInt(words[0])!, rlim_max: UInt(words[0])!)
                guard setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
                    throw Bus1Error(.system, "limit the descriptors", errno: errno)
                }
                return ""
            case "rounds":
                for _ in 0..<Int(words[1])! { try round(Bus(path: words[0])) }
                return "\(entries(of: "/proc/self/fd").count)"
            case "fork":
                return "\(forkIdleChild())"
            case "hangup":
                shutdown(peer?.connection.descriptor ?? -1, Int32(SHUT_RDWR))
                return ""
            case "close":
                try peer?.connection.goodbye()
                peer = nil
                return ""
            default:
                return "unknown"
            }
        }

        private static var threadCount: Int { entries(of: "/proc/self/task").count }

        /// Everything that a bus's life has, from the first peer to the last.
        private static func round(_ bus: Bus) throws {
            let threads = threadCount
            let owner = try TestPeer(bus)
            let asker = try TestPeer(Bus(path: bus.path, isolation: .process))
            _ = try owner.connection.makeOwnRing()
            try owner.connection.publish("service", node: 1, access: .sameUser)
            _ = try? asker.connection.lookUp("service", until: .after(.milliseconds(5)))
            while case .ringAdded(let offer) = try owner.event() {
                guard offer.mustAcknowledge else { continue }
                try owner.connection.acknowledge(offer.ring)
                break
            }
            _ = try asker.connection.lookUp("service", until: .after(.seconds(20)))
            _ = try asker.connection.linkSocket(to: owner.id)
            try asker.connection.setRingEvent(asker.introduction().ownRing, eventDescriptor: 0)
            try asker.connection.goodbye()
            try owner.connection.goodbye()
            guard eventually({ BrokerThread.loopNames.isEmpty }) else {
                throw Bus1Error(.timedOut, "end the broker")
            }
            // Its thread closes what it held after it has removed the files.
            _ = eventually { threadCount <= threads }
        }

        static func readLine() -> String? {
            var line: [UInt8] = []
            var byte: UInt8 = 0
            while read(3, &byte, 1) == 1 {
                if byte == UInt8(ascii: "\n") { return String(decoding: line, as: UTF8.self) }
                line.append(byte)
            }
            return nil
        }

        static func say(_ line: String) {
            let bytes = Array((line + "\n").utf8)
            _ = write(3, bytes, bytes.count)
        }
    }

    /// fork(2). Swift hides it, for good reasons.
    func forkChild() -> Int32 {
        typealias Fork = @convention(c) () -> Int32
        let fork = unsafeBitCast(dlsym(nil, "fork"), to: Fork.self)
        return fork()
    }

    /// A child that does nothing for a minute, and its process ID.
    private func forkIdleChild() -> Int32 {
        let pid = forkChild()
        if pid == 0 {
            alarm(60)
            while true { pause() }
        }
        return pid
    }

    /// The state bits of a pending commit word; the C macro is too much for the importer.
    let SHMRING_COMMIT_PENDING_WORD: UInt64 = 2 << 62
#endif
