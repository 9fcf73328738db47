import CBus1System
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// Peers of several users on a bus that root serves. Whoever joins changes its user first, after exec.
    @Suite(
        .serialized, .timeLimit(.minutes(2)),
        .enabled(if: getuid() == 0, "only root can become other users"))
    struct UsersTests {
        private static let users: [UInt32] = [61001, 61002, 61003]

        @Test func aNameIsFoundByThoseWhomItsRuleAdmits() throws {
            try withCrew { crew in
                _ = try crew.join()
                let owner = try crew.join(as: 61001)
                try owner.must("node own")
                try owner.must("node listed 61002")
                try owner.must("node all anyone")
                let admitted: [UInt32: Set] = [
                    61001: ["own", "listed", "all"], 61002: ["listed", "all"], 61003: ["all"],
                    // Root serves the bus, and is no more than any user on it.
                    0: ["all"],
                ]
                for (user, names) in admitted {
                    let asker = try crew.join(as: user)
                    for (tag, name) in ["own", "listed", "all"].enumerated() {
                        asker.begin("look \(name) 20000")
                        guard names.contains(name) else {
                            #expect(
                                asker.answer()?.hasPrefix("error denied") == true,
                                "\(user) asks for \(name)")
                            continue
                        }
                        // The owner hears of a new trust domain when it receives.
                        owner.begin("receive 20000")
                        let handle = try asker.mustAnswer("look")
                        try asker.must("send \(handle) 1 1 16 5000")
                        #expect(
                            try owner.mustAnswer() == "message 16 1 1 \(tag) \(user) \(asker.pid)")
                    }
                }
            }
        }

        /// Each receiver has a ring for each of three trust domains.
        @Test func threeUsersMulticastsStandInOneOrderAtTwoUsersReceivers() throws {
            try withCrew { crew in
                _ = try crew.join()
                let receivers = [
                    try crew.join(as: 61001, "slots=64"), try crew.join(as: 61002, "slots=64"),
                ]
                for (i, receiver) in receivers.enumerated() {
                    try receiver.must("node r\(i) anyone")
                    receiver.begin("collect 3 60000")
                }
                let senders = try Self.users.map { try crew.join(as: $0) }
                for sender in senders { for i in 0..<2 { try sender.must("look r\(i) 20000") } }
                for (tag, sender) in senders.enumerated() {
                    _ = try crew.progress("p\(tag)")
                    sender.begin("forever 1,0,3 \(tag) \(crew.directory)/p\(tag) 1000")
                }
                for sender in senders { try sender.mustAnswer("forever") }
                let logs = try receivers.map { try $0.log() }
                #expect(logs[0]["order"] == logs[1]["order"], "\(logs)")
                for log in logs {
                    #expect(log.isClean, "\(log)")
                    #expect(log["multicasts"] == "\(3 * 2 * 1000)")
                }
                for receiver in receivers { #expect(Int(try receiver.must("rings"))! >= 3) }
            }
        }

        @Test func theDeathOfOneUsersPeerIsToldAndStopsNobody() throws {
            try withCrew { crew in
                _ = try crew.join()
                let receiver = try crew.join(as: 61001)
                try receiver.must("node r anyone")
                receiver.begin("collect 2 60000")
                let other = try crew.join(as: 61002)
                try other.must("look r 20000")
                let doomed = try crew.join(as: 61003)
                try doomed.must("look r 20000")
                try doomed.must("node d anyone")
                doomed.begin("collect 1 60000")
                try other.must("look d 20000")
                try other.must("send 1 1 end 16 5000")
                _ = try doomed.log()
                let progress = try crew.progress("p")
                doomed.begin("forever 0,2 3 \(crew.directory)/p")
                #expect(eventually { progress[.loan] > 50 })
                doomed.kill()
                try other.must("awaitdeath 1 20000")
                #expect(other.ask("send 1 1 2 16 1000")?.hasPrefix("error noSuchHandle") == true)
                try other.must("stream 2 1000 20000 0")
                try other.must("send 0 4 end 16 5000")
                let log = try receiver.log()
                #expect(log.isClean, "\(log)")
                #expect(log.last(2, .unicast) == 1000)
                #expect(log.last(3, .unicast) >= progress[.unicast])
            }
        }

        /// A grant is looked for under the ring in which a message stands, and its sender's place there.
        @Test func aForgedMessageReachesNoNodeThatAnotherDomainHolds() throws {
            try withCrew { crew in
                _ = try crew.join()
                let victim = try crew.join(as: 61001)
                try victim.must("node attackers 61002")
                try victim.must("node secret 61003")
                victim.begin("collect 2 30000")
                let holder = try crew.join(as: 61003)
                try holder.must("look secret 20000")
                let attacker = try crew.join(as: 61002)
                try attacker.must("look attackers 20000")
                for peer in [holder, attacker] { try peer.must("send 0 1 end 16 5000") }
                _ = try victim.log()
                for what in ["grant", "sender"] {
                    victim.begin("collect 1 30000")
                    try attacker.must("attack \(what) 7")
                    // The attack stood in the ring before this is sent.
                    try holder.must("send 0 2 end 16 5000")
                    let log = try victim.log()
                    #expect(log["forged"] == "0" && log["count"] == "1", "\(what): \(log)")
                }
                // Each with a number that the other holds, and all around it.
                #expect(Int(try victim.must("refused"))! > 400)
                attacker.kill()
            }
        }

        @Test(
            "Q2: of three users none gets what a receiver has for all, and each gets as much as the others"
        )
        func usersShare() throws {
            try withCrew { crew in
                let receiver = try crew.join("handles=64")
                try receiver.must("node r anyone")
                // The first user has two peers: together they are one user.
                var senders: [RemotePeer] = []
                for user in [Self.users[0]] + Self.users {
                    let sender = try crew.join(as: user)
                    receiver.begin("receive 20000")
                    try sender.must("look r 20000")
                    try sender.must("send 0 1 1 16 5000")
                    _ = try receiver.mustAnswer("receive")
                    try sender.must("node own\(senders.count)")
                    try sender.must("look own\(senders.count) 20000")
                    senders.append(sender)
                }
                // A second look after the last one came: the others' shares have become smaller.
                _ = receiver.ask("receive 1")
                var sent: [Int] = []
                for sender in senders {
                    let words = try sender.must("flood 0 1").split(separator: " ")
                    #expect(words[1] == "overQuota" && words[2] == "handles", "\(words)")
                    sent.append(Int(words[0])!)
                }
                // Whoever comes first leaves the others as much as it got; a user's second peer gets half of what
                // its first one left.
                #expect(sent[0] == sent[2] && sent[0] == sent[3], "\(sent)")
                #expect(sent[0] > 0 && sent[1] <= sent[0], "\(sent)")
                // Half of a third at most for each user.
                #expect(sent[0] + sent[1] <= 64 / 6, "\(sent)")
            }
        }

        /// It stands for everybody whom a user namespace does not name.
        @Test func theOverflowUserIsNoTrustDomain() throws {
            try withCrew { crew in
                let receiver = try crew.join()
                try receiver.must("node r anyone")
                receiver.begin("collect 2 30000")
                let nobodies = try (0..<2).map { _ in try crew.join(as: bus1_sys_overflow_uid()) }
                for nobody in nobodies { try nobody.must("look r 20000") }
                for nobody in nobodies { try nobody.must("send 0 1 end 16 5000") }
                _ = try receiver.log()
                #expect(Int(try receiver.must("rings"))! >= 2, "one for each of the two")
                try nobodies[0].must("node n")
                #expect(nobodies[1].ask("look n 20000")?.hasPrefix("error denied") == true)
            }
        }
    }
}

extension Crew {
    /// A process that changed its user before it joined.
    func join(as user: UInt32, _ options: String = "") throws -> RemotePeer {
        let member = try start()
        try member.must("setuid \(user)")
        try member.must("open \(bus.path) \(options)")
        return member
    }
}
