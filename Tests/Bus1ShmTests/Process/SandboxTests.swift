import CBus1TestSupport
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// Peers in what sandboxes of applications are made of. docs/sandbox.md says what they need.
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct SandboxTests {
        /// Asked once, in a process of its own: containers and distributions forbid it here and there.
        private static let hasNamespaces: Bool = {
            let probe = try? RemotePeer(program: "bus1-test-program")
            return probe?.ask("namespaces")?.hasPrefix("ok") == true
        }()

        /// Everything that a peer does once it has joined, and only the system calls of the list.
        @Test(arguments: ["spin=0", "spin=200"])
        func aPeerWorksUnderAFilterOfSystemCalls(spin: String) throws {
            try withCrew { crew in
                let outside = try crew.join(spin)
                try outside.must("node out anyone")
                let inside = try crew.join("\(spin) lanes=2")
                try inside.must("seccomp")

                // Names, both ways.
                try inside.must("look out 20000")
                try inside.must("node in anyone")
                try outside.must("look in 20000")
                #expect(inside.ask("look nobody 20")?.hasPrefix("error timedOut") == true)
                let (me, it) = ("0 \(getuid()) \(inside.pid)", "0 \(getuid()) \(outside.pid)")

                // In slots and in slices; asleep, on the doorbell and in an event loop.
                for (verb, size) in [("send", 16), ("long", 100_000), ("loan", 3_000_000)] {
                    for sleep in ["receive", "pollone"] {
                        inside.begin("\(sleep) 20000")
                        try outside.must("\(verb) 0 7 1 \(size) 5000")
                        #expect(try inside.mustAnswer() == "message \(size) 7 1 \(it)")
                        outside.begin("\(sleep) 20000")
                        try inside.must("\(verb) 0 8 1 \(size) 5000")
                        #expect(try outside.mustAnswer() == "message \(size) 8 1 \(me)")
                    }
                }
                #expect(inside.ask("receive 20")?.hasPrefix("error timedOut") == true)

                // A full ring is waited for; what was lent comes back.
                inside.begin("stream 1 5000 20000 0")
                #expect(try outside.log(of: 1)["count"] == "5001")
                try inside.mustAnswer("stream")
                outside.begin("stream 2 5000 20000 0")
                #expect(try inside.log(of: 1)["count"] == "5001")
                try outside.mustAnswer("stream")

                // A further trust domain: another ring. Messages to several, and a death.
                inside.begin("collect 1 30000")
                let isolated = try crew.join("isolated \(spin)")
                try isolated.must("look in 20000")
                try isolated.must("node other anyone")
                try isolated.must("send 0 3 end 16 5000")
                _ = try inside.log()
                isolated.begin("collect 1 30000")
                try inside.must("look other 20000")
                outside.begin("collect 1 30000")
                try inside.must("multicast 0,1 4 1 24 5000")
                try inside.must("multicast 0,1 4 1 5000 5000")
                for handle in 0..<2 { try inside.must("send \(handle) 4 end 16 5000") }
                for log in [try outside.log(), try isolated.log()] {
                    #expect(log.isClean && log["multicasts"] == "2", "\(log)")
                }

                // Handles and open files, both ways: to a third one's node, which needs an introduction.
                isolated.begin("collect 1 30000")
                outside.begin("takeout 20000")
                try inside.must("pass 0 1 20000")
                #expect(try outside.mustAnswer() == "1 true")
                try outside.must("send 1 6 end 16 5000")
                _ = try isolated.log()
                inside.begin("takeout 20000")
                try outside.must("pass 0 1 20000")
                #expect(try inside.mustAnswer() == "2 true")
                try inside.must("release 2")

                isolated.begin("forever 0,2 5 \(crew.directory)/p")
                let progress = try crew.progress("p")
                inside.begin("awaitdeath 1 20000")
                #expect(eventually { progress[.loan] > 100 })
                isolated.kill()
                try inside.mustAnswer("awaitdeath")

                // The bus ends before it: those who know each other go on.
                try inside.must("dropnode 0")
                try inside.must("close")
                inside.end()
                #expect(inside.status == 0, "ended as it wished")
            }
        }

        @Test func anythingElseEndsTheProcess() throws {
            try withCrew { crew in
                let inside = try crew.join()
                try inside.must("seccomp")
                #expect(inside.ask("reach 1") == nil)
                inside.kill()
                #expect(inside.status & 0x7f == SIGSYS)
                crew.wasBrokerKilled = true
            }
        }

        /// docs/sandbox.md has a row for each system call of the filter.
        @Test func theDocumentListsTheSameSystemCalls() throws {
            let documented = try linesOfTree("docs/sandbox.md").filter { $0.hasPrefix("| `") }
                .map { String($0.split(separator: "`")[1]) }
            var filtered: [String] = []
            var index: UInt32 = 0
            while let name = test_sandbox_call(index) {
                filtered.append(String(cString: name))
                index += 1
            }
            #expect(documented == filtered)
            #expect(filtered == filtered.sorted())
        }

        /// Inside, the broker's user and the directory's owner both read as the overflow user.
        @Test(
            .enabled(if: hasNamespaces && getuid() == 0, "needs root, and user namespaces"))
        func aBrokerWhoseUserHasNoNameInsideIsBelievedOnlyWhereNobodyElseCanWrite() throws {
            try withCrew { crew in
                _ = try crew.join()
                for (mode, answer) in [
                    (0o755, "ok"), (0o1777, "error denied"), (0o775, "error denied"),
                ] {
                    chmod(crew.directory, mode_t(mode))
                    let inside = try crew.start()
                    try inside.must("setuid 61001")
                    try inside.must("namespaces")
                    let said = inside.ask("open \(crew.bus.path)")
                    #expect(
                        said?.hasPrefix(answer) == true, "\(String(mode, radix: 8)): \(said ?? "")")
                    // Outside, root's broker is root's, wherever it stands.
                    let outside = try crew.start()
                    try outside.must("setuid 61001")
                    try outside.must("open \(crew.bus.path)")
                    try outside.must("close")
                    outside.end()
                    inside.kill()
                }
            }
        }

        /// Only where the bus's clock is the kernel's: no namespace changes the processor's.
        @Test(
            .enabled(if: hasNamespaces, "user and process namespaces are not permitted here"),
            arguments: ["monotonic", "tsc"])
        func aPeerInAnotherTimeNamespaceIsRefusedWhereItsClockDiffers(clock: String) throws {
            try withCrew { crew in
                let broker = try crew.join("", ["BUS1_CLOCK=\(clock)"])
                let isKernels = try broker.must("facts").contains("clock=CLOCK_MONOTONIC")
                #expect(isKernels || clock == "tsc")
                let inside = try crew.start()
                // Kernels before 5.6 have none.
                guard inside.ask("namespaces time")?.hasPrefix("ok") == true else { return }
                let said = inside.ask("open \(crew.bus.path)")
                #expect(
                    said?.hasPrefix(isKernels ? "error mismatch" : "ok") == true, "\(said ?? "")")
                inside.kill()
            }
        }

        /// One user's process whose sandbox hides all others from it: its own trust domain, with a boundary.
        @Test(.enabled(if: hasNamespaces, "user and process namespaces are not permitted here"))
        func aSandboxedProcessOfTheSameUserHarmsNobody() throws {
            try withCrew { crew in
                let broker = try crew.join()
                let victim = try crew.start()
                let honest = try crew.start()
                let attacker = try crew.start()
                for member in [victim, honest, attacker] where getuid() == 0 {
                    try member.must("setuid 61001")
                }
                try victim.must("open \(crew.bus.path) slots=256")
                try victim.must("node victim")
                try honest.must("open \(crew.bus.path)")
                try honest.must("look victim 20000")
                try attacker.must("namespaces")
                let who = try attacker.must("open \(crew.bus.path) isolated")
                #expect(
                    who.hasSuffix(" \(getuid() == 0 ? 61001 : getuid())"),
                    "the broker knows it: \(who)")
                #expect(try attacker.must("reach \(victim.pid)") == "\(ESRCH) \(ENOENT)")
                #expect(try attacker.must("reach \(broker.pid)") == "\(ESRCH) \(ENOENT)")
                // The rule lets it in: it is the same user's. Its ring is its own.
                victim.begin("collect 1 30000")
                try attacker.must("look victim 20000")
                try attacker.must("seccomp")
                try attacker.must("long 0 6 1 50000 5000")
                try attacker.must("attack everything 7")
                try honest.must("stream 7 300 20000 0")
                let log = try victim.log()
                #expect(log["forged"] == "0" && log["severed"] != "0", "\(log)")
                #expect(log.last(7, .unicast) == 300, "\(log)")
                attacker.kill()
            }
        }
    }
}

extension RemotePeer {
    /// Receives until so many senders are done.
    fileprivate func log(of senders: Int) throws -> [String: String] {
        begin("collect \(senders) 30000")
        return try log()
    }
}
