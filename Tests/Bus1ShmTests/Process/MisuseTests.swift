import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// Mistakes: the caller's own trap, those that can happen at run time are errors that say what is wrong.
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct MisuseTests {
        private func code(_ body: () throws -> Void) -> Bus1Error.Code? {
            do {
                try body()
                return nil
            } catch { return (error as? Bus1Error)?.code }
        }

        private func refusal(_ body: () throws -> Void) -> Bus1Error.Refusal? {
            do {
                try body()
                return nil
            } catch { return (error as? Bus1Error)?.refusal }
        }

        @Test func aSliceThatGrowsTraps() async {
            defer { removeAll(TestBus.trapDirectory(of: getpid(), 1)) }
            await #expect(processExitsWith: .failure) {
                let test = TestBus(trap: 1)
                let peer = try Peer(on: test.bus)
                var slice = try peer.loan(100)
                slice.shorten(to: 101)
            }
        }

        @Test func aNegativeSizeTraps() async {
            defer { removeAll(TestBus.trapDirectory(of: getpid(), 2)) }
            await #expect(processExitsWith: .failure) {
                let test = TestBus(trap: 2)
                let peer = try Peer(on: test.bus)
                _ = try peer.loan(-1)
            }
        }

        /// The control: the same without the mistake ends well.
        @Test func aSliceThatShrinksDoesNotTrap() async {
            await #expect(processExitsWith: .success) {
                let test = TestBus()
                let peer = try Peer(on: test.bus)
                var slice = try peer.loan(100)
                slice.shorten(to: 99)
            }
        }

        @Test func whatOutlivesItsPeerFailsAndIsDroppedInPeace() throws {
            let test = TestBus()
            let peer = try Peer(on: test.bus)
            let node = try peer.makeNode()
            let handle = try peer.makeHandle(to: node)
            let lane = try peer.lane()
            let slice = try peer.loan(1000)
            let laned = try lane.loan(1000)
            peer.close()
            let bytes: [UInt8] = [1]
            #expect(code { try lane.trySend(UInt64(1), to: handle) } == .shutDown)
            #expect(code { try lane.send(bytes.span.bytes, to: [handle.id]) } == .shutDown)
            #expect(code { _ = try lane.loan(10) } == .shutDown)
            #expect(slice.byteCount == 1000 && laned.byteCount == 1000)
            // Handle, node, lane and slices go here, after their peer.
        }

        @Test func whatBelongsToAnotherPeerIsRefusedOrCopied() throws {
            let test = TestBus()
            let a = try Peer(on: test.bus)
            let b = try Peer(on: test.bus)
            let node = try a.makeNode()
            let ofA = try a.makeHandle(to: node)
            let ofB = try held(b.adopt(try a.give(node, to: b)))
            let laneOfB = try b.lane()
            #expect(code { try b.send(UInt64(1), to: ofA) } == .noSuchHandle)
            #expect(code { try laneOfB.send(UInt64(1), to: ofA) } == .noSuchHandle)
            #expect(code { try b.send(try b.loan(10), to: ofA) } == .noSuchHandle)
            #expect(code { try laneOfB.send(try laneOfB.loan(10), to: ofA) } == .noSuchHandle)
            let bytes: [UInt8] = [1]
            #expect(code { try b.send(bytes.span.bytes, to: [ofB.id, ofA.id]) } == .noSuchHandle)
            #expect(try a.tryReceive() == nil, "nothing of it has happened")
            // A slice of another peer's, or of another lane's, is sent as a copy, also when its peer is gone.
            var foreign = try b.loan(5000)
            var room = foreign.bytes
            room.withUnsafeMutableBytes { Item(1, .loan, 1).write(to: $0) }
            b.close()
            let c = try Peer(on: test.bus)
            let ofC = try held(c.adopt(try a.give(node, to: c)))
            try c.send(foreign, to: ofC)
            let message = try a.nextMessage()
            let sequence = message.payload.withUnsafeBytes { Item($0)?.sequence }
            #expect(sequence == 1)
        }

        @Test func aHandleEndsOnce() throws {
            let test = TestBus()
            let peer = try Peer(on: test.bus)
            let node = try peer.makeNode()
            let id = try peer.makeHandle(to: node).detach()
            let one = try held(peer.adopt(id))
            let same = try held(peer.adopt(id))
            one.release()
            #expect(code { try peer.release(id) } == .noSuchHandle)
            #expect(code { try peer.send(UInt64(1), to: same) } == .noSuchHandle)
            let again = peer.adopt(id) != nil
            #expect(!again)
            // Its place in the table is used anew, its name is not.
            let next = try peer.makeHandle(to: node)
            #expect(code { try peer.send(UInt64(1), to: same) } == .noSuchHandle)
            same.release()
            try peer.send(UInt64(2), to: next)
            #expect(try peer.nextMessage().load(as: UInt64.self) == 2)
        }

        @Test func noHandleIsGuessed() throws {
            var dice = Dice()
            let test = TestBus()
            let owner = try Peer(on: test.bus)
            let node = try owner.makeNode()
            let peer = try Peer(on: test.bus)
            let real = try owner.give(node, to: peer).rawValue
            var guesses =
                (0..<64).map { real ^ 1 << UInt64($0) } + [0, 1, .max, real &+ 1, real &- 1]
            guesses += (0..<10_000).map { _ in dice.next() }
            for guess in guesses where guess != real {
                let id = HandleID(rawValue: guess)
                #expect(
                    code { try peer.trySend(UInt64(1), to: id) } == .noSuchHandle,
                    "seed \(dice.seed)")
                let isHeld = peer.adopt(id) != nil
                #expect(!isHeld)
            }
            #expect(try owner.tryReceive() == nil)
            try peer.trySend(UInt64(5), to: HandleID(rawValue: real))
            #expect(try owner.nextMessage().load(as: UInt64.self) == 5)
        }

        @Test func aListOfDestinationsHasLimits() throws {
            let test = TestBus()
            let peer = try Peer(on: test.bus)
            let node = try peer.makeNode()
            let ids = try (0..<257).map { _ in try peer.makeHandle(to: node).detach() }
            let bytes: [UInt8] = [1]
            #expect(code { try peer.send(bytes.span.bytes, to: ids) } == .tooLarge)
            #expect(
                code { try peer.send(bytes.span.bytes, to: [ids[0], ids[1], ids[0]]) }
                    == .duplicateDestination)
            #expect(try peer.tryReceive() == nil)
            let none: [HandleID] = []
            try peer.send(bytes.span.bytes, to: none)
            #expect(try peer.tryReceive() == nil)
            let stamp = try peer.send(bytes.span.bytes, to: Array(ids.prefix(256)))
            for _ in 0..<256 { #expect(try peer.nextMessage().stamp == stamp) }
        }

        @Test func aNameHasOneTo255Bytes() throws {
            let test = TestBus()
            let peer = try Peer(on: test.bus)
            let node = try peer.makeNode()
            let longest = String(repeating: "n", count: 255)
            #expect(code { try peer.publish(node, as: "") } == .mismatch)
            #expect(code { try peer.publish(node, as: longest + "n") } == .tooLarge)
            #expect(code { _ = try peer.lookUp(longest + "n", until: .now) } == .tooLarge)
            try peer.publish(node, as: longest)
            #expect(code { try peer.publish(node, as: longest) } == .nameTaken)
            _ = try peer.lookUp(longest, until: .after(.seconds(5)))
        }

        @Test func eachLimitSaysWhatIsUsedUp() throws {
            let test = TestBus()
            var options = Peer.Options()
            options.lanes = 2
            options.handlesMax = 3
            options.poolBytes = 1 << 20
            let peer = try Peer(on: test.bus, options)
            let account = peer.account
            let lane = try peer.lane()
            #expect(
                refusal { _ = try peer.lane() }
                    == .init(resource: .lanes, used: 2, limit: 2, account: account))
            let node = try peer.makeNode()
            let other = try Peer(on: test.bus)
            let otherNode = try other.makeNode()
            try other.publish(otherNode, as: "other")
            let ids = try (0..<3).map { _ in try peer.makeHandle(to: node).detach() }
            let tooMany = Bus1Error.Refusal(resource: .handles, used: 3, limit: 3, account: account)
            #expect(refusal { _ = try peer.makeHandle(to: node) } == tooMany)
            #expect(refusal { _ = try other.give(otherNode, to: peer) } == tooMany)
            #expect(refusal { _ = try peer.lookUp("other", until: .after(.seconds(5))) } == tooMany)
            try peer.release(ids[0])
            _ = try peer.makeHandle(to: node)
            var slices: [SliceBox] = []
            let full = refusal { while true { slices.append(SliceBox(try peer.loan(100_000))) } }
            #expect(full?.resource == .bytes && full?.limit == 1 << 20 && full?.account == account)
            #expect(
                full.map { $0.used > 900_000 - 100_000 && $0.used <= $0.limit } == true, "\(full!)")
            #expect(!slices.isEmpty)
            slices = []
            _ = try peer.loan(100_000)
            // No waiting would help.
            #expect(code { _ = try peer.loan(2 << 20) } == .tooLarge)
            _ = try lane.loan(100)
        }

        @Test func optionsOutOfRangeAreRefusedWithAReason() throws {
            let test = TestBus()
            for change: (inout Peer.Options) -> Void in [
                { $0.lanes = 65 }, { $0.slots = 1000 }, { $0.slots = 8 }, { $0.slotBytes = 100 },
                { $0.slotBytes = 4096 }, { $0.slots = -1 },
            ] {
                var options = Peer.Options()
                change(&options)
                #expect(code { _ = try Peer(on: test.bus, options) } == .mismatch)
            }
        }

        @Test func aPayloadThatDoesNotFitItsTypeIsAnError() throws {
            let test = TestBus()
            let peer = try Peer(on: test.bus)
            let node = try peer.makeNode()
            let handle = try peer.makeHandle(to: node)
            try peer.send(UInt64(1), to: handle)
            let message = try peer.nextMessage()
            #expect(code { _ = try message.load(as: UInt32.self) } == .mismatch)
            do throws(Bus1Error) {
                _ = try peer.forward(message)
                Issue.record("a short payload lies in no slice")
            } catch {
                #expect(error.code == .mismatch)
            }
        }

        /// The bus's memory is not mapped in a forked child: every call there says so, and none crashes.
        @Test func aForkedChildIsToldSoByEveryCall() throws {
            try withCrew { crew in
                let member = try crew.join()
                try member.must("node me")
                try member.must("look me 5000")
                let words = try member.must("fork").split(separator: " ")
                #expect(words.first == "0", "\(words)")
                #expect(words.last == "dropped=done", "\(words)")
                for word in words.dropFirst().dropLast() {
                    #expect(word.hasSuffix("=forked"), "\(word)")
                }
                #expect(words.count > 18)
                // The parent goes on.
                try member.must("send 0 1 1 16 5000")
                try member.must("receive 5000")
            }
        }
    }
}

/// Arrays take no noncopyable elements.
private final class SliceBox {
    let slice: Slice
    init(_ slice: consuming Slice) { self.slice = slice }
}
