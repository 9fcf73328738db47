import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct RightsProcessTests {
        @Test("N8, N9: of a killed process all messages come, then its death as one transaction")
        func killed() throws {
            var dice = Dice()
            try withCrew { crew in
                let broker = try crew.join()
                defer { withExtendedLifetime(broker) {} }
                let peer = try Peer(on: crew.bus)
                let node = try peer.makeNode()
                try peer.publish(node, as: "r")
                for round in 0..<5 {
                    let sender = try crew.join()
                    try sender.must("node s\(round)")
                    try sender.must("look r 5000")
                    let back = [
                        try peer.lookUp("s\(round)", until: .after(.seconds(5))).detach(),
                        try peer.lookUp("s\(round)", until: .after(.seconds(5))).detach(),
                    ]
                    _ = try crew.progress("p\(round)")
                    sender.begin("forever 0 \(round) \(crew.directory)/p\(round)")
                    var count: UInt64 = 0
                    let goal = dice.next() % 500 + 1
                    var notices: [Notice] = []
                    var latest = Stamp(rawValue: 0)
                    while notices.count < 3 {
                        if count == goal, !sender.isReaped { sender.kill() }
                        switch try peer.receive(until: .after(.seconds(20))) {
                        case .message(let message):
                            #expect(notices.isEmpty, "a message behind its sender's death")
                            #expect(message.stamp >= latest)
                            latest = message.stamp
                            count += 1
                            #expect(try message.load(as: Item.self).sequence == count)
                        case .notice(let notice): notices.append(notice)
                        }
                    }
                    #expect(
                        Set(notices.map(\.kind)) == [
                            .nodeReleased(back[0]), .nodeReleased(back[1]), .noHandles(node.id),
                        ], "seed \(dice.seed)")
                    #expect(notices.map(\.moreFollow) == [true, true, false])
                    #expect(Set(notices.map(\.stamp)).count == 1)
                    #expect(notices[0].stamp > latest)
                    #expect(try peer.tryReceive() == nil)
                }
                peer.close()
            }
        }
    }
}
