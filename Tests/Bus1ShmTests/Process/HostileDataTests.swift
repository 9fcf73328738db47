import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// Members that write into the memory they were given what no honest one writes.
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct HostileDataTests {
        static let attacks = [
            "honest", "tail", "class", "length", "stamp", "grant", "sender", "commit", "slice",
            "segments", "boards", "everything", "claims", "replay", "past", "rewrite", "bells",
            "offsets", "truncate", "fds", "hangup", "flood",
        ]
        /// Those after which the attacker's ring is cut, and the owner told so.
        static let severing: Set = [
            "tail", "class", "length", "stamp", "everything", "claims", "past", "flood",
        ]
        /// What the owner can read of why.
        static let breaches = [
            "tail": "tail", "class": "kind", "length": "length", "stamp": "stamp",
            "claims": "claims", "past": "stamp", "flood": "rights",
        ]

        /// How many messages each of them has dropped at least, in three rounds.
        static let refusals = [
            "grant": 600, "sender": 150, "slice": 600, "segments": 30, "offsets": 12, "truncate": 3,
            "flood": 4097,
        ]

        /// `foreign`: the attacker's trust domain is its own, so that it must not reach the honest.
        private func run(_ attack: String, foreign: Bool, user: UInt32? = nil) throws {
            var dice = Dice()
            let seed = dice.seed
            try withCrew { crew in
                // The honest ones' broker is not the victim's process.
                if user != nil { _ = try crew.join() }
                let honest = user == nil ? try crew.join() : try crew.join(as: 61003)
                let victim =
                    user == nil
                    ? try crew.join("slots=256") : try crew.join(as: 61002, "slots=256")
                try victim.must("node victim anyone")
                let attacker = try crew.start()
                if let user { try attacker.must("setuid \(user)") }
                try attacker.must(
                    "open \(crew.bus.path) \(foreign && user == nil ? "isolated" : "")")
                for peer in [honest, attacker] {
                    // A further ring is in use only when its owner has read of it.
                    victim.begin("collect 1 30000")
                    try peer.must("look victim 20000")
                    try honest.must("send 0 1 end 16 5000")
                    _ = try victim.log()
                }
                for _ in 0..<3 {
                    victim.begin("collect 1 30000")
                    try attacker.must("attack \(attack) \(dice.next())")
                    try honest.must("stream 7 300 20000 0")
                    let log = try victim.log()
                    #expect(log["forged"] == "0", "\(log) seed \(seed)")
                    #expect(log["late"] == "false", "\(log) seed \(seed)")
                    #expect(log["ahead"] == "0", "\(log) seed \(seed)")
                    if attack == "honest" {
                        #expect(log["count"] == "302" && log.last(66, .unicast) == 1, "\(log)")
                        break
                    }
                    #expect(log["count"] == "301" && log["bad"] == "", "\(log) seed \(seed)")
                    let isSevered = log["severed"] != "0"
                    // Its messages are forged, too, and become many on a quiet machine.
                    let isFlood = attack == "rewrite" && log["breach"]!.hasPrefix("rights.")
                    #expect(
                        isSevered == (Self.severing.contains(attack) || isFlood),
                        "\(log) seed \(seed)")
                    if let rule = Self.breaches[attack] {
                        #expect(log["breach"] == "\(rule).\(user ?? getuid())", "\(log)")
                    }
                    if isSevered { break }
                }
                let refused = Int(try victim.must("refused"))!
                #expect(
                    refused >= Self.refusals[attack, default: 0],
                    "what was dropped was looked at: \(refused), seed \(seed)")
                // All the others are as they were.
                try victim.must("look victim 5000")
                try honest.must("loan 0 9 1 50000 5000")
                #expect(try victim.must("receive 5000").hasPrefix("message 50000 9 1"))
                attacker.kill()
            }
        }

        @Test(arguments: attacks)
        func anIsolatedAttackerHarmsNobody(attack: String) throws {
            try run(attack, foreign: true)
        }

        @Test(
            .enabled(if: getuid() == 0, "only root can become another user"), arguments: attacks)
        func anotherUserHarmsNobody(attack: String) throws {
            try run(attack, foreign: true, user: 61001)
        }

        /// Inside one trust domain there is no promise but this: nobody crashes, and nobody hangs.
        @Test(arguments: attacks)
        func anAttackFromInsideCrashesNobody(attack: String) throws {
            try withCrew { crew in
                let victim = try crew.join("slots=256")
                try victim.must("node victim")
                let honest = try crew.join()
                try honest.must("look victim 5000")
                let attacker = try crew.join()
                try attacker.must("look victim 5000")
                victim.begin("collect 1 300")
                try attacker.must("attack \(attack) \(UInt64.random(in: 0...UInt64.max))")
                _ = honest.ask("stream 7 300 300 0")
                _ = try victim.log()
                // Its other rings and its own work go on.
                try victim.must("node other")
                #expect(victim.ask("counts") != nil)
                attacker.kill()
            }
        }
    }
}
