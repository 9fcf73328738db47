#if DEBUG
    @testable import Bus1Shm
    import CShmRing
    import Testing

    private func isHeld(_ handle: consuming Handle?) -> Bool { handle != nil }

    @Suite(.timeLimit(.minutes(1)))
    struct MixedTests {
        @Test("S8: a handle whose node was released before the message arrives as invalid")
        func invalid() throws {
            let company = Company()
            let nothing: [UInt8] = []
            _ = nothing.count
            let b = try company.stranger()
            let bNode = try b.publishNode("b")
            let owner = try company.stranger()
            let node = try owner.publishNode("owner")
            let a = try company.stranger()
            let toB = try a.look("b")
            let toOwner = try a.look("owner")
            // As if this peer had read the release word just before the release.
            let alive = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
            alive.initialize(to: 0)
            defer { alive.deallocate() }
            a.core.handles.entry(toOwner.id)!.pointee.released = UnsafePointer(alive)
            node.release()
            try a.send(nothing.span.bytes, to: toB, passing: [toOwner.id])
            var message = try b.nextMessage()
            let node2 = message.node
            #expect(node2 == bNode.id)
            let isInvalid = message.isInvalid()
            #expect(isInvalid)
            let isThere = isHeld(message.takeHandle())
            #expect(!isThere)
            try b.expectNothing()
        }

        @Test("R1: messages, and releases of handles and nodes, happen at one instant")
        func mixed() throws {
            let company = Company()
            let nothing: [UInt8] = []
            _ = nothing.count
            let b = try company.stranger()
            let bNode = try b.publishNode("b")
            let c = try company.stranger()
            let cNode = try c.publishNode("c")
            let a = try company.stranger()
            let toB = try a.look("b")
            let toC = try a.look("c")
            let own = try a.makeNode()
            let atB = try a.give(own, to: b)
            // C is told only when the last handle is gone, not of this one.
            let again = try a.look("c")
            again.release()
            try c.expectNothing()
            var transaction = a.transaction()
            try transaction.send(UInt64(7), to: toB.id)
            transaction.release(toC)
            transaction.release(own)
            let stamp = try transaction.commit()
            let message = try b.nextMessage()
            let (node, at, more) = (message.node, message.stamp, message.moreFollow)
            #expect(node == bNode.id)
            #expect(at == stamp)
            #expect(more)
            let released = try b.nextNotice()
            #expect(released.kind == .nodeReleased(atB))
            #expect(released.stamp == stamp)
            #expect(!released.moreFollow)
            let gone = try c.nextNotice()
            #expect(gone.kind == .noHandles(cNode.id))
            #expect(gone.stamp == stamp)
        }

        @Test(
            "S11: a transaction that fails changes nothing, and its releases happen when it is dropped"
        )
        func failed() throws {
            let company = Company()
            let nothing: [UInt8] = []
            _ = nothing.count
            let b = try company.stranger()
            let bNode = try b.publishNode("b")
            let a = try company.stranger()
            let toB = try a.look("b")
            let other = try a.look("b")
            let wrong = try a.look("b")
            let wrongID = wrong.id
            wrong.release()
            var transaction = a.transaction()
            try transaction.send(UInt64(7), to: toB.id)
            try transaction.send(UInt64(8), to: wrongID)
            transaction.release(other)
            do {
                try transaction.commit()
                Issue.record("committed")
            } catch { #expect(error.code == .noSuchHandle) }
            try b.expectNothing()
            toB.release()
            #expect(try b.nextNotice().kind == .noHandles(bNode.id))
        }

        @Test("R1, R4: handles given up when ring and drop words are full are told later")
        func beyondAllRoom() throws {
            let company = Company()
            let owner = try company.stranger()
            let node = try owner.makeNode()
            let holder = try company.stranger()
            var ids: [HandleID] = []
            for _ in 0..<(Int(SHMRING_DROP_WORDS) + 50) {
                ids.append(try owner.give(node, to: holder))
            }
            let full = try held(holder.adopt(try owner.give(node, to: holder)))
            while try holder.trySend(UInt64(0), to: full) != nil {}
            for id in ids { try holder.release(id) }
            full.release()
            // Each in turn: what did not fit is told once the owner has made room.
            var isTold = false
            let deadline = Deadline.after(.seconds(20))
            while !isTold, !deadline.hasPassed {
                while let delivery = try owner.tryReceive() {
                    guard case .notice(let notice) = consume delivery else { continue }
                    #expect(notice.kind == .noHandles(node.id))
                    isTold = true
                }
                // Whoever waits to receive tells what is left.
                do {
                    guard case .notice = try holder.receive(until: .after(.milliseconds(1))) else {
                        continue
                    }
                } catch { #expect(error.code == .timedOut) }
            }
            #expect(isTold)
        }

        @Test(
            "X4: existing, own and new handles in one message of six; released one by one, down to zero"
        )
        func sixHandles() throws {
            let company = Company()
            let nothing: [UInt8] = []
            _ = nothing.count
            let b = try company.stranger()
            let bNode = try b.publishNode("b")
            let c = try company.stranger()
            let cNode = try c.publishNode("c")
            let a = try company.stranger()
            let toB = try a.look("b")
            let toC = try a.look("c")
            let own = try a.makeNode()
            let toOwn = try a.makeHandle(to: own)
            let fresh = try a.makeNode()
            let toFresh = try a.makeHandle(to: fresh)
            try a.send(
                nothing.span.bytes, to: toB,
                passing: [toC.id, toOwn.id, toFresh.id, toB.id, toC.id, toOwn.id])
            toC.release()
            toOwn.release()
            toFresh.release()
            try c.expectNothing()
            try a.expectNothing()
            do {
                var message = try b.nextMessage()
                let count = message.handleCount
                #expect(count == 6)
                let back = message.ownNode(3)
                #expect(back == bNode.id)
                try held(message.takeHandle(0)).release()
                try c.expectNothing()
                try held(message.takeHandle(2)).release()
                #expect(try a.nextNotice().kind == .noHandles(fresh.id))
                try a.expectNothing()
            }
            // The message was dropped with the rest.
            #expect(try c.nextNotice().kind == .noHandles(cNode.id))
            #expect(try a.nextNotice().kind == .noHandles(own.id))
            toB.release()
            #expect(try b.nextNotice().kind == .noHandles(bNode.id))
        }
    }
#endif
