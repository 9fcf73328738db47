#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    extension Actor {
        /// Descriptors in messages. Files are named pipes of the test, which hears when the last end for
        /// writing is closed.
        func descriptors(_ verb: String, _ words: [String]) throws -> String {
            switch verb {
            case "sendfds": return try sendDescriptors(words)
            case "sendsealed": return try sendSealed(words)
            case "strandfds":
                // HANDLE FILE: as if killed between the descriptors and the message.
                try withFile(words[1]) { _ = try sendAhead([$0], Int(words[0])!) }
                return ""
            case "takefds": return try takeDescriptors(Int(words[0])!)
            case "closefds":
                for one in taken { Glibc.close(one) }
                taken = []
                return ""
            case "heldfds": return messages.map { "\($0.descriptorCount)" }.joined(separator: " ")
            case "sealed": return try checkSealed(Int(words[0])!)
            case "roomfds":
                // COUNT: so many descriptors may be opened beside those that are open.
                return try leaveRoom(Int(words[0])!)
            case "dropfds": return try receiveAtRandom(words)
            case "foreverfds": return try sendForever(words)
            case "abusebell": return try abuseDoorbell(words[0])
            default: return try succession(verb, words)
            }
        }

        /// What whoever has the ringing end of the first handle's owner can do to it.
        private func abuseDoorbell(_ how: String) throws -> String {
            let entry = try box.peer.core.usableEntry(handles[0])
            let end = Int32(bitPattern: entry.pointee.producer.pointee.event_fd) - 1
            guard end >= 0 else { return "none" }
            switch how {
            case "fill", "flood":
                _ = fcntl(end, F_SETFL, 0)
                for _ in 0..<(how == "fill" ? 1 : 50) {
                    let files = [Int32](repeating: 0, count: 100)
                    while bus1_sys_link_send(end, "x", 1, files, 100) == 0 {}
                    while Glibc.send(end, "x", 1, Int32(MSG_DONTWAIT)) == 1 {}
                }
            case "shutdown": shutdown(end, Int32(SHUT_RDWR))
            case "connect":
                var address = sockaddr()
                address.sa_family = sa_family_t(AF_UNSPEC)
                connect(end, &address, socklen_t(MemoryLayout<sa_family_t>.size))
            default: return "unknown"
            }
            return ""
        }

        private func withFile<R>(_ path: String, _ body: (Int32) throws -> R) throws -> R {
            let file = Glibc.open(path, O_WRONLY | O_CLOEXEC)
            guard file >= 0 else { throw Bus1Error(.system, "open a pipe", errno: errno) }
            defer { Glibc.close(file) }
            return try body(file)
        }

        private func sendAhead(_ raw: [Int32], _ handle: Int) throws -> UInt64 {
            let core = box.peer.core
            let entry = try core.usableEntry(handles[handle])
            let link = core.link(at: Int(entry.pointee.link))!
            return try core.sendDescriptors(raw, over: link, lane: 0, until: .now)
        }

        /// HANDLE FILE COUNT SEQUENCE MS [SIZE]
        private func sendDescriptors(_ words: [String]) throws -> String {
            let count = Int(words[2])!
            let size = words.count > 5 ? Int(words[5])! : 16
            var bytes = [UInt8](repeating: 0, count: size)
            let item = Item(1, .unicast, UInt64(words[3])!)
            bytes.withUnsafeMutableBytes { item.write(to: $0) }
            return try withFile(words[1]) { file in
                _ = try withHandle(handles[Int(words[0])!]) {
                    try box.peer.send(
                        bytes.span.bytes, to: $0, passing: [],
                        descriptors: [Int32](repeating: file, count: count), until: ms(words[4]))
                }
                return ""
            }
        }

        /// HANDLE SIZE SEQUENCE
        private func sendSealed(_ words: [String]) throws -> String {
            var payload = try SealedPayload(byteCount: Int(words[1])!)
            var room = payload.bytes
            let item = Item(1, .unicast, UInt64(words[2])!)
            room.withUnsafeMutableBytes { item.write(to: $0) }
            guard let handle = box.peer.adopt(handles[Int(words[0])!]) else { return "no handle" }
            do {
                try box.peer.send(payload, to: handle, until: .after(.seconds(10)))
                _ = handle.detach()
                return ""
            } catch {
                _ = handle.detach()
                throw error
            }
        }

        private func takeDescriptors(_ index: Int) throws -> String {
            let message = messages[index]
            var count = 0
            for place in 0..<message.descriptorCount {
                guard let one = try message.takeDescriptor(place) else { continue }
                guard fcntl(one, F_GETFD) & FD_CLOEXEC != 0 else { return "not close-on-exec" }
                taken.append(one)
                count += 1
            }
            return "\(count)"
        }

        /// A sealed payload: every byte was read, and it lies in memory that nobody can write.
        private func checkSealed(_ index: Int) throws -> String {
            let message = messages[index]
            try message.openPayload()
            guard let item = message.item else { return "payload" }
            return message.isMappedSealed ? "\(item.tag) \(item.sequence)" : "copied"
        }

        private func leaveRoom(_ room: Int) throws -> String {
            for one in blockers { Glibc.close(one) }
            blockers = []
            var limit = rlimit()
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            limit.rlim_cur = 300
            guard setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
                throw Bus1Error(.system, "limit the descriptors", errno: errno)
            }
            while true {
                let one = fcntl(3, F_DUPFD_CLOEXEC, 3)
                guard one >= 0 else { break }
                blockers.append(one)
            }
            for _ in 0..<min(room, blockers.count) { Glibc.close(blockers.removeLast()) }
            return ""
        }

        /// SEED MS: receives messages until the last sender has said that it is done or the time is over;
        /// takes the descriptors of some, keeps some for a while, drops the others. How many it took.
        private func receiveAtRandom(_ words: [String]) throws -> String {
            var dice = Dice(UInt64(words[0])!)
            let deadline = ms(words[1])
            var kept: [MessageBox] = []
            var count = 0
            while let delivery = try delivery(until: deadline) {
                guard case .message(let message) = delivery else { continue }
                let held = MessageBox(message)
                guard held.item?.kind != ItemKind.end.rawValue else { break }
                switch dice.next() % 4 {
                case 0: break
                case 1: kept.append(held)
                default:
                    for place in 0..<held.descriptorCount {
                        guard let one = try held.takeDescriptor(place) else { return "missing" }
                        Glibc.close(one)
                        count += 1
                    }
                }
                if kept.count > 3 { kept.remove(at: Int(dice.next() % 4)) }
            }
            return "\(count)"
        }

        private func delivery(until deadline: Deadline) throws(Bus1Error) -> Delivery? {
            do throws(Bus1Error) {
                return try box.peer.receive(until: deadline)
            } catch {
                guard error.code == .timedOut else { throw error }
                return nil
            }
        }

        /// HANDLE FILE SEED COUNT: sends with descriptors until it is killed or has sent so many, and then
        /// the end. A refusal is no failure.
        private func sendForever(_ words: [String]) throws -> String {
            var dice = Dice(UInt64(words[2])!)
            let id = handles[Int(words[0])!]
            return try withFile(words[1]) { file in
                var refused = 0
                for sequence in 1...UInt64(words[3])! {
                    let item = Item(1, .unicast, sequence)
                    let files = [Int32](repeating: file, count: Int(dice.next() % 6))
                    do throws(Bus1Error) {
                        var one = box.peer.transaction()
                        try one.send(item, to: id, descriptors: files)
                        // Dropped, refused, or sent.
                        switch dice.next() % 8 {
                        case 0: continue
                        case 1: try one.commit(until: .now)
                        default: try one.commit(until: .after(.seconds(10)))
                        }
                    } catch {
                        guard error.code == .timedOut || error.code == .overQuota else {
                            throw error
                        }
                        refused += 1
                    }
                }
                try send(Item(1, .end, 0), size: 16, to: [id], until: .after(.seconds(20)))
                return "\(refused)"
            }
        }
    }
#endif
