import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// Processes are killed anywhere; the others go on, and nothing is half done.
    @Suite(.serialized, .timeLimit(.minutes(3)))
    struct DeathTests {
        /// Until the sender has got that far, then a random moment more.
        private func wait(for progress: Progress, _ kind: ItemKind, _ dice: inout Dice) throws {
            let goal = dice.next() % 300 + 50
            guard eventually({ progress[kind] >= goal }) else {
                throw PeerTestFailure("the sender stands still at \(progress[kind])")
            }
            let end = monotonicNow_ns() + dice.next() % 300_000
            while monotonicNow_ns() < end {}
        }

        @Test(arguments: ["0", "1", "2", "3", "1,0,2,3"])
        func aSenderKilledAtAnyInstantLeavesNothingHalfDone(kinds: String) throws {
            var dice = Dice()
            let seed: Comment = "seed \(dice.seed)"
            let all = kinds.split(separator: ",").map { ItemKind(rawValue: UInt32($0)!)! }
            try withCrew { crew in
                let receivers = try crew.join(3, publishing: "r", "slots=64")
                let witness = try crew.join()
                let survivor = try crew.join()
                for i in 0..<3 {
                    try witness.must("look r\(i) 5000")
                    try survivor.must("look r\(i) 5000")
                }
                for receiver in receivers { receiver.begin("collect 2 60000") }
                survivor.begin("forever \(kinds) 100 \(crew.directory)/survivor 2000")
                var progress: [Progress] = []
                for round in 0..<6 {
                    let sender = try crew.join()
                    try sender.must("node s\(round)")
                    for i in 0..<3 { try sender.must("look r\(i) 5000") }
                    try witness.must("look s\(round) 5000")
                    progress.append(try crew.progress("p\(round)"))
                    sender.begin("forever \(kinds) \(round) \(crew.directory)/p\(round)")
                    try wait(for: progress[round], all[0], &dice)
                    sender.kill()
                    try witness.must("awaitdeath \(3 + round) 20000")
                }
                try survivor.mustAnswer("the survivor")
                for i in 0..<3 { try witness.must("send \(i) 999 end 16 5000") }
                let logs = try receivers.map { try $0.log() }
                for log in logs {
                    #expect(log.isClean, "\(log) \(seed)")
                    for kind in all {
                        #expect(log.last(100, kind) == 2000, seed)
                        for round in 0..<6 {
                            let returned = progress[round][kind]
                            #expect(
                                (returned...(returned + 1)).contains(log.last(round, kind)),
                                "sends that returned: \(returned); \(log) \(seed)")
                        }
                    }
                }
                #expect(Set(logs.map { $0["order"] }).count == 1, "\(logs) \(seed)")
                #expect(Set(logs.map { $0["multicasts"] }).count == 1, "\(logs) \(seed)")
            }
        }

        @Test(arguments: ["claimed", "full", "half", "written", "committed"])
        func aDeathAtThisPointOfAMulticastStopsNobody(point: String) throws {
            try withCrew { crew in
                let receivers = try crew.join(2, publishing: "r", "slots=16")
                let survivor = try crew.join()
                for i in 0..<2 { try survivor.must("look r\(i) 5000") }
                for receiver in receivers { receiver.begin("collect 1 60000") }
                let deaths = 3
                for tag in 0..<deaths {
                    let doomed = try crew.join()
                    for i in 0..<2 { try doomed.must("look r\(i) 5000") }
                    doomed.begin("die \(point) \(tag)")
                    #expect(doomed.answer() == nil)
                    doomed.kill()
                    // Many laps of a ring that must not stay full.
                    try survivor.must(
                        "forever 1,0 \(10 + tag) \(crew.directory)/p\(tag) \(tag < deaths - 1 ? 99 : 100)"
                            + (tag < deaths - 1 ? " open" : ""))
                }
                let logs = try receivers.map { try $0.log() }
                #expect(logs[0]["order"] == logs[1]["order"], "\(logs)")
                for log in logs {
                    #expect(log.isClean, "\(log)")
                    for tag in 0..<deaths {
                        #expect(
                            log.last(tag, .multicast) == (point == "committed" ? 1 : 0), "\(log)")
                        #expect(
                            log.last(10 + tag, .unicast) == (tag < deaths - 1 ? 99 : 100), "\(log)")
                    }
                }
            }
        }

        @Test(arguments: ["0", "1", "2"])
        func whoSendsToAKilledReceiverIsTold(kind: String) throws {
            var dice = Dice()
            let what = ItemKind(rawValue: UInt32(kind)!)!
            try withCrew { crew in
                for round in 0..<3 {
                    let others = try crew.join(2, publishing: "o\(round)", "slots=64")
                    let doomed = try crew.join("slots=64")
                    try doomed.must("node doomed\(round)")
                    let sender = try crew.join()
                    let witness = try crew.join()
                    for i in 0..<2 {
                        try sender.must("look o\(round)\(i) 5000")
                        try witness.must("look o\(round)\(i) 5000")
                    }
                    try sender.must("look doomed\(round) 5000")
                    for other in others { other.begin("collect 1 60000") }
                    // In the second round it never receives: the sender waits for room.
                    if round != 1 { doomed.begin("collect 1 60000") }
                    let progress = try crew.progress("q\(round)")
                    sender.begin("forever \(kind) 1 \(crew.directory)/q\(round)")
                    if round == 1 {
                        _ = eventually(within: .seconds(2)) { progress[what] >= 20 }
                    } else {
                        try wait(for: progress, what, &dice)
                    }
                    doomed.kill()
                    let answer = sender.answer(within: .seconds(20))
                    // A segment's descriptor may meet the closed socket before the death is told.
                    let isTold = ["error nodeReleased", "error severed write to a link"].contains {
                        answer?.hasPrefix($0) == true
                    }
                    #expect(isTold, "\(answer ?? "hangs")")
                    #expect(try sender.must("receive 5000") == "released 2 true")
                    for i in 0..<2 { try witness.must("send \(i) 999 end 16 5000") }
                    let logs = try others.map { try $0.log() }
                    #expect(logs[0].isClean && logs[1].isClean, "\(logs) seed \(dice.seed)")
                    #expect(logs[0]["order"] == logs[1]["order"], "\(logs) seed \(dice.seed)")
                    // The sender goes on with the others.
                    try sender.must("send 0 5 1 16 5000")
                    #expect(try others[0].must("receive 5000").hasPrefix("message 16 5 1"))
                }
            }
        }

        @Test func aFullRingOfALivingReceiverIsNoReasonToHang() throws {
            try withCrew { crew in
                let receiver = try crew.join("slots=16")
                try receiver.must("node r")
                let sender = try crew.join()
                try sender.must("look r 5000")
                #expect(sender.ask("stream 1 100 50 0")?.hasPrefix("error timedOut") == true)
                try receiver.must("receive 5000")
            }
        }

        @Test func slicesLentToAKilledReceiverComeBack() throws {
            try withCrew { crew in
                let sender = try crew.join("pool=1048576 slots=64")
                var counts: Set<String> = []
                for round in 0..<3 {
                    let receiver = try crew.join("slots=64")
                    try receiver.must("node r\(round)")
                    try sender.must("look r\(round) 5000")
                    let answer = try sender.must("lendall \(round) 100000")
                    #expect(answer.contains(" overQuota bytes "), "\(answer)")
                    counts.insert(String(answer.prefix { $0 != " " }))
                    try receiver.must("hold 5000")
                    receiver.kill()
                    #expect(try sender.must("receive 20000") == "released \(round) true")
                }
                #expect(counts.count == 1 && counts.first != "0", "as many each time: \(counts)")
            }
        }

        @Test func aPayloadStaysReadableAfterItsSenderWasKilled() throws {
            try withCrew { crew in
                let receiver = try crew.join()
                try receiver.must("node r")
                for (tag, verb) in ["loan", "long"].enumerated() {
                    let sender = try crew.join()
                    try sender.must("node s\(tag)")
                    try sender.must("look r 5000")
                    try receiver.must("look s\(tag) 5000")
                    try sender.must("\(verb) 0 \(tag) 5 300000 5000")
                    try sender.must("\(verb) 0 \(tag) 6 300000 5000")
                    if tag == 0 { try receiver.must("hold 5000") }
                    sender.kill()
                    // What it had sent comes before the news of its death.
                    if tag == 1 { try receiver.must("hold 5000") }
                    try receiver.must("hold 5000")
                    #expect(try receiver.must("receive 20000") == "released \(tag) true")
                }
                #expect(try receiver.must("held") == "0:5 0:6 1:5 1:6")
            }
        }

        /// What works today without a broker. Deaths are not told then, and what they left pending
        /// stays so: that will be the heir's business.
        @Test func whatTheBrokerSaidLastAndItsEndStopNoReceiver() throws {
            try withCrew { crew in
                let broker = try crew.join()
                let receiver = try crew.join(1, publishing: "r")[0]
                let senders = try (0..<2).map { _ in try crew.join() }
                for (tag, sender) in senders.enumerated() {
                    try sender.must("look r0 5000")
                    try sender.must("send 0 \(tag) 1 16 1000")
                    #expect(try receiver.must("receive 5000").hasPrefix("message 16 \(tag) 1"))
                }
                // The receiver is told of a death, and reads of it only when the broker is gone, too.
                senders[1].kill()
                #expect(senders[0].ask("look nobody 100")?.hasPrefix("error timedOut") == true)
                broker.kill()
                crew.wasBrokerKilled = true
                try senders[0].must("send 0 0 2 16 1000")
                #expect(try receiver.must("receive 5000").hasPrefix("message 16 0 2"))
                #expect(receiver.ask("receive 50")?.hasPrefix("error timedOut") == true)
                try senders[0].must("send 0 0 3 16 1000")
                #expect(try receiver.must("receive 5000").hasPrefix("message 16 0 3"))
            }
        }

        @Test func thoseWhoKnowEachOtherGoOnWithoutTheBroker() throws {
            try withCrew { crew in
                crew.environment = ["BUS1_HEIR=0"]
                let broker = try crew.join()
                let receivers = try crew.join(2, publishing: "r")
                let sender = try crew.join()
                for i in 0..<2 {
                    try sender.must("look r\(i) 5000")
                    try sender.must("loan \(i) 1 0 5000 5000")
                    #expect(try receivers[i].must("receive 5000").hasPrefix("message 5000 1 0"))
                }
                for receiver in receivers { receiver.begin("collect 1 60000") }
                let progress = try crew.progress("p")
                sender.begin("forever 0,1,2,3 1 \(crew.directory)/p 3000")
                #expect(eventually { progress[.unicast] > 100 })
                broker.kill()
                crew.wasBrokerKilled = true
                try sender.mustAnswer("forever")
                let logs = try receivers.map { try $0.log() }
                #expect(logs[0].isClean && logs[1].isClean, "\(logs)")
                #expect(logs[0]["order"] == logs[1]["order"])
                #expect(logs[0].last(1, .longMulticast) == 3000)
                #expect(sender.ask("look other 1000")?.hasPrefix("error severed") == true)
                // Asleep, and woken by a message.
                receivers[0].begin("receive 20000")
                try sender.must("send 0 1 7 16 5000")
                #expect(try receivers[0].mustAnswer().hasPrefix("message 16 1 7"))
                // A node that is gone is no reason for its owner to fail.
                try receivers[0].must("dropnode 0")
                #expect(
                    sender.ask("send 0 1 8 16 5000")?.hasPrefix("error nodeReleased") == true)
                #expect(receivers[0].ask("receive 50")?.hasPrefix("error timedOut") == true)
                #expect(try receivers[0].must("refused") == "0")
                // Who comes later makes a new bus.
                let late = try crew.join()
                try late.must("node r0")
                let other = try crew.join()
                try other.must("look r0 5000")
            }
        }
    }
}
