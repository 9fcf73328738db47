import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// The program of a special build in which checks can be left out; nil but in tools/check-attacks.
private let uncheckedProgram = getenv("BUS1_UNCHECKED_PROGRAM").map { String(cString: $0) }

extension Crew {
    /// A process of the special build that has joined; `check`: what is left out there.
    func join(without check: String, as user: UInt32? = nil, _ options: String = "") throws
        -> RemotePeer
    {
        let variable = check == "holder-check-off" ? "BUS1_BREAK" : "BUS1_UNCHECKED"
        let member = try start(["\(variable)=\(check)"], program: uncheckedProgram!)
        if let user { try member.must("setuid \(user)") }
        try member.must("open \(bus.path) \(options)")
        return member
    }
}

extension ProcessTests {
    /// Where nothing stops it, each attack does harm that can be seen: its test tests something. With "none" left out the
    /// same victims are unharmed.
    @Suite(
        .serialized, .timeLimit(.minutes(3)),
        .enabled(if: uncheckedProgram != nil, "needs a special build: tools/check-attacks"))
    struct UncheckedTests {
        /// Check, attack.
        static let ofRings = [
            ("class", "class"), ("length", "length"),
            ("future-stamp", "stamp"), ("commit-index", "commit"),
            ("holder-check-off", "grant"), ("holder-check-off", "sender"),
            ("rights", "flood"),
        ]

        /// What became of a victim: nil, or the harm that was seen.
        private func harm(of attack: String, without check: String) throws -> String? {
            try withCrew { crew in
                let isRoot = getuid() == 0
                let honest = try crew.join()
                let victim = try crew.join(
                    without: check, as: isRoot ? 61002 : nil, "slots=256")
                // Whatever state it is in, it is not asked for what it left behind.
                defer { victim.kill() }
                try victim.must("node victim anyone")
                let attacker =
                    isRoot ? try crew.join(as: 61001) : try crew.join("isolated")
                for peer in [honest, attacker] {
                    // A further ring is in use only when its owner has read of it.
                    victim.begin("collect 1 30000")
                    try peer.must("look victim 20000")
                    try honest.must("send 0 1 end 16 5000")
                    _ = try victim.log()
                }
                for seed in 0..<5 {
                    victim.begin("collect 1 3000")
                    _ = attacker.ask("attack \(attack) \(seed)")
                    _ = honest.ask("stream 7 300 3000 0")
                    guard let log = try? victim.log(within: .seconds(10)) else {
                        return "the victim ends or hangs"
                    }
                    if log["forged"] != "0" { return "\(log["forged"]!) forged messages" }
                    if log["ahead"] != "0" { return "\(log["ahead"]!) stamps ahead of the clock" }
                    if log["count"] != "301" || log["bad"] != "" || log["late"] != "false" {
                        return "messages lost: \(log)"
                    }
                    if log["severed"] != "0" { return nil }
                }
                let refused = Int(try victim.must("refused"))!
                if refused > 20_000 { return "\(refused) forged messages looked at, and no end" }
                attacker.kill()
                return nil
            }
        }

        @Test(arguments: ofRings)
        func whatACheckStopsDoesHarmWithoutIt(check: String, attack: String) throws {
            #expect(try harm(of: attack, without: "none") == nil)
            let harm = try harm(of: attack, without: check)
            print("\(check): without it, \(attack): \(harm ?? "NO HARM")")
            #expect(harm != nil)
        }

        /// A broker that counts no leases: one word that is left pending stops its receivers.
        @Test(arguments: ["none", "lease"])
        func withoutLeasesOnePendingWordStopsItsReceivers(check: String) throws {
            try withCrew { crew in
                _ = try crew.join(without: check)
                let receivers = try crew.join(2, publishing: "r", "slots=64")
                let liar = try crew.join()
                let other = try crew.join()
                for i in 0..<2 {
                    try liar.must("look r\(i) 5000")
                    try other.must("look r\(i) 5000")
                }
                try liar.must("stall 9 now")
                for i in 0..<2 { try other.must("send \(i) 3 end 16 5000") }
                for receiver in receivers {
                    let log = try {
                        receiver.begin("collect 1 2000"); return try receiver.log()
                    }()
                    #expect((log["late"] == "true") == (check == "lease"), "\(log)")
                }
            }
        }

