import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// More trust domains than futex_waitv takes words.
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct ManyDomainsTests {
        @Test func aReceiverOf140DomainsIsWokenByEach() throws {
            try withCrew { crew in
                let count = 140
                let receiver = try crew.join("slots=16 spin=0")
                try receiver.must("node r anyone")
                receiver.begin("collect \(count) 60000")
                // Each is a domain, and so a ring, of its own.
                let senders = try (0..<count).map { _ in try crew.join("isolated slots=16") }
                for sender in senders { sender.begin("look r 30000") }
                for sender in senders { try sender.mustAnswer("look") }
                for (tag, sender) in senders.enumerated() {
                    sender.begin("stream \(tag) 20 20000 0")
                }
                for sender in senders { try sender.mustAnswer("stream") }
                let log = try receiver.log()
                #expect(log.isClean, "\(log)")
                #expect(log["count"] == "\(count * 21)")
                #expect(Int(try receiver.must("rings"))! >= count)

                // One at a time, so that the receiver sleeps before nearly each.
                for verb in ["receive", "pollone"] {
                    for (tag, sender) in senders.enumerated() {
                        receiver.begin("\(verb) 20000")
                        try sender.must("send 0 \(tag) 5 16 1000")
                        let me = "0 \(getuid()) \(sender.pid)"
                        #expect(try receiver.mustAnswer(verb) == "message 16 \(tag) 5 \(me)")
                    }
                }
                #expect(Int(try receiver.must("parkings"))! > 0)
            }
        }
    }
}
