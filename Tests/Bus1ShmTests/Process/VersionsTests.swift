import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// The program of the previous version beside this one, on one bus. It obeys the lines of its own day: what is said here
    /// must not change its meaning.
    @Suite(
        .serialized, .timeLimit(.minutes(2)),
        .enabled(if: getenv("BUS1_PREVIOUS_PROGRAM") != nil, "no previous version is named"))
    struct VersionsTests {
        /// Set by tools/test, from tools/keep-previous.
        private static let previous = getenv("BUS1_PREVIOUS_PROGRAM").map { String(cString: $0) }

        /// Who serves, and whether the previous one is the owner.
        @Test(arguments: [true, false], [true, false])
        func twoVersionsTalkOverOneBus(previousServes: Bool, previousOwns: Bool) throws {
            try withCrew { crew in
                func join(previous: Bool) throws -> RemotePeer {
                    let member = try previous ? crew.start(program: Self.previous!) : crew.start()
                    try member.must("open \(crew.bus.path) slots=64")
                    return member
                }
                _ = try join(previous: previousServes)
                let owner = try join(previous: previousOwns)
                let other = try join(previous: !previousOwns)
                try owner.must("node o")
                try other.must("look o 20000")
                try other.must("node p")
                try owner.must("look p 20000")
                for (verb, size) in [("send", 16), ("long", 100_000), ("loan", 3_000_000)] {
                    for (sender, receiver) in [(owner, other), (other, owner)] {
                        receiver.begin("receive 20000")
                        try sender.must("\(verb) 0 7 1 \(size) 5000")
                        let from = "0 \(getuid()) \(sender.pid)"
                        #expect(try receiver.mustAnswer() == "message \(size) 7 1 \(from)")
                    }
                }
                // Two receivers, one of each version; a sender of each.
                let senders = [try join(previous: true), try join(previous: false)]
                for sender in senders {
                    for name in ["o", "p"] { try sender.must("look \(name) 20000") }
                }
                for receiver in [owner, other] { receiver.begin("collect 2 60000") }
                for (tag, sender) in senders.enumerated() {
                    _ = try crew.progress("p\(tag)")
                    sender.begin("forever 1,0,3 \(tag) \(crew.directory)/p\(tag) 500")
                }
                for sender in senders { try sender.mustAnswer("forever") }
                let logs = [try owner.log(), try other.log()]
                #expect(logs[0]["order"] == logs[1]["order"], "\(logs)")
                for log in logs {
                    #expect(log.isClean, "\(log)")
                    #expect(log["multicasts"] == "2000")
                }
                // A death is told across versions.
                owner.kill()
                try other.must("awaitdeath 0 20000")
            }
        }
    }
}
