import CBus1System
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// What one user does to the broker, to names and to memory, where others are.
    @Suite(
        .serialized, .timeLimit(.minutes(2)),
        .enabled(if: getuid() == 0, "only root can become other users"))
    struct HostileUsersTests {
        /// A broker that may open 300 files, and somebody who would open them all.
        @Test func aFloodOfConnectionsKeepsNoOtherUserOut() throws {
            try withCrew { crew in
                let broker = try crew.start()
                try broker.must("limitfds 300")
                try broker.must("open \(crew.bus.path)")
                let known = try crew.join(as: 61002)
                try known.must("node known anyone")
                let flooder = try crew.start()
                try flooder.must("setuid 61001")
                try flooder.must("floodbroker \(crew.bus.path) 900")
                // Somebody new comes in, and finds somebody old.
                let newcomer = try crew.join(as: 61003)
                known.begin("receive 20000")
                try newcomer.must("look known 20000")
                try newcomer.must("send 0 3 1 16 5000")
                #expect(try known.mustAnswer().hasPrefix("message 16 3 1 "))
                // The flooder is told which resource it has used up.
                let refusal = flooder.ask("open \(crew.bus.path)") ?? ""
                #expect(refusal.hasPrefix("error overQuota descriptors"), "\(refusal)")
                flooder.kill()
            }
        }

        /// A name belongs to whoever was first; but nobody can hide who that is.
        @Test func whoSquatsNamesHasAFewAndIsKnown() throws {
            try withCrew { crew in
                _ = try crew.join()
                let squatter = try crew.join(as: 61001)
                #expect(try squatter.must("squat 1000") == "256")
                let refusal = squatter.ask("node further anyone") ?? ""
                #expect(refusal.hasPrefix("error overQuota names 256 256"), "\(refusal)")
                let owner = try crew.join(as: 61002)
                #expect(owner.ask("node squat0")?.hasPrefix("error nameTaken") == true)
                try owner.must("node mine anyone")
                let asker = try crew.join(as: 61003)
                for (name, uid) in [("squat0", 61001), ("mine", 61002)] {
                    let other = name == "mine" ? owner : squatter
                    asker.begin("look \(name) 20000")
                    other.begin("receive 1000")
                    let handle = try asker.mustAnswer("look")
                    _ = other.answer()
                    #expect(try asker.must("owner \(handle)").hasPrefix("\(uid) "))
                }
                // Dead, it has none.
                squatter.kill()
                #expect(eventually { owner.ask("node squat0") == "ok " })
            }
        }

        /// Its own share of the sender's memory is used up, no more.
        @Test func whoGivesNothingBackStopsNoSenderToOthers() throws {
            try withCrew { crew in
                _ = try crew.join()
                let keeper = try crew.join(as: 61001, "slots=64")
                try keeper.must("node k anyone")
                let honest = try crew.join(as: 61003, "slots=64")
                try honest.must("node h anyone")
                let sender = try crew.join(as: 61002, "pool=\(4 << 20)")
                for (name, receiver) in [("k", keeper), ("h", honest)] {
                    receiver.begin("receive 1000")
                    try sender.must("look \(name) 20000")
                    _ = receiver.answer()
                }
                var refused = false
                for sequence in 1...32 where !refused {
                    let answer = sender.ask("loan 0 5 \(sequence) 1000000 200") ?? ""
                    refused = answer.hasPrefix("error")
                }
                #expect(refused)
                for sequence in 1...32 {
                    honest.begin("receive 5000")
                    try sender.must("loan 1 6 \(sequence) 1000000 5000")
                    #expect(
                        try honest.mustAnswer().hasPrefix("message 1000000 6 \(sequence) "))
                }
                keeper.kill()
            }
        }

        /// Those who write what nobody may are cut off in the first round: from then on it is as if they did nothing.
        /// The other ratios are for people to read, and say something on a quiet machine only: 0.9 at least.
        @Test(arguments: ["bells", "rewrite", "grant", "boards", "segments", "claims"])
        func aPairGoesOnBesideAnAttackOnOneOfThem(attack: String) throws {
            try withCrew { crew in
                _ = try crew.join()
                let victim = try crew.join(as: 61002, "slots=256")
                try victim.must("node victim anyone")
                let honest = try crew.join(as: 61003)
                let attacker = try crew.join(as: 61001)
                for peer in [honest, attacker] {
                    victim.begin("collect 1 30000")
                    peer.begin("look victim 20000")
                    try peer.mustAnswer("look")
                    if peer === attacker { try honest.must("send 0 1 end 16 5000") }
                    if peer === honest { try peer.must("send 0 1 end 16 5000") }
                    _ = try victim.log()
                }
                try honest.must("processor 0")
                try attacker.must("processor 0")
                try victim.must("processor 1")
                var ratios: [Double] = []
                var breach = ""
                let isCut = ["grant", "segments", "claims"].contains(attack)
                while ratios.count < 3 || isCut && ratios.count < 9 && ratios.last! < 0.9 {
                    let times = try ["spin", attack].map { what in
                        attacker.begin("assault \(what) 400")
                        let (elapsed_ns, why) = try stream(from: honest, to: victim)
                        _ = try attacker.mustAnswer("assault")
                        if !why.isEmpty { breach = why }
                        return elapsed_ns
                    }
                    ratios.append(times[0] / times[1])
                }
                if isCut {
                    // A link whose packets are wrong is not read any more, which may be enough.
                    let rule = attack == "claims" ? "claims" : "rights"
                    #expect(breach == "\(rule).61001" || attack == "segments" && breach.isEmpty)
                    #expect(ratios.last! >= 0.9, "\(ratios)")
                }
                ratios.sort()
                print(
                    "throughput beside \(attack): \(ratios[1]) x beside as busy a process, \(ratios)"
                )
                attacker.kill()
            }
        }

        /// Nanoseconds for 20,000 messages, and why somebody was cut off meanwhile.
        private func stream(
            from honest: RemotePeer, to victim: RemotePeer
        ) throws -> (Double, String) {
            victim.begin("collect 1 60000")
            let begin = monotonicNow_ns()
            try honest.must("stream 7 20000 60000 0")
            let log = try victim.log()
            let elapsed_ns = Double(monotonicNow_ns() - begin)
            #expect(log["count"] == "20001" && log["forged"] == "0", "\(log)")
            return (elapsed_ns, log["breach"] ?? "")
        }
    }
}