        /// A broker that takes a hang-up for a death says so of somebody who lives.
        @Test(arguments: ["none", "hang-up"])
        func whoHangsUpIsSaidToBeDeadWithoutTheCheck(check: String) throws {
            try withCrew { crew in
                _ = try crew.join(without: check)
                let witness = try crew.join()
                let other = try crew.join(1, publishing: "w")[0]
                let liar = try crew.join(1, publishing: "n")[0]
                try witness.must("look n0 5000")
                try liar.must("look w0 5000")
                try liar.must("attack hangup 1")
                let answer = witness.ask("receive 1000") ?? ""
                #expect(answer.hasPrefix("ok released 0") == (check == "hang-up"), "\(answer)")
                _ = other.ask("inbox")
                liar.kill()
            }
        }

        @Test(arguments: ["none", "share"])
        func withoutSharesOneUserFillsTheBrokersTable(check: String) throws {
            guard getuid() == 0 else { return }
            try withCrew { crew in
                let broker = try crew.start(
                    ["BUS1_UNCHECKED=\(check)"], program: uncheckedProgram!)
                try broker.must("limitfds 300")
                try broker.must("open \(crew.bus.path)")
                let flooder = try crew.start()
                try flooder.must("setuid 61001")
                try flooder.must("floodbroker \(crew.bus.path) 900")
                let newcomer = try crew.start()
                try newcomer.must("setuid 61002")
                let answer = newcomer.ask("open \(crew.bus.path)") ?? ""
                #expect(answer.hasPrefix("ok") == (check == "none"), "\(answer)")
                flooder.kill()
                if check == "share" { newcomer.kill() }
            }
        }

        /// A broker that believes what a packet says of itself ends with the first one.
        @Test(arguments: ["none", "packet"])
        func withoutTheCheckGarbageEndsTheBroker(check: String) throws {
            try withCrew { crew in
                let broker = try crew.join(without: check)
                let flooder = try crew.start()
                _ = flooder.ask("floodbroker \(crew.bus.path) 100")
                // Behind what the flood said: the broker has read it, or has ended.
                _ = try crew.join()
                #expect((broker.ask("counts") == nil) == (check == "packet"))
                flooder.kill()
                if check == "packet" { broker.kill() }
            }
        }

        /// A receiver that installs descriptors as they come has a table full of them.
        @Test(arguments: ["none", "peek"])
        func withoutLookingFirstDescriptorsFillTheirReceiversTable(check: String) throws {
            try withCrew { crew in
                _ = try crew.join()
                let victim = try crew.join(without: check)
                defer { victim.kill() }
                try victim.must("node victim anyone")
                let honest = try crew.join()
                let attacker = try crew.join("isolated")
                for peer in [honest, attacker] {
                    victim.begin("collect 1 30000")
                    try peer.must("look victim 20000")
                    try honest.must("send 0 1 end 16 5000")
                    _ = try victim.log()
                }
                let before = try openDescriptors(of: victim)
                victim.begin("collect 1 500")
                try attacker.must("attack fds 1")
                _ = try victim.log()
                let more = try openDescriptors(of: victim) - before
                #expect((more > 50) == (check == "peek"), "\(more) descriptors more")
                attacker.kill()
            }
        }

        private func openDescriptors(of member: RemotePeer) throws -> Int {
            Int(try member.must("counts").split(separator: " ")[0])!
        }

        /// A sender without a limit lends for ever to who gives nothing back.
        @Test(arguments: ["none", "quota"])
        func withoutALimitWhoGivesNothingBackHasAllOfItsSendersMemory(check: String) throws {
            try withCrew { crew in
                let keeper = try crew.join(1, publishing: "k", "slots=64")[0]
                let sender = try crew.join(without: check, "pool=\(4 << 20)")
                keeper.begin("receive 5000")
                try sender.must("look k0 20000")
                _ = keeper.answer()
                let lent = (1...16).count { sequence in
                    sender.ask("loan 0 5 \(sequence) 1000000 50")?.hasPrefix("ok") == true
                }
                #expect((lent == 16) == (check == "quota"), "\(lent) MB lent")
                keeper.kill()
            }
        }

        @Test(arguments: ["none", "names"])
        func withoutALimitOnePeerTakesAllNames(check: String) throws {
            try withCrew { crew in
                _ = try crew.join(without: check)
                let squatter = try crew.join()
                let taken = Int(try squatter.must("squat 1000"))!
                #expect(taken == (check == "none" ? 256 : 1000))
            }
        }
    }
}
