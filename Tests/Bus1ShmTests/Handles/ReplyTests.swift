import Bus1Shm
import Testing

@Suite(.timeLimit(.minutes(1)))
struct ReplyTests {
    @Test func aReplyReachesTheNodeThatAskedForIt() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let answers = try a.makeNode(tag: 3)
        for i in 0..<3000 {
            let question = [UInt64(i)]
            try a.send(question.span.bytes, to: toB, replyTo: answers)
            var request = try b.nextMessage()
            let seen1 = request.wantsReply
            #expect(seen1)
            let seen2 = request.handleCount
            #expect(seen2 == 0)
            guard let reply = request.takeReply() else { throw PeerTestFailure("no reply") }
            let seen3 = reply.isWanted
            #expect(seen3)
            try reply.send(UInt64(i) * 2)
            let answer = try a.nextMessage()
            let seen4 = answer.tag
            #expect(seen4 == 3)
            #expect(try answer.load(as: UInt64.self) == UInt64(i) * 2)
        }
        try a.expectNothing()
    }

    @Test func aReplyThatIsLostUnusedIsTold() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let answers = try a.makeNode()
        let question = [UInt64(1)]
        // Dropped with the message, or by itself.
        for takes in [false, true] {
            try a.send(question.span.bytes, to: toB, replyTo: answers)
            do {
                var request = try b.nextMessage()
                if takes { _ = request.takeReply() }
            }
            #expect(try a.nextNotice().kind == .replyLost(answers.id))
        }
        // With the callee.
        try a.send(question.span.bytes, to: toB, replyTo: answers)
        b.close()
        var kinds = [try a.nextNotice().kind]
        kinds.append(try a.nextNotice().kind)
        #expect(Set(kinds) == [.replyLost(answers.id), .nodeReleased(toB.id)])
    }

    @Test func nobodyWaitsForAReplyWhenTheNodeIsReleased()
        throws
    {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let answers = try a.makeNode()
        let question = [UInt64(1)]
        try a.send(question.span.bytes, to: toB, replyTo: answers)
        var request = try b.nextMessage()
        guard let reply = request.takeReply() else { throw PeerTestFailure("no reply") }
        answers.release()
        let seen5 = reply.isWanted
        #expect(!seen5)
        do {
            try reply.send(UInt64(1))
            Issue.record("sent")
        } catch { #expect(error.code == .nodeReleased) }
    }

    @Test func theReplyHandleIsGoodForOneMessage() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let answers = try a.makeNode()
        let question = [UInt64(1)]
        try a.send(question.span.bytes, to: toB, replyTo: answers)
        var request = try b.nextMessage()
        guard let reply = request.takeReply() else { throw PeerTestFailure("no reply") }
        let again = request.takeReply() == nil
        #expect(again)
        let long = [UInt8](repeating: 4, count: 200_000)
        try reply.send(long.span.bytes)
        #expect(try a.nextMessage().byteCount == long.count)
        try a.expectNothing()
    }
}
