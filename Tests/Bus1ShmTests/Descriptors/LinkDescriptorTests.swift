import CBus1System
import CShmRing
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// Descriptors on their way over a link's socket, without the messages that name them.
@Suite(.timeLimit(.minutes(1)))
struct LinkDescriptorTests {
    @Test func whatWasSentIsTakenOnceCloseOnExecAndInOrder() throws {
        let pair = try DescriptorPair()
        let witnesses = (0..<3).map { _ in Witness() }
        let attempt = try pair.send(witnesses.map(\.writing))
        for one in witnesses { one.letGo() }
        let received = pair.expect(attempt, 3)
        for (index, witness) in witnesses.enumerated() {
            let taken = try #require(try received.take(index))
            #expect(witness.isThis(taken))
            #expect(fcntl(taken, F_GETFD) & FD_CLOEXEC != 0)
            #expect(try received.take(index) == nil)
            #expect(!witness.isAlone)
            close(taken)
            #expect(witness.isLeftAlone)
        }
    }

    @Test func aClosedDescriptorIsRefusedAndNothingIsSent() throws {
        let pair = try DescriptorPair()
        let witness = Witness()
        let error = failure { _ = try pair.send([witness.writing, -1]) }
        #expect(error?.code == .system && error?.errno == EBADF)
        witness.letGo()
        #expect(witness.isLeftAlone)
        #expect(
            failure { _ = try pair.send([Int32](repeating: 0, count: 254)) }?.code == .tooLarge)
        let most = Witness()
        let attempt = try pair.send([Int32](repeating: most.writing, count: 253))
        most.letGo()
        do {
            let received = pair.expect(attempt, 253)
            close(try #require(try received.take(252)))
            #expect(!most.isAlone)
        }
        #expect(most.isLeftAlone)
    }

    @Test func whatNobodyAsksForIsClosedWithItsMessage() throws {
        let pair = try DescriptorPair()
        let witness = Witness()
        let attempt = try pair.send([witness.writing])
        witness.letGo()
        do {
            let received = pair.expect(attempt)
            #expect(received.count == 1)
            #expect(!witness.isAlone)
        }
        #expect(witness.isLeftAlone)
    }

    @Test func skippedAttemptsAreClosedWithTheNextMessage() throws {
        let pair = try DescriptorPair()
        let skipped = (0..<5).map { _ in Witness() }
        for one in skipped {
            _ = try pair.send([one.writing])
            one.letGo()
        }
        let sent = Witness()
        let attempt = try pair.send([sent.writing])
        #expect(skipped.allSatisfy { !$0.isAlone })
        let received = pair.expect(attempt)
        let taken = try #require(try received.take(0))
        #expect(sent.isThis(taken))
        close(taken)
        #expect(skipped.allSatisfy { $0.isLeftAlone })
        // A second message that names it gets nothing, nor does one that names a skipped one.
        #expect(failure { _ = try pair.expect(attempt).take(0) }?.code == .severed)
        #expect(failure { _ = try pair.expect(attempt - 1).take(0) }?.code == .severed)
    }

