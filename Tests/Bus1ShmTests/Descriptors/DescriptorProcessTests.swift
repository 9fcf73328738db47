import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// A named pipe of the test: processes open it for writing and send it about, and its reading end, here,
/// hears when nobody has it any more.
final class SharedWitness {
    let path: String
    private let reading: Int32

    init(_ path: String) throws {
        self.path = path
        guard mkfifo(path, 0o666) == 0, chmod(path, 0o666) == 0 else {
            throw Bus1Error(.system, "make a pipe", errno: errno)
        }
        reading = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
    }

    /// Nobody has it open for writing, though somebody has had.
    var isAlone: Bool {
        var end = pollfd(fd: reading, events: Int16(POLLIN), revents: 0)
        return poll(&end, 1, 0) == 1 && end.revents & Int16(POLLHUP) != 0
    }

    /// The same, but for what a fork of another test holds until it executes its program.
    var isLeftAlone: Bool { eventually(within: .seconds(5)) { isAlone } }

    deinit { close(reading) }
}

extension ProcessTests {
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct DescriptorProcessTests {
        /// A sender with a handle to the receiver's node. `options`: of the sender.
        private func pair(
            _ crew: Crew, _ options: String = "", slots: Int = 64, user: UInt32? = nil
        ) throws -> (RemotePeer, RemotePeer, SharedWitness) {
            let broker = try crew.join()
            _ = broker
            let receiver = try crew.join("slots=\(slots)")
            try receiver.must("node files anyone")
            let sender = try crew.start()
            if let user { try sender.must("setuid \(user)") }
            try sender.must("open \(crew.bus.path) \(options)")
            sender.begin("look files 20000")
            // A further ring is in use only when its owner has read of it.
            receiver.begin("collect 1 20000")
            try sender.mustAnswer("look")
            try sender.must("send 0 1 end 16 5000")
            _ = try receiver.log()
            let witness = try SharedWitness(crew.directory + "/pipe")
            return (sender, receiver, witness)
        }

        private func openDescriptors(_ peer: RemotePeer) throws -> Int {
            Int(try peer.must("counts").split(separator: " ")[0])!
        }

        @Test(
            "S9: nothing is installed in the receiver before it asks", arguments: ["", "isolated"])
        func installedWhenAsked(options: String) throws {
            try withCrew { crew in
                let (sender, receiver, witness) = try pair(crew, options)
                try sender.must("sendfds 0 \(witness.path) 1 1 5000")
                try receiver.must("hold 5000")
                // The link's socket is there now.
                let before = try openDescriptors(receiver)
                try sender.must("sendfds 0 \(witness.path) 20 2 5000 9000")
                try receiver.must("hold 5000")
                #expect(try receiver.must("heldfds") == "1 20")
                #expect(try openDescriptors(receiver) <= before + 1, "a segment's at most")
                let held = try openDescriptors(receiver)
                #expect(try receiver.must("takefds 1") == "20")
                #expect(try openDescriptors(receiver) == held + 20)
                #expect(try receiver.must("takefds 1") == "0")
                try receiver.must("closefds")
                #expect(!witness.isAlone)
                try receiver.must("letgo")
                #expect(witness.isLeftAlone)
                #expect(try openDescriptors(receiver) == held)
            }
        }

        @Test(
            "S9: another user's descriptors arrive as well",
            .enabled(if: getuid() == 0, "only root can become another user"))
        func fromAnotherUser() throws {
            try withCrew { crew in
                let (sender, receiver, witness) = try pair(crew, user: 61001)
                try sender.must("sendfds 0 \(witness.path) 253 1 5000")
                try receiver.must("hold 5000")
                #expect(try receiver.must("takefds 0") == "253")
                try sender.must("sendsealed 0 300000 5")
                try receiver.must("hold 5000")
                #expect(try receiver.must("sealed 1") == "1 5")
                #expect(try receiver.must("facts").contains("copies_for_other_domains=0"))
                try receiver.must("closefds")
                try receiver.must("letgo")
                #expect(witness.isLeftAlone)
            }
        }

        @Test("S9: where the table is full the message stays, and gives all of them later")
        func fullTable() throws {
            try withCrew { crew in
                let (sender, receiver, witness) = try pair(crew, "isolated")
                try sender.must("sendfds 0 \(witness.path) 1 1 5000")
                try receiver.must("hold 5000")
                try receiver.must("roomfds 0")
                try sender.must("sendfds 0 \(witness.path) 30 2 5000")
                try receiver.must("hold 5000")
                for room in [0, 1, 15, 29] {
                    try receiver.must("roomfds \(room)")
                    let answer = try #require(receiver.ask("takefds 1"))
                    #expect(answer.hasPrefix("error system") && answer.contains("open files"))
                    #expect(try receiver.must("held") == "1:1 1:2")
                }
                try receiver.must("roomfds 30")
                #expect(try receiver.must("takefds 1") == "30")
                #expect(receiver.ask("takefds 0")?.hasPrefix("error system") == true)
                try receiver.must("closefds")
                #expect(try receiver.must("takefds 0") == "1")
                try receiver.must("closefds")
                #expect(witness.isLeftAlone)
                try receiver.must("roomfds 100")
                try receiver.must("letgo")
                receiver.kill()
            }
        }

        @Test("S9: a sender killed between its descriptors and their message leaks none")
        func killedInBetween() throws {
            try withCrew { crew in
                let (sender, receiver, witness) = try pair(crew)
                try sender.must("sendfds 0 \(witness.path) 2 1 5000")
                try sender.must("strandfds 0 \(witness.path)")
                sender.kill()
                #expect(!witness.isAlone)
                try receiver.must("hold 5000")
                #expect(try receiver.must("takefds 0") == "2")
                try receiver.must("closefds")
                let isClosed = eventually(within: .seconds(10)) {
                    _ = receiver.ask("receive 1")
                    return witness.isAlone
                }
                #expect(isClosed, "closed when the death has been delivered")
            }
        }

        @Test("S9: what a dead sender has sent is taken or closed")
        func takenFromTheDead() throws {
            try withCrew { crew in
                let (sender, receiver, witness) = try pair(crew)
                let second = try SharedWitness(crew.directory + "/second")
                try sender.must("sendfds 0 \(witness.path) 3 1 5000")
                try sender.must("sendfds 0 \(second.path) 3 2 5000")
                sender.kill()
                try receiver.must("hold 5000")
                try receiver.must("hold 5000")
                // Whatever is told of the death.
                for _ in 0..<3 { _ = receiver.ask("receive 50") }
                #expect(try receiver.must("takefds 1") == "3")
                try receiver.must("closefds")
                #expect(!witness.isAlone)
                try receiver.must("letgo")
                #expect(witness.isLeftAlone && second.isLeftAlone)
            }
        }

        @Test("S9: descriptors for a receiver that is killed are closed")
        func killedReceiver() throws {
            try withCrew { crew in
                let (sender, receiver, witness) = try pair(crew)
                for sequence in 1...5 {
                    try sender.must("sendfds 0 \(witness.path) 4 \(sequence) 5000")
                }
                try receiver.must("hold 5000")
                try receiver.must("takefds 0")
                #expect(!witness.isAlone)
                receiver.kill()
                #expect(eventually { witness.isAlone })
                _ = eventually { sender.ask("sendfds 0 \(witness.path) 4 9 0") != "ok " }
                #expect(witness.isLeftAlone)
            }
        }

        @Test("S9: a receiver that is stopped is no reason to wait")
        func stoppedReceiver() throws {
            try withCrew { crew in
                let (sender, receiver, witness) = try pair(crew, slots: 4096)
                try sender.must("sendfds 0 \(witness.path) 200 1 5000")
                try receiver.must("hold 5000")
                #expect(kill(receiver.pid, SIGSTOP) == 0)
                var answer: String?
                var sent = 0
                while sent < 2000 {
                    answer = sender.ask("sendfds 0 \(witness.path) 200 2 0")
                    guard answer == "ok " else { break }
                    sent += 1
                }
                #expect(answer?.hasPrefix("error overQuota descriptors") == true, "\(answer ?? "")")
                // Messages without descriptors go on.
                try sender.must("send 0 1 7 16 0")
                #expect(kill(receiver.pid, SIGCONT) == 0)
                try receiver.must("letgo")
                for _ in 0...sent { try receiver.must("receive 5000") }
                try sender.must("sendfds 0 \(witness.path) 200 3 5000")
                try receiver.must("hold 5000")
                #expect(try receiver.must("takefds 0") == "200")
                try receiver.must("closefds")
                try receiver.must("letgo")
                #expect(witness.isLeftAlone)
            }
        }

        @Test("S9: senders killed at random instants leak nothing and take nothing from others")
        func randomDeaths() throws {
            var dice = Dice()
            let seed = dice.seed
            try withCrew { crew in
                let broker = try crew.join()
                let receiver = try crew.join("slots=64")
                try receiver.must("node files anyone")
                let witness = try SharedWitness(crew.directory + "/pipe")
                _ = broker
                for round in 0..<6 {
                    let doomed = try crew.join("")
                    let honest = try crew.join("")
                    try doomed.must("look files 20000")
                    try honest.must("look files 20000")
                    receiver.begin("dropfds \(dice.next()) 30000")
                    doomed.begin("foreverfds 0 \(witness.path) \(dice.next()) 1000000")
                    honest.begin("foreverfds 0 \(witness.path) \(dice.next()) 300")
                    usleep(UInt32(dice.next() % 30_000))
                    doomed.kill()
                    try honest.mustAnswer("foreverfds", within: .seconds(60))
                    #expect(
                        Int(try receiver.mustAnswer("dropfds", within: .seconds(60))) ?? 0 > 0,
                        "seed \(seed)")
                    honest.end()
                    let isClosed = eventually(within: .seconds(10)) {
                        _ = receiver.ask("receive 1")
                        return witness.isAlone
                    }
                    #expect(isClosed, "round \(round), seed \(seed)")
                }
            }
        }

