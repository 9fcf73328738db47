import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// The data path between processes that nobody but the bus connects.
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct StrangersTests {
        @Test func aNameLeadsFromOneProcessToAnother() throws {
            try withCrew { crew in
                let owner = try crew.join()
                let other = try crew.join()
                // The look-up comes first, and waits for the service.
                other.begin("look late 20000")
                try owner.must("node late")
                #expect(try other.mustAnswer() == "0")
                try other.must("send 0 7 42 16 1000")
                let me = "0 \(getuid()) \(other.pid)"
                #expect(try owner.must("receive 5000") == "message 16 7 42 \(me)")
                // Longer than a slot, both ways of sending.
                for (verb, size) in [
                    ("long", 105), ("long", 100_000), ("loan", 64), ("loan", 3_000_000),
                ] {
                    try other.must("\(verb) 0 7 43 \(size) 5000")
                    #expect(try owner.must("receive 5000") == "message \(size) 7 43 \(me)")
                }
                #expect(other.ask("look nobody 20")?.hasPrefix("error timedOut") == true)
            }
        }

        @Test func aSpawnedProgramHoldsTheHandlesItWasGiven() throws {
            try withCrew { crew in
                let owner = try crew.join()
                try owner.must("node first")
                try owner.must("node second")
                let parent = try crew.join()
                try parent.must("look second 5000")
                try parent.must("look first 5000")
                try parent.must("look second 5000")
                // In this order, and one twice.
                let pid = try parent.must("spawn tell 1 0 2")
                #expect(try owner.must("receive 20000") == "message 16 0 0 0 \(getuid()) \(pid)")
                #expect(try owner.must("receive 20000") == "message 16 1 1 1 \(getuid()) \(pid)")
                #expect(try owner.must("receive 20000") == "message 16 2 2 1 \(getuid()) \(pid)")
                // It ends with the number of handles: what waitpid tells.
                #expect(try parent.must("wait 0 20000") == "\(3 << 8)")
                #expect(try parent.must("children") == "none")
                let idle = try parent.must("spawn idle 0")
                #expect(try owner.must("receive 20000").hasSuffix(" \(idle)"))
                #expect(try parent.must("wait 1 10") == "late")
                try parent.must("signal 1 \(SIGKILL)")
                #expect(try parent.must("wait 1 20000") == "\(SIGKILL)")
            }
        }

        @Test func aPayloadIsForwardedOverThreeProcesses() throws {
            try withCrew { crew in
                let last = try crew.join()
                try last.must("node last")
                let middle = try crew.join()
                try middle.must("node middle")
                try middle.must("look last 5000")
                let first = try crew.join()
                try first.must("look middle 5000")
                for round in 0..<20 {
                    try first.must("loan 0 1 \(round) 200000 5000")
                    try middle.must("forward 0")
                    // From the one in the middle, with what the first one wrote.
                    #expect(
                        try last.must("receive 5000")
                            == "message 200000 1 \(round) 0 \(getuid()) \(middle.pid)")
                }
                // The middle one goes away: what it had passed on stays readable until let go.
                try first.must("loan 0 1 99 200000 5000")
                try middle.must("forward 0")
                try last.must("hold 5000")
                try middle.must("close")
                try last.must("letgo")
            }
        }

        @Test func fourProcessesGetTwoSendersMulticastsInOneOrder() throws {
            try withCrew { crew in
                let receivers = try crew.join(4, publishing: "r", "slots=64")
                let senders = try (0..<2).map { _ in try crew.join() }
                for sender in senders { for i in 0..<4 { try sender.must("look r\(i) 5000") } }
                for receiver in receivers { receiver.begin("collect 2 60000") }
                for (tag, sender) in senders.enumerated() {
                    sender.begin("forever 1,0,3 \(tag) \(crew.directory)/p\(tag) 2000")
                }
                for sender in senders { try sender.mustAnswer("forever") }
                let logs = try receivers.map { try $0.log() }
                #expect(Set(logs.map { $0["order"] }).count == 1, "\(logs)")
                for log in logs {
                    #expect(log.isClean, "\(log)")
                    #expect(log["multicasts"] == "8000")
                    #expect(log["count"] == "\(2 * 3 * 2000 + 2)")
                }
            }
        }

        @Test func manySendersReachOneReceiver() throws {
            try withCrew { crew in
                let receiver = try crew.join(1, publishing: "r", "slots=256")[0]
                let senders = try (0..<8).map { _ in try crew.join() }
                for sender in senders { try sender.must("look r0 5000") }
                receiver.begin("collect 8 60000")
                for (tag, sender) in senders.enumerated() {
                    sender.begin("stream \(tag) 3000 30000 0")
                }
                for sender in senders { try sender.mustAnswer("stream") }
                let log = try receiver.log()
                #expect(log.isClean, "\(log)")
                #expect(log["count"] == "\(8 * 3001)")
            }
        }

        /// Nothing but what is forced differs: the same traffic on each fallback.
        @Test(arguments: ["", "BUS1_NO_URING=1", "BUS1_CLOCK=monotonic", "one processor"])
        func theFallbacksCarryTheSame(what: String) throws {
            try withCrew { crew in
                let environment = what.contains("=") ? [what] : []
                let all = try (0..<3).map { _ in
                    let member = try crew.start(environment)
                    if what == "one processor" { try member.must("processor 0") }
                    try member.must("open \(crew.bus.path) slots=64")
                    return member
                }
                let facts = try all[1].must("facts")
                switch what {
                case "BUS1_NO_URING=1": #expect(try all[0].must("loop") == "epoll")
                case "BUS1_CLOCK=monotonic":
                    #expect(facts.contains("clock=CLOCK_MONOTONIC"), "\(facts)")
                default: break
                }
                try all[0].must("node r0")
                try all[1].must("node r1")
                for sender in [all[1], all[2]] {
                    try sender.must("look r0 5000")
                    try sender.must("look r1 5000")
                }
                all[0].begin("collect 1 60000")
                all[1].begin("collect 1 60000")
                try all[2].must("forever 1,0,2 5 \(crew.directory)/p 1000")
                let logs = [try all[0].log(), try all[1].log()]
                #expect(logs[0].isClean && logs[1].isClean, "\(logs)")
                #expect(logs[0]["order"] == logs[1]["order"])
                #expect(logs[0]["count"] == "3001" && logs[1]["count"] == "3001")
            }
        }
    }
}