    @Test func anAbandonedAttemptIsClosedWhenTheReceiverLooks() throws {
        let pair = try DescriptorPair()
        let (abandoned, kept) = (Witness(), Witness())
        let first = try pair.send([kept.writing])
        let second = try pair.send([abandoned.writing])
        abandoned.letGo()
        kept.letGo()
        let received = pair.expect(first)
        pair.sender.core.abandonDescriptors(attempt: second, link: pair.out)
        #expect(try pair.receiver.tryReceive() == nil)
        // The packet behind the one that may still be wanted.
        #expect(!abandoned.isAlone && !kept.isAlone)
        close(try #require(try received.take(0)))
        #expect(abandoned.isLeftAlone && kept.isLeftAlone)
    }

    @Test func anAttemptAbandonedWhileTheRingIsFullIsClosedLater() throws {
        let pair = try DescriptorPair(slots: 16)
        let witness = Witness()
        while try pair.sender.trySend(UInt64(1), to: pair.handle) != nil {}
        let attempt = try pair.send([witness.writing])
        witness.letGo()
        pair.sender.core.abandonDescriptors(attempt: attempt, link: pair.out)
        while try pair.receiver.tryReceive() != nil {}
        #expect(!witness.isAlone)
        // The next packet tells what could not be told then.
        pair.sender.core.tellAbandoned(pair.out, lane: 0)
        #expect(try pair.receiver.tryReceive() == nil)
        #expect(witness.isLeftAlone)
    }

    @Test func attemptsOfEachLaneAreCountedApart() throws {
        let pair = try DescriptorPair()
        let witnesses = (0..<4).map { _ in Witness() }
        let attempts = try (0..<4).map {
            try pair.send([witnesses[$0].writing], lane: UInt32($0 % 2))
        }
        for one in witnesses { one.letGo() }
        // Lane 1's messages are taken first, and the one after; lane 0's first is skipped.
        let received = [3, 2].map { pair.expect(attempts[$0]) }
        for (index, one) in [3, 2].enumerated() {
            let taken = try #require(try received[index].take(0))
            #expect(witnesses[one].isThis(taken))
            close(taken)
        }
        #expect(witnesses[0].isLeftAlone, "skipped: the next of its lane was sent")
        #expect(witnesses.allSatisfy { $0.isLeftAlone })
    }

    @Test func whoDoesNotReceiveIsRefusedAndNotWaitedFor() throws {
        let pair = try DescriptorPair()
        let witness = Witness()
        let many = [Int32](repeating: witness.writing, count: 100)
        var attempts: [UInt64] = []
        let limit = max(253, Int(bus1_sys_descriptor_limit() / 8))
        var refusal: Bus1Error.Refusal?
        while refusal == nil, attempts.count < 2000 {
            do throws(Bus1Error) {
                attempts.append(try pair.send(many))
            } catch {
                #expect(error.code == .overQuota)
                refusal = error.refusal
            }
        }
        #expect(refusal?.resource == .descriptors)
        if limit < 100 * 270 {
            #expect(attempts.count == limit / 100 && refusal?.limit == limit)
            #expect(refusal?.used == attempts.count * 100)
        }
        // With a deadline: refused when it has passed, and accepted when there is room before.
        #expect(
            failure { _ = try pair.send(many, until: .after(.milliseconds(5))) }?.code
                == .overQuota)
        for attempt in attempts { _ = pair.expect(attempt, 100) }
        witness.letGo()
        #expect(witness.isLeftAlone)
        let next = Witness()
        let attempt = try pair.send([next.writing])
        close(try #require(try pair.expect(attempt).take(0)))
    }

    @Test func abandonedAttemptsDoNotFillTheSocketForGood() throws {
        let pair = try DescriptorPair(slots: 16)
        let witness = Witness()
        let many = [Int32](repeating: witness.writing, count: 200)
        for _ in 0..<1000 {
            do throws(Bus1Error) {
                let attempt = try pair.send(many)
                pair.sender.core.abandonDescriptors(attempt: attempt, link: pair.out)
            } catch {
                #expect(error.code == .overQuota)
                _ = try pair.receiver.tryReceive()
            }
        }
        _ = try pair.receiver.tryReceive()
        let attempt = try pair.send([witness.writing])
        witness.letGo()
        close(try #require(try pair.expect(attempt).take(0)))
        #expect(witness.isLeftAlone)
    }

    @Test func aDeadSendersDescriptorsAreTakenOrClosed() throws {
        let pair = try DescriptorPair()
        let (named, unnamed) = (Witness(), Witness())
        let attempt = try pair.send([named.writing])
        _ = try pair.send([unnamed.writing])
        named.letGo()
        unnamed.letGo()
        let received = pair.expect(attempt)
        try pair.sender.disconnect()
        // Its end of the socket goes with its process, or here with its mappings.
        let into = pair.into
        pair.receiver.core.endDescriptors(of: into)
        #expect(!unnamed.isAlone, "it stands behind what may still be asked for")
        let taken = try #require(try received.take(0))
        #expect(named.isThis(taken))
        close(taken)
        #expect(named.isLeftAlone && unnamed.isLeftAlone)
    }

    @Test func segmentsPassDescriptorsThatNobodyHasAskedForYet() throws {
        let pair = try DescriptorPair()
        let witness = Witness()
        let attempt = try pair.send([witness.writing])
        witness.letGo()
        var slice = try pair.sender.loan(100_000)
        var bytes = slice.bytes
        bytes.withUnsafeMutableBytes { $0[77] = 7 }
        try pair.sender.send(slice, to: pair.handle)
        guard case .message(let message) = try pair.receiver.tryReceive() else {
            Issue.record("the slice did not come")
            return
        }
        #expect(message.byteCount == 100_000)
        #expect(message.payload.withUnsafeBytes { $0[77] } == 7)
        #expect(!witness.isAlone)
        close(try #require(try pair.expect(attempt).take(0)))
        #expect(witness.isLeftAlone)
    }

    @Test func aFullTableLeavesTheDescriptorsWhereTheyAre() async {
        await #expect(processExitsWith: .success) {
            let pair = try DescriptorPair()
            let witness = Witness()
            let attempt = try pair.send([Int32](repeating: witness.writing, count: 20))
            witness.letGo()
            let received = pair.expect(attempt, 20)
            var before = rlimit()
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &before)
            fillDescriptors()
            let open = entries(of: "/proc/self/fd")
            // Room for some of them, but not for all.
            allowDescriptors(open.compactMap { Int($0) }.max()! + 5)
            for _ in 0..<3 {
                let error = failure { _ = try received.take(0) }
                #expect(error?.code == .system && error?.errno == EMFILE)
            }
            allowDescriptors(Int(before.rlim_cur))
            #expect(entries(of: "/proc/self/fd").count == open.count)
            for index in 0..<20 { close(try #require(try received.take(index))) }
            #expect(witness.isLeftAlone)
            #expect(entries(of: "/proc/self/fd").count == open.count)
        }
    }

    @Test func aFullTableDoesNotKeepWhatIsDroppedFromBeingClosed() async {
        await #expect(processExitsWith: .success) {
            let pair = try DescriptorPair()
            let (dropped, skipped) = (Witness(), Witness())
            let first = try pair.send([skipped.writing, skipped.writing])
            let second = try pair.send([dropped.writing])
            dropped.letGo()
            skipped.letGo()
            #expect(first < second)
            var received: ReceivedDescriptors? = pair.expect(second)
            allowDescriptors(200)
            while dup(0) >= 0 {}
            #expect(failure { _ = try received?.take(0) }?.errno == EMFILE)
            #expect(!dropped.isAlone)
            received = nil
            #expect(dropped.isLeftAlone && skipped.isLeftAlone)
        }
    }

    @Test func strangePacketsFailOnlyTheirSender() throws {
        var dice = Dice()
        let seed = dice.seed
        let pair = try DescriptorPair()
        let end = try pair.sender.core.linkSocket(of: pair.out).descriptor.rawValue
        let witness = Witness()
        for _ in 0..<200 {
            var bytes = (0..<Int(dice.next() % 40 + 1)).map { _ in
                UInt8(truncatingIfNeeded: dice.next() % 5)
            }
            if dice.next() % 2 == 0 { bytes = [3, 0, 0, 0] + bytes }
            let descriptors = [Int32](repeating: witness.writing, count: Int(dice.next() % 4))
            _ = bus1_sys_link_send(
                end, bytes, bytes.count, descriptors, Int32(descriptors.count))
        }
        let attempt = try pair.send([witness.writing], until: .now)
        witness.letGo()
        // Whatever stood before it, this one is found and the rest does no harm.
        let taken = try #require(try pair.expect(attempt).take(0), "seed \(seed)")
        close(taken)
        // A packet that says another count than it has, and one of no bytes at all.
        var wrong = LinkPacket(attempt: Attempt(lane: 1, count: 1), count: 2)
        let other = Witness()
        _ = bus1_sys_link_send(end, &wrong, 16, [other.writing], 1)
        #expect(
            failure {
                _ = try pair.expect(Attempt(lane: 1, count: 1).rawValue, 2).take(0)
            }?.code == .severed)
        let after = try pair.send([other.writing])
        other.letGo()
        close(try #require(try pair.expect(after).take(0)))
        #expect(send(end, "", 0, 0) == 0)
        let last = Witness()
        let never = try pair.send([last.writing])
        last.letGo()
        #expect(failure { _ = try pair.expect(never).take(0) }?.code == .severed)
        #expect(last.isLeftAlone && other.isLeftAlone)
        try pair.sender.send(UInt64(5), to: pair.handle)
        guard case .message(let message) = try pair.receiver.tryReceive() else {
            Issue.record("the ring is as it was")
            return
        }
        #expect(try message.load(as: UInt64.self) == 5)
    }
}
