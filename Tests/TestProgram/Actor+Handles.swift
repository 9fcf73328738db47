#if DEBUG
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    extension Actor {
        /// TO HANDLE MS: a message with a copy of a handle, and an open file.
        func pass(_ words: [String]) throws -> String {
            let item = Item(0, .unicast, 0)
            var transaction = box.peer.transaction()
            try transaction.send(
                item, to: handles[Int(words[0])!], passing: [handles[Int(words[1])!]],
                descriptors: [2])
            try transaction.commit(until: ms(words[2]))
            return ""
        }

        /// TO HANDLE MS: the usual way of a few handles.
        func passFew(_ words: [String]) throws -> String {
            let payload = [UInt8](repeating: 7, count: 8)
            _ = try withHandle(handles[Int(words[0])!]) {
                try box.peer.send(
                    payload.span.bytes, to: $0, passing: [handles[Int(words[1])!]],
                    until: ms(words[2]))
            }
            return ""
        }

        /// TO HANDLE: passes it on until that is refused: how often, and what for.
        func flood(_ words: [String]) throws -> String {
            let payload = [UInt8](repeating: 7, count: 8)
            var sent = 0
            while true {
                do throws(Bus1Error) {
                    var transaction = box.peer.transaction()
                    try transaction.send(
                        payload.span.bytes, to: handles[Int(words[0])!],
                        passing: [handles[Int(words[1])!]])
                    try transaction.commit(until: .now)
                    sent += 1
                } catch {
                    return "\(sent) \(error.code) \(error.refusal.map { "\($0.resource)" } ?? "")"
                }
            }
        }

        /// Receives such a message: the number of the handle.
        func takeHandle(until deadline: Deadline) throws -> String {
            guard case .message(var message) = try box.peer.receive(until: deadline),
                let handle = message.takeHandle()
            else { return "nothing" }
            handles.append(handle.detach())
            return "\(handles.count - 1)"
        }

        /// Receives such a message and takes out what it brings: the number of the handle, and whether the file is one.
        func takeOut(until deadline: Deadline) throws -> String {
            guard case .message(var message) = try box.peer.receive(until: deadline) else {
                return "notice"
            }
            guard let handle = message.takeHandle(), let file = try message.takeDescriptor() else {
                return "nothing"
            }
            handles.append(handle.detach())
            let isOpen = fcntl(file, F_GETFD) >= 0
            close(file)
            return "\(handles.count - 1) \(isOpen)"
        }
    }
#endif
