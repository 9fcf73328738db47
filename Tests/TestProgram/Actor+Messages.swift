#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    extension Actor {
        /// Sends by identifiers, borrowing the handle for the call.
        func withHandle<R>(_ id: HandleID, _ body: (borrowing Handle) throws -> R) throws -> R {
            guard let handle = box.peer.adopt(id) else { throw Bus1Error(.noSuchHandle, "adopt") }
            let result = Result { try body(handle) }
            _ = handle.detach()
            return try result.get()
        }

        /// VERB HANDLE TAG SEQUENCE SIZE MS; HANDLE is a comma-separated list for a multicast.
        func send(_ verb: String, _ words: [String]) throws -> String {
            let ids = words[0].split(separator: ",").map { handles[Int($0)!] }
            let size = max(Int(words[3])!, MemoryLayout<Item>.size)
            let deadline = ms(words[4])
            let kind: ItemKind
            switch verb {
            case "send", "long": kind = .unicast
            case "loan": kind = .loan
            default: kind = size > 40 ? .longMulticast : .multicast
            }
            let item = Item(
                UInt32(words[1])!, words[2] == "end" ? .end : kind, UInt64(words[2]) ?? 0)
            try send(item, size: size, to: ids, until: deadline)
            return ""
        }

        func send(_ item: Item, size: Int, to ids: [HandleID], until deadline: Deadline) throws {
            if item.kind == ItemKind.loan.rawValue {
                var slice = try box.peer.loan(size, until: deadline)
                var room = slice.bytes
                room.withUnsafeMutableBytes { item.write(to: $0) }
                return try send(slice, to: ids[0], until: deadline)
            }
            var bytes = [UInt8](repeating: 0, count: size)
            bytes.withUnsafeMutableBytes { item.write(to: $0) }
            if ids.count == 1 {
                _ = try withHandle(ids[0]) {
                    try box.peer.send(bytes.span.bytes, to: $0, until: deadline)
                }
            } else {
                try box.peer.send(bytes.span.bytes, to: ids, until: deadline)
            }
        }

        func send(_ slice: consuming Slice, to id: HandleID, until deadline: Deadline) throws {
            guard let handle = box.peer.adopt(id) else { throw Bus1Error(.noSuchHandle, "adopt") }
            do throws(Bus1Error) {
                try box.peer.send(slice, to: handle, until: deadline)
            } catch {
                _ = handle.detach()
                throw error
            }
            _ = handle.detach()
        }

        /// Passes the next message's payload on without a copy.
        func forward(to id: HandleID) throws -> String {
            guard case .message(let message) = try box.peer.receive(until: .after(.seconds(20)))
            else {
                return "notice"
            }
            try send(try box.peer.forward(message), to: id, until: .after(.seconds(20)))
            return ""
        }

        func receiveOne(until deadline: Deadline) throws -> String {
            describe(try box.peer.receive(until: deadline))
        }

        /// The same as an event loop does it.
        func receiveInLoop(until deadline: Deadline) throws -> String {
            let descriptor = try box.peer.descriptor()
            while true {
                if let delivery = try box.peer.tryReceive() { return describe(delivery) }
                guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "receive in a loop") }
                _ = bus1_sys_wait_readable(descriptor, deadline.pollTimeout_ms)
            }
        }

        private func describe(_ delivery: consuming Delivery) -> String {
            switch consume delivery {
            case .message(let message):
                let item = message.payload.withUnsafeBytes { Item($0) }
                guard let item else { return "payload" }
                return "message \(message.byteCount) \(item.tag) \(item.sequence) \(message.tag)"
                    + " \(message.sender.uid) \(message.sender.pid)"
            case .notice(let notice):
                guard case .nodeReleased(let id) = notice.kind else { return "notice" }
                return "released \(handles.firstIndex(of: id) ?? -1) \(notice.stamp.rawValue > 0)"
            }
        }

        /// Receives one and keeps it.
        func hold(until deadline: Deadline) throws -> String {
            guard case .message(let message) = try box.peer.receive(until: deadline) else {
                return "notice"
            }
            messages.append(MessageBox(message))
            return "\(messages.count)"
        }

        /// Receives until so many senders have said that they are done; what came, in a line.
        func collect(ends: Int, until deadline: Deadline) throws -> String {
            var log = Log()
            while log.ends < ends {
                do throws(Bus1Error) {
                    switch try box.peer.receive(until: deadline) {
                    case .message(let message):
                        log.add(message.payload, message.stamp)
                        let now = shmring_clock_now(box.peer.core.clock)
                        if message.stamp.rawValue > now { log.ahead += 1 }
                    case .notice: log.released += 1
                    }
                } catch {
                    switch error.code {
                    case .severed:
                        log.severed += 1
                        log.breach = error.breach.map { "\($0.rule).\($0.account.uid)" } ?? ""
                    case .timedOut: log.late = true
                    default: throw error
                    }
                    if log.late || log.severed > 100 { break }
                }
            }
            return log.line
        }

        /// Until the owner of the node that a handle leads to is dead; messages are dropped.
        func awaitDeath(_ index: Int, until deadline: Deadline) throws -> String {
            while true {
                guard case .notice(let notice) = try box.peer.receive(until: deadline) else {
                    continue
                }
                if notice.kind == .nodeReleased(handles[index]) { return "" }
            }
        }

        /// TAG COUNT MS HANDLE...: unicasts to each in turn, then the end.
        func stream(_ words: [String]) throws -> String {
            let tag = UInt32(words[0])!
            let count = UInt64(words[1])!
            let deadline = ms(words[2])
            let ids = words.dropFirst(3).map { handles[Int($0)!] }
            for sequence in 1...count {
                for id in ids {
                    _ = try withHandle(id) {
                        try box.peer.send(Item(tag, .unicast, sequence), to: $0, until: deadline)
                    }
                }
            }
            for id in ids { try send(Item(tag, .end, 0), size: 16, to: [id], until: deadline) }
            return ""
        }

        /// KINDS TAG FILE [COUNT]: sends to all handles, one kind after the other, until it is
        /// killed, or COUNT times and, unless a
        /// further word follows, then the end. KINDS: numbers with commas.
        func forever(_ words: [String]) throws -> String {
            let kinds = words[0].split(separator: ",").map { ItemKind(rawValue: UInt32($0)!)! }
            let tag = UInt32(words[1])!
            let progress = try Progress(words[2])
            let count = words.count > 3 ? UInt64(words[3])! : .max
            let deadline = Deadline.after(.seconds(60))
            var sequence: UInt64 = 0
            while sequence < count {
                sequence += 1
                for kind in kinds {
                    let item = Item(tag, kind, sequence)
                    switch kind {
                    case .multicast: try send(item, size: 24, to: handles, until: deadline)
                    case .longMulticast: try send(item, size: 5000, to: handles, until: deadline)
                    default:
                        for id in handles {
                            try send(
                                item, size: kind == .loan ? 10_000 : 16, to: [id], until: deadline)
                        }
                    }
                    progress[kind] = sequence
                }
            }
            if words.count < 5 {
                try send(Item(tag, .end, 0), size: 16, to: handles, until: deadline)
            }
            return ""
        }

        /// HANDLE SIZE: lends slices until the memory is used up; how many.
        func lendAll(_ words: [String]) throws -> String {
            var count: UInt64 = 0
            do {
                while true {
                    let item = Item(0, .loan, count)
                    try send(item, size: Int(words[1])!, to: [handles[Int(words[0])!]], until: .now)
                    count += 1
                }
            } catch let error as Bus1Error {
                return "\(count) \(Self.describe(error))"
            }
        }
    }
#endif
