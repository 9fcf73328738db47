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