        @Test("a sealed payload reaches a stranger without a copy", arguments: ["", "isolated"])
        func sealed(options: String) throws {
            try withCrew { crew in
                let (sender, receiver, _) = try pair(crew, options)
                for (index, size) in [16, 4096, 5_000_000].enumerated() {
                    try sender.must("sendsealed 0 \(size) \(index)")
                    try receiver.must("hold 5000")
                    #expect(try receiver.must("sealed \(index)") == "1 \(index)")
                }
                let mapped = try receiver.must("counts").split(separator: " ")[1]
                try receiver.must("letgo")
                let after = try receiver.must("counts").split(separator: " ")[1]
                #expect(Int(mapped)! == Int(after)! + 3, "unmapped with their messages")
            }
        }

        /// Whoever has the ringing end of a receiver's doorbell, and the receiver itself, can make it hard
        /// to wake up, but nobody waits.
        @Test func aHostileHolderOfADoorbellDelaysNobodyButItsOwn() throws {
            try withCrew { crew in
                let (sender, receiver, _) = try pair(crew, "isolated")
                // The receiver sleeps in an event loop and is woken through its doorbell.
                receiver.begin("pollone 5000")
                usleep(50_000)
                try sender.must("send 0 1 1 16 5000")
                #expect(try receiver.mustAnswer().hasPrefix("message"))
                for attack in ["fill", "shutdown", "connect", "flood"] {
                    #expect(try sender.must("abusebell \(attack)") == "")
                    receiver.begin("pollone 5000")
                    usleep(20_000)
                    let honest = try crew.join()
                    try honest.must("look files 20000")
                    try honest.must("send 0 7 1 16 1000", within: .seconds(5))
                    #expect(try receiver.mustAnswer("\(attack)").hasPrefix("message"))
                    // Its own messages come late at worst: the timer.
                    receiver.begin("pollone 5000")
                    try sender.must("send 0 1 2 16 1000", within: .seconds(5))
                    #expect(try receiver.mustAnswer("\(attack)").hasPrefix("message"))
                    honest.end()
                    _ = receiver.ask("receive 1")
                }
                sender.kill()
            }
        }
    }
}
