#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    extension Actor {
        func succession(_ verb: String, _ words: [String]) throws -> String {
            switch verb {
            case "role":
                // Who does not look at what the broker says is not made its heir.
                try? box?.peer.core.readEvents()
                return Self.role
            case "stopself":
                raise(SIGSTOP)
                return ""
            case "pump": return try pump(words)
            case "churn": return try churn(words)
            case "visit": return try visit(words)
            default: return "unknown"
            }
        }

        /// What this process is for its bus: broker, heir, or nothing of it.
        static var role: String {
            if !BrokerThread.loopNames.isEmpty { return "broker" }
            return HeirThread.count > 0 ? "heir" : "none"
        }

        /// OWN OTHER COUNT: so many times publishes a node under a name of its own, looks one of the other's up, sends a
        /// message there and receives the other's. Every step must succeed, once.
        private func churn(_ words: [String]) throws -> String {
            for round in 0..<Int(words[2])! {
                let node = try box.peer.makeNode(tag: UInt64(round))
                try box.peer.publish(node, as: "\(words[0])\(round)")
                let sent = try exchange(round, words[1])
                guard sent == "" else { return sent }
                // The other has let go of its only handle: no right was given twice.
                switch try box.peer.receive(until: .after(.seconds(30))) {
                case .message: return "round \(round): a message too many"
                case .notice(let notice):
                    guard notice.kind == .noHandles(node.id) else {
                        return "round \(round): \(notice.kind)"
                    }
                }
            }
            return ""
        }

        private func exchange(_ round: Int, _ other: String) throws -> String {
            let handle = try box.peer.lookUp("\(other)\(round)", until: .after(.seconds(30)))
            try box.peer.send(
                Item(1, .unicast, UInt64(round)), to: handle, until: .after(.seconds(30)))
            guard case .message(let message) = try box.peer.receive(until: .after(.seconds(30)))
            else { return "round \(round): a notice before the message" }
            let item = message.payload.withUnsafeBytes { Item($0) }
            let isRight = item?.sequence == UInt64(round) && message.tag == UInt64(round)
            return isRight ? "" : "round \(round): \(item?.sequence ?? 0) \(message.tag)"
        }

        /// PATH COUNT: so many peers join and leave.
        private func visit(_ words: [String]) throws -> String {
            for round in 0..<Int(words[1])! {
                let peer = try Peer(on: Bus(path: words[0]))
                let node = try peer.makeNode()
                try peer.publish(node, as: "visitor\(round)")
                let handle = try peer.lookUp("visitor\(round)", until: .after(.seconds(30)))
                try peer.send(Item(1, .unicast, 1), to: handle, until: .after(.seconds(30)))
                guard case .message = try peer.receive(until: .after(.seconds(30))) else {
                    return "round \(round)"
                }
            }
            return ""
        }

        /// HANDLE FILE: sends for ever, counting into the file; ends when the file's word `end` is set.
        private func pump(_ words: [String]) throws -> String {
            let progress = try Progress(words[1])
            let id = handles[Int(words[0])!]
            var sequence: UInt64 = 0
            while progress[.end] == 0 {
                sequence += 1
                try send(
                    Item(1, .unicast, sequence), size: 16, to: [id],
                    until: .after(.seconds(20)))
                progress[.unicast] = sequence
            }
            try send(Item(1, .end, 0), size: 16, to: [id], until: .after(.seconds(20)))
            return "\(sequence)"
        }
    }
#endif
