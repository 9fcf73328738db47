import Bus1Shm
import CBench

// Calls, held against two plain messages of the same size: by turns in one process, with the same callee.

/// 64 bytes; the first word says what is wanted.
private typealias Words = InlineArray<8, UInt64>

extension Bus1Endpoint {
    private static let endWord = UInt64.max

    /// Two messages, and a call with its reply.
    func callTurns() throws -> [String: Double] {
        let to = handles[0]
        return try turns(of: 256) { count in
            let deadline = Deadline.after(.seconds(60))
            for i in 0..<count {
                let words = Words(repeating: UInt64(i))
                let answer: Words = try peer.call(words, on: to.handle, until: deadline)
                guard answer[7] == UInt64(i) else { throw BenchError("a reply of another call") }
            }
        } against: { count in
            for i in 0..<count {
                try peer.send(Words(repeating: UInt64(i)), to: to.handle)
                guard try awaitWords()[7] == UInt64(i) else {
                    throw BenchError("an answer to another message")
                }
            }
        } settle: {
        } end: {
            try peer.send(Words(repeating: Self.endWord), to: to.handle)
        }
    }

    private func awaitWords() throws -> Words {
        while true {
            if case .message(let message) = try peer.receive() {
                return try message.load(as: Words.self)
            }
        }
    }

    /// The callee: answers whoever asks for a reply by it, others by a message.
    func serveCalls() throws -> [String: Double] {
        let answer = HandleBox(try peer.lookUp("sender-0", until: .after(.seconds(20))))
        while true {
            guard case .message(var message) = try peer.receive() else { continue }
            let words = try message.load(as: Words.self)
            if words[0] == Self.endWord { return [:] }
            if message.wantsReply {
                try message.takeReply()?.send(words)
            } else {
                try peer.send(words, to: answer.handle)
            }
        }
    }
}
