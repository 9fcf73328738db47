import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// Processes that stand still in the middle of a transaction: the others go on, and what was stopped happens once,
    /// later.
    @Suite(.serialized, .timeLimit(.minutes(3)))
    struct StallTests {
        /// Whether it has stopped itself.
        private func isStopped(_ member: RemotePeer) -> Bool {
            guard let file = fopen("/proc/\(member.pid)/stat", "re") else { return false }
            defer { fclose(file) }
            var line = [CChar](repeating: 0, count: 512)
            guard fgets(&line, Int32(line.count), file) != nil else { return false }
            let text = String(
                decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            return text.split(separator: ")").last?.hasPrefix(" T") ?? false
        }

        /// Begins a command and waits until its process has stopped in the middle of it. False: this machine has no
        /// such trap.
        private func stop(_ member: RemotePeer, in command: String) throws -> Bool {
            guard try member.must("stopincommit") == "" else { return false }
            member.begin(command)
            guard eventually({ isStopped(member) }) else {
                throw PeerTestFailure("\(command): \(member.answer(within: .zero) ?? "goes on")")
            }
            return true
        }

        /// N: a message to several nodes, stopped behind its writing, before its stamp.
        @Test(
            arguments: ["multicast 0,1 7 1 24 60000", "multicast 0,1 7 1 5000 60000"], [0, 50_000])
        func aSenderStoppedInMidCommitHoldsNobodyBackAndSendsOnceLater(
            command: String, spin: Int
        ) throws {
            try withCrew { crew in
                let receivers = try crew.join(2, publishing: "r", "slots=16 spin=\(spin)")
                let stopped = try crew.join()
                let other = try crew.join()
                for i in 0..<2 {
                    try stopped.must("look r\(i) 5000")
                    try other.must("look r\(i) 5000")
                }
                for receiver in receivers { receiver.begin("collect 1 60000") }
                guard try stop(stopped, in: command) else { return }
                // Four laps of the rings, and more.
                let begun_ns = monotonicNow_ns()
                try other.must("forever 1,0 3 \(crew.directory)/p 100")
                // A lease, and what a busy machine adds: not the time for which it stands still.
                #expect(monotonicNow_ns() - begun_ns < 5_000_000_000)
                for receiver in receivers {
                    let log = try receiver.log()
                    #expect(log.isClean, "\(log)")
                    #expect(
                        log.last(3, .unicast) == 100 && log.last(3, .multicast) == 100, "\(log)")
                    #expect(log["last"]?.contains("7.") == false, "it has not happened: \(log)")
                }
                #expect(isStopped(stopped))
                kill(stopped.pid, SIGCONT)
                try stopped.mustAnswer(command)
                var asked = 0
                for receiver in receivers {
                    let size = command.split(separator: " ")[4]
                    #expect(try receiver.must("receive 5000").hasPrefix("message \(size) 7 1 "))
                    #expect(receiver.ask("receive 100")?.hasPrefix("error timedOut") == true)
                    let counts = try receiver.must("inbox").split(separator: " ").map { Int($0)! }
                    #expect(counts[0] >= 1, "aborted")
                    asked += counts[1]
                }
                #expect(asked >= 1)
            }
        }

        /// Its heir counts the lease in the place of a broker that was stopped, long before it ends it; and who needs
        /// the broker for the first slice on a link does not wait for that.
        @Test func aStoppedBrokerIsNoReasonToWaitForAStoppedSender() throws {
            try withCrew { crew in
                let broker = try crew.join()
                let heir = try crew.join()
                #expect(eventually { heir.ask("role") == "ok heir" })
                #expect(broker.ask("role") == "ok broker")
                let receivers = try crew.join(2, publishing: "r")
                let stopped = try crew.join()
                let other = try crew.join()
                for name in ["r0", "r1"] {
                    try stopped.must("look \(name) 5000")
                    try other.must("look \(name) 5000")
                }
                guard try stop(stopped, in: "multicast 0,1 7 1 24 60000") else { return }
                kill(broker.pid, SIGSTOP)
                #expect(eventually { isStopped(broker) })
                try other.must("multicast 0,1 3 1 24 5000")
                #expect(try receivers[0].must("receive 20000").hasPrefix("message 24 3 1 "))
                #expect(isStopped(broker), "its heir has not ended it")
                #expect(other.ask("send 1 3 2 5000 0")?.hasPrefix("error timedOut") == true)
                #expect(isStopped(broker), "its heir has not ended it")
                #expect(eventually { heir.ask("role") == "ok broker" })
                broker.kill()
                kill(stopped.pid, SIGCONT)
                try stopped.mustAnswer("multicast")
                #expect(try receivers[0].must("receive 5000").hasPrefix("message 24 7 1 "))
                try other.must("send 1 3 3 5000 5000")
            }
        }

        /// In an event loop nobody rings for what is aborted: the descriptor becomes readable by time.
        @Test func aReceiverInAnEventLoopIsNotHeldBackEither() throws {
            try withCrew { crew in
                let receiver = try crew.join(1, publishing: "r")[0]
                let second = try crew.join(1, publishing: "s")[0]
                let stopped = try crew.join()
                let other = try crew.join()
                for name in ["r0", "s0"] {
                    try stopped.must("look \(name) 5000")
                    try other.must("look \(name) 5000")
                }
                guard try stop(stopped, in: "multicast 0,1 7 1 24 60000") else { return }
                try other.must("send 0 3 1 16 5000")
                #expect(try receiver.must("pollone 20000").hasPrefix("message 16 3 1 "))
                kill(stopped.pid, SIGCONT)
                try stopped.mustAnswer("multicast")
                #expect(try receiver.must("pollone 20000").hasPrefix("message 24 7 1 "))
                #expect(try second.must("receive 5000").hasPrefix("message 24 7 1 "))
            }
        }

        /// With a handle that goes through its node's owner, and an open file: neither lost nor doubled.
        @Test func whatWasAttachedComesOnceAndCreditComesBack() throws {
            try withCrew { crew in
                let owner = try crew.join(1, publishing: "o")[0]
                let receiver = try crew.join(1, publishing: "r")[0]
                let stopped = try crew.join()
                let other = try crew.join()
                for name in ["r0", "o0"] {
                    try stopped.must("look \(name) 5000")
                    try other.must("look \(name) 5000")
                }
                try stopped.must("pass 0 1 5000")
                #expect(try receiver.must("takeout 5000") == "0 true")
                let charged = try receiver.must("credit")
                guard try stop(stopped, in: "pass 0 1 60000") else { return }
                for sequence in 1...100 {
                    try other.must("send 0 3 \(sequence) 16 5000")
                    #expect(
                        try receiver.must("receive 5000").hasPrefix("message 16 3 \(sequence) "))
                }
                kill(stopped.pid, SIGCONT)
                try stopped.mustAnswer("pass")
                #expect(try receiver.must("takeout 5000") == "1 true")
                #expect(receiver.ask("receive 100")?.hasPrefix("error timedOut") == true)
                // The message's charge, once.
                let before = charged.split(separator: " ").map { Int($0)! }
                let after = try receiver.must("credit").split(separator: " ").map { Int($0)! }
                #expect(zip(before, after).allSatisfy { $1 - $0 <= 1 }, "\(charged) then \(after)")
                // The handle works: its owner knows of its holder.
                try receiver.must("send 1 9 1 16 5000")
                #expect(try owner.must("receive 5000").hasPrefix("message 16 9 1 "))
            }
        }

        /// The same without a file, by the way that needs no lists; the other way takes over.
        @Test func aHandleThatIsPassedOnComesOnce() throws {
            try withCrew { crew in
                let owner = try crew.join(1, publishing: "o")[0]
                let receiver = try crew.join(1, publishing: "r")[0]
                let stopped = try crew.join()
                let other = try crew.join()
                for name in ["r0", "o0"] {
                    try stopped.must("look \(name) 5000")
                    try other.must("look \(name) 5000")
                }
                try stopped.must("passfew 0 1 5000")
                #expect(try receiver.must("takehandle 5000") == "0")
                guard try stop(stopped, in: "passfew 0 1 60000") else { return }
                try other.must("send 0 3 1 16 5000")
                #expect(try receiver.must("receive 5000").hasPrefix("message 16 3 1 "))
                kill(stopped.pid, SIGCONT)
                try stopped.mustAnswer("passfew")
                #expect(try receiver.must("takehandle 5000") == "1")
                #expect(receiver.ask("receive 100")?.hasPrefix("error timedOut") == true)
                try receiver.must("send 1 9 1 16 5000")
                #expect(try owner.must("receive 5000").hasPrefix("message 16 9 1 "))
            }
        }

        /// Of a handle, where its owner's ring has no room: by a word.
        @Test func aHandleGivenUpInAStoppedProcessHoldsItsOwnerUpForTheLeaseOnly() throws {
            try withCrew { crew in
                let owner = try crew.join(1, publishing: "o", "slots=16")[0]
                let stopped = try crew.join()
                let other = try crew.join()
                try stopped.must("look o0 5000")
                try other.must("look o0 5000")
                for sequence in 1...12 { try other.must("send 0 3 \(sequence) 16 5000") }
                guard try stop(stopped, in: "release 0") else { return }
                for sequence in 1...12 {
                    #expect(try owner.must("receive 5000").hasPrefix("message 16 3 \(sequence) "))
                }
                // Those were there before it began; this one stands behind it.
                try other.must("send 0 3 13 16 5000")
                #expect(try owner.must("receive 5000").hasPrefix("message 16 3 13 "))
                #expect(try owner.must("inbox") != "0 0", "it asked")
                kill(stopped.pid, SIGCONT)
                try stopped.mustAnswer("release")
                try other.must("send 0 3 14 16 5000")
                #expect(try owner.must("receive 5000").hasPrefix("message 16 3 14 "))
            }
        }

        @Test func aReleaseThatIsStoppedHoldsNobodyBackAndIsToldOnce() throws {
            try withCrew { crew in
                // The first one is the broker.
                let other = try crew.join()
                let stopped = try crew.join(1, publishing: "n")[0]
                let holder = try crew.join(1, publishing: "h")[0]
                try holder.must("look n0 5000")
                try other.must("look h0 5000")
                // The owner has read who holds its node.
                try holder.must("send 0 1 1 16 5000")
                try stopped.must("receive 5000")
                guard try stop(stopped, in: "dropnode 0") else { return }
                for sequence in 1...100 {
                    try other.must("send 0 3 \(sequence) 16 5000")
                    #expect(try holder.must("receive 5000").hasPrefix("message 16 3 \(sequence) "))
                }
                kill(stopped.pid, SIGCONT)
                try stopped.mustAnswer("dropnode")
                #expect(try holder.must("inbox") != "0 0", "it asked")
                #expect(try holder.must("receive 5000") == "released 0 true")
                #expect(holder.ask("receive 100")?.hasPrefix("error timedOut") == true)
            }
        }

        /// What no honest sender does: words that say they began at another time, or are left pending one after the
        /// other.
        @Test(arguments: ["now", "future", "past"])
        func aWordThatIsLeftPendingIsOverSoonWhateverItSays(begun: String) throws {
            try withCrew { crew in
                let receivers = try crew.join(2, publishing: "r", "slots=64")
                let liar = try crew.join()
                let other = try crew.join()
                for i in 0..<2 {
                    try liar.must("look r\(i) 5000")
                    try other.must("look r\(i) 5000")
                }
                for receiver in receivers { receiver.begin("collect 1 60000") }
                for tag in 1...20 {
                    try liar.must("stall \(tag) \(begun)")
                    try other.must("multicast 0,1 3 \(tag) 24 5000")
                }
                for i in 0..<2 { try other.must("send \(i) 3 end 16 5000") }
                for receiver in receivers {
                    let log = try receiver.log()
                    #expect(log.isClean && log.last(3, .multicast) == 20, "\(log)")
                }
            }
        }

        @Test func whoLeavesOneWordAfterTheOtherPendingDelaysTheOthersAndNoMore() throws {
            try withCrew { crew in
                let receivers = try crew.join(2, publishing: "r", "slots=64")
                let liar = try crew.join()
                let other = try crew.join()
                for i in 0..<2 {
                    try liar.must("look r\(i) 5000")
                    try other.must("look r\(i) 5000")
                }
                for receiver in receivers { receiver.begin("collect 1 60000") }
                liar.begin("stallall 9 2000")
                try other.must("forever 1,0 3 \(crew.directory)/p 200")
                for receiver in receivers {
                    let log = try receiver.log()
                    #expect(log.isClean && log.last(3, .multicast) == 200, "\(log)")
                }
                try liar.mustAnswer("stallall")
            }
        }

        @Test func whoAsksForAbortsAllTheTimeChangesNothing() throws {
            try withCrew { crew in
                let receivers = try crew.join(2, publishing: "r", "slots=64")
                let honest = try crew.join()
                try honest.must("node honest")
                let nagger = try crew.join()
                try nagger.must("look honest 5000")
                for i in 0..<2 { try honest.must("look r\(i) 5000") }
                for receiver in receivers { receiver.begin("collect 1 60000") }
                let begun_ns = monotonicNow_ns()
                try honest.must("forever 1 2 \(crew.directory)/q 5000 open")
                let undisturbed_ns = monotonicNow_ns() - begun_ns
                nagger.begin("nag 0 1000")
                try honest.must("forever 1 3 \(crew.directory)/p 5000")
                let nagged_ns = monotonicNow_ns() - begun_ns - undisturbed_ns
                // They share two processors with whoever asks. Aborted at once, it would not end.
                #expect(nagged_ns < undisturbed_ns * 20, "\(nagged_ns) ns, \(undisturbed_ns) ns")
                let asks = Int(try nagger.mustAnswer("nag"))!
                for receiver in receivers {
                    let log = try receiver.log()
                    #expect(log.isClean && log.last(3, .multicast) == 5000, "\(log)")
                    #expect(log.last(2, .multicast) == 5000, "\(log)")
                    let counts = try receiver.must("inbox").split(separator: " ").map { Int($0)! }
                    // One that lost its processor for longer than its lease, now and then.
                    #expect(counts[0] < 250, "\(counts[0]) aborted, \(asks) asks")
                }
            }
        }
    }
}
