import CBus1System
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// The broker ends in every way; its heir takes its place, and nobody but those who ended has lost anything.
    @Suite(.serialized, .timeLimit(.minutes(3)))
    struct SuccessionTests {
        /// Waits until this process is that for its bus.
        private func wait(_ role: String, _ member: RemotePeer) throws {
            var last: String?
            guard
                eventually({
                    last = member.ask("role")
                    return last == "ok \(role)"
                })
            else { throw PeerTestFailure("not \(role) but \(last ?? "silent")") }
        }

        /// All that a broker is asked for works, among those who knew each other and with newcomers.
        private func everythingWorks(_ crew: Crew, _ a: RemotePeer, _ b: RemotePeer, _ round: Int)
            throws
        {
            // Names, old and new, introductions, messages both ways.
            let c = try crew.join("slots=64")
            try c.must("node c\(round)")
            let toA = try c.must("look a 5000")
            try c.must("send \(toA) 7 \(round) 16 5000")
            #expect(try a.must("receive 5000").hasPrefix("message 16 7 \(round) "))
            try b.must("node late\(round)")
            let toB = try c.must("look late\(round) 5000")
            let toC = try b.must("look c\(round) 5000")
            try b.must("send \(toC) 8 1 16 5000")
            #expect(try c.must("receive 5000").hasPrefix("message 16 8 1 "))
            // A link's socket: a long payload goes over it.
            try c.must("long \(toB) 5 5 300000 5000")
            #expect(try b.must("receive 5000").hasPrefix("message 300000 5 5 "))
            #expect(a.ask("node a")?.hasPrefix("error nameTaken") == true)
            #expect(c.ask("look nobody 10")?.hasPrefix("error") == true)
            // Death notices.
            c.kill()
            try b.must("awaitdeath \(toC) 20000")
        }

        /// Processes that may become heirs, in that order if each looks in time, and two that may not, of which the second
        /// holds a handle to the first.
        private func cast(_ crew: Crew, _ count: Int) throws -> Cast {
            let candidates = try (0..<count).map { _ in try crew.join("slots=64") }
            let a = try crew.join("slots=64", ["BUS1_HEIR=0"])
            let b = try crew.join("slots=64", ["BUS1_HEIR=0"])
            try a.must("node a")
            #expect(try b.must("look a 5000") == "0")
            try b.must("send 0 1 1 16 5000")
            #expect(try a.must("receive 5000").hasPrefix("message 16 1 1 "))
            return Cast(candidates: candidates, a: a, b: b)
        }

        private final class Cast {
            var candidates: [RemotePeer]
            let a, b: RemotePeer

            init(candidates: [RemotePeer], a: RemotePeer, b: RemotePeer) {
                (self.candidates, self.a, self.b) = (candidates, a, b)
            }

            /// The one that is that for its bus, when there is one.
            func find(_ role: String, patience: Duration = .seconds(20)) throws -> RemotePeer {
                var found: RemotePeer?
                _ = eventually(within: patience) {
                    found = candidates.first { !$0.isReaped && $0.ask("role") == "ok \(role)" }
                    return found != nil
                }
                guard let found else { throw PeerTestFailure("nobody is the \(role)") }
                return found
            }
        }

        @Test("a killed broker is succeeded by its heir on the same path, again and again")
        func killedAgainAndAgain() throws {
            try withCrew { crew in
                let cast = try cast(crew, 4)
                for round in 0..<3 {
                    let heir = try cast.find("heir")
                    let broker = try cast.find("broker")
                    try broker.must("node doomed\(round)")
                    let toDoomed = try cast.b.must("look doomed\(round) 5000")
                    broker.kill()
                    try wait("broker", heir)
                    // Whoever knew the broker's own peer is told of its death; the others go on.
                    try cast.b.must("awaitdeath \(toDoomed) 20000")
                    try cast.b.must("send 0 2 \(round + 1) 16 5000")
                    #expect(
                        try cast.a.must("receive 5000").hasPrefix("message 16 2 \(round + 1) "))
                    try everythingWorks(crew, cast.a, cast.b, round)
                }
            }
        }

        @Test("a stopped broker is killed by its heir, which takes its place")
        func stopped() throws {
            try withCrew { crew in
                let cast = try cast(crew, 2)
                let heir = try cast.find("heir")
                let broker = try cast.find("broker")
                Glibc.kill(broker.pid, SIGSTOP)
                // Asked for meanwhile: answered by the successor.
                cast.b.begin("node waits")
                try wait("broker", heir)
                try cast.b.mustAnswer("node waits")
                #expect(broker.answer(within: .seconds(20)) == nil, "it was killed")
                broker.kill()
                try everythingWorks(crew, cast.a, cast.b, 0)
            }
        }

        @Test(
            "a broker whose process exits leaves its bus to the heir", arguments: ["exit", "close"])
        func exits(how: String) throws {
            try withCrew { crew in
                let cast = try cast(crew, 2)
                let heir = try cast.find("heir")
                let broker = try cast.find("broker")
                try broker.must("node doomed")
                let toDoomed = try cast.b.must("look doomed 5000")
                if how == "close" {
                    try broker.must("close")
                    try cast.b.must("awaitdeath \(toDoomed) 20000")
                }
                broker.end()
                try wait("broker", heir)
                if how == "exit" {
                    try cast.b.must("awaitdeath \(toDoomed) 20000")
                }
                try everythingWorks(crew, cast.a, cast.b, 0)
            }
        }

        @Test("an heir that dies alone is replaced, and so is one that stands still")
        func heirsEnd() throws {
            try withCrew { crew in
                let cast = try cast(crew, 4)
                let first = try cast.find("heir")
                first.kill()
                let second = try cast.find("heir")
                Glibc.kill(second.pid, SIGSTOP)
                cast.candidates.removeAll { $0 === second }
                let third = try cast.find("heir")
                let broker = try cast.find("broker")
                // Its place is taken, and it sees that before it does anything.
                Glibc.kill(second.pid, SIGCONT)
                try wait("none", second)
                broker.kill()
                try wait("broker", third)
                try everythingWorks(crew, cast.a, cast.b, 0)
            }
        }

        @Test(
            "when broker and heir are killed at once, one of those who come next begins a new bus")
        func bothKilled() throws {
            try withCrew { crew in
                let cast = try cast(crew, 2)
                let heir = try cast.find("heir")
                let broker = try cast.find("broker")
                Glibc.kill(heir.pid, SIGSTOP)
                broker.kill()
                heir.kill()
                // Those who know each other go on.
                try cast.b.must("send 0 2 1 16 5000")
                #expect(try cast.a.must("receive 5000").hasPrefix("message 16 2 1 "))
                // Several at once: exactly one becomes the broker.
                let others = try (0..<4).map { _ in try crew.start() }
                for other in others { other.begin("open \(crew.bus.path)") }
                for other in others { try other.mustAnswer("open") }
                #expect(others.count { $0.ask("role") == "ok broker" } == 1)
                try others[0].must("node new")
                try others[3].must("look new 5000")
            }
        }

        @Test(
            "brokers are killed at random while peers come, ask and go: each request is carried out once"
        )
        func killedUnderLoad() throws {
            var dice = Dice()
            let seed: Comment = "seed \(dice.seed)"
            try withCrew { crew in
                let cast = try cast(crew, 6)
                let others = try (0..<2).map { _ in try crew.join("slots=64", ["BUS1_HEIR=0"]) }
                let visitor = try crew.start(["BUS1_HEIR=0"])
                cast.a.begin("churn a b 400")
                cast.b.begin("churn b a 400")
                visitor.begin("visit \(crew.bus.path) 300")
                others[0].begin("churn x y 400")
                others[1].begin("churn y x 400")
                for _ in 0..<4 {
                    _ = try cast.find("heir")
                    let broker = try cast.find("broker")
                    let end = monotonicNow_ns() + dice.next() % 30_000_000
                    while monotonicNow_ns() < end {}
                    broker.kill()
                    _ = try cast.find("broker")
                }
                for member in [cast.a, cast.b, visitor] + others {
                    #expect(try member.mustAnswer("churn") == "", seed)
                }
            }
        }

        @Test(
            "an introduced pair keeps its speed while its broker is killed or stopped, and nothing is lost",
            arguments: [SIGKILL, SIGSTOP])
        func speed(signal: Int32) throws {
            try withCrew { crew in
                let cast = try cast(crew, 2)
                let heir = try cast.find("heir")
                let broker = try cast.find("broker")
                let progress = try crew.progress("pump")
                cast.a.begin("collect 1 60000")
                cast.b.begin("pump 0 \(crew.directory)/pump")
                /// Messages in a second, over so many milliseconds.
                func rate(_ span_ms: UInt64) -> Double {
                    let (from, start) = (progress[.unicast], monotonicNow_ns())
                    usleep(UInt32(span_ms * 1000))
                    return Double(progress[.unicast] - from) / Double(monotonicNow_ns() - start)
                        * 1e9
                }
                #expect(eventually { progress[.unicast] > 1000 })
                let before = rate(700)
                Glibc.kill(broker.pid, signal)
                let during = rate(700)
                try wait("broker", heir)
                let after = rate(700)
                progress[.end] = 1
                let sent = try cast.b.mustAnswer("pump")
                let log = try cast.a.log()
                #expect(log.isClean, "\(log)")
                #expect(log.last(1, .unicast) == UInt64(sent))
                print(
                    "messages/s before, during and after \(signal == SIGKILL ? "a kill" : "a stop"):",
                    "\(Int(before)) \(Int(during)) \(Int(after)), during/before \(during / before)")
                // On a machine that others use, too, a number says nothing but that it goes on.
                #expect(during > 0)
                broker.kill()
                try everythingWorks(crew, cast.a, cast.b, 0)
            }
        }

        @Test(
            "no stranger becomes the broker, or is made its heir, or can write what an heir can",
            .enabled(if: getuid() == 0, "only root can become other users"))
        func strangers() throws {
            try withCrew { crew in
                // Its owner may serve; all others may make files beside.
                chown(crew.directory, 61002, 61002)
                chmod(crew.directory, 0o1777)
                let broker = try crew.start()
                try broker.must("setuid 61002")
                try broker.must("beopen")
                try broker.must("open \(crew.bus.path)")
                try broker.must("node all anyone")
                // The first to come after the broker, and eager.
                let stranger = try crew.start()
                try stranger.must("setuid 61001")
                try stranger.must("open \(crew.bus.path)")
                stranger.begin("look all 20000")
                broker.begin("receive 5000")
                let toAll = try stranger.mustAnswer("look")
                try stranger.must("send \(toAll) 1 1 16 5000")
                _ = try broker.mustAnswer()
                #expect(try stranger.must("role") == "none")
                let eve = try RemotePeer()
                try eve.must("setuid 61001")
                try eve.must("open \(crew.bus.path)")
                try eve.must("lookup all 20000")
                #expect(try eve.must("rewrite") == "true true true")
                eve.kill()
                let friend = try crew.start()
                try friend.must("setuid 61002")
                try friend.must("beopen")
                try friend.must("open \(crew.bus.path)")
                try wait("heir", friend)
                broker.kill()
                try wait("broker", friend)
                // Both end: nobody of another user gets their place.
                friend.kill()
                crew.wasBrokerKilled = true
                let late = try crew.start()
                try late.must("setuid 61001")
                // It can only wait for one of the directory's owner.
                late.begin("open \(crew.bus.path)")
                #expect(late.answer(within: .milliseconds(100)) == nil)
                let next = try crew.start()
                try next.must("setuid 61002")
                try next.must("beopen")
                try next.must("open \(crew.bus.path)")
                try late.mustAnswer("open")
                #expect(try late.must("role") == "none")
                try wait("broker", next)
            }
        }
    }
}
