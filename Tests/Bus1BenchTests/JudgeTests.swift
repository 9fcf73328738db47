import Bus1Judge
import Glibc
import Testing

@testable import bus1_bench

/// Histories that break one rule each must be found guilty of it, and of nothing else.
@Suite struct JudgeTests {
    private static let directory = String(#filePath.dropLast("/JudgeTests.swift".count))

    private func judge(file name: String) throws -> OrderVerdict {
        try OrderVerdict(judging: try Histories(readingFrom: "\(Self.directory)/histories/\(name)"))
    }

    private func judge(_ text: String) throws -> OrderVerdict {
        let path = Self.temporaryFile("bus1-trace 1\n" + text)
        defer { unlink(path) }
        return try OrderVerdict(judging: try Histories(readingFrom: path))
    }

    private static func temporaryFile(_ text: String) -> String {
        var template = Array("/tmp/bus1-history-XXXXXX".utf8CString)
        let fd = mkstemp(&template)
        defer { close(fd) }
        _ = text.withCString { write(fd, $0, strlen($0)) }
        return template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }

    /// Peer 1 sends to node 7 of peer 2, and to node 8 of peer 3.
    private func judge(_ first: String, _ second: String, _ third: String = "") throws
        -> OrderVerdict
    {
        try judge(
            """
            peer 2
            node 1 2 7
            publish 2 3 7
            \(second)
            peer 3
            node 1 2 8
            publish 2 3 8
            \(third)
            drained 900
            peer 1
            lookup 4 5 7
            lookup 6 7 8
            \(first)
            drained 900

            """)
    }

    @Test("O7: a history in order passes")
    func aGoodHistoryPasses() throws {
        let verdict = try judge(file: "good.trace")
        #expect(verdict.violations == 0, "\(verdict.text)")
        #expect(verdict.notices == 3)
        #expect(verdict.unfinished == 1)
        #expect(verdict.several == 1)
    }

    @Test(
        "O7: O1, O2, O3, O4 and O5, broken by hand, are named, and the cycle is shown",
        arguments: [
            ("o1", ["O1"]), ("o2", ["O2", "O5"]), ("o3", ["O3"]), ("o4", ["O1", "O4"]),
            ("o5", ["O5"]),
        ])
    func aBadHistoryFailsWithItsRule(_ name: String, _ rules: [String]) throws {
        let verdict = try judge(file: "\(name).trace")
        #expect(verdict.violations == 1)
        #expect(verdict.broken.keys.sorted() == rules, "\(verdict.text)")
        #expect(verdict.text.contains("a cycle of 2"))
    }

    /// It was the release or the death that ended the node: nobody can tell, and both are in order.
    @Test func aReleaseThatAKillCutOffStandsAmongWhatTheDeathEnded() throws {
        let ended = try judge(
            """
            peer 2
            node 1 2 7
            publish 2 3 7
            node 3 4 8
            publish 4 5 8
            node 5 6 9
            publish 6 7 9
            send 20 - 1 release 8
            killed 21
            peer 1
            lookup 8 9 7
            lookup 10 11 8
            lookup 12 13 9
            gone 40 41 7
            gone 42 43 8
            gone 44 45 9
            drained 900

            """)
        #expect(ended.violations == 0, "\(ended.text)")
    }

    /// The second notice may be of a handle that the killed one had been given.
    @Test func aLookUpThatAKillCutOffMayHaveMadeAHandle() throws {
        let history = { (end: String) in
            """
            peer 2
            node 1 2 7
            publish 2 3 7
            none 30 31 7
            none 60 61 7
            drained 900
            peer 1
            lookup 4 5 7
            drop 20 21 7
            drained 900
            peer 3
            lookup \(end) 7
            killed 50

            """
        }
        #expect(try judge(history("40 -")).violations == 0)
        #expect(try judge(history("62 63")).broken["doubled"] == 1)
    }

    @Test func aMessageThatNeverCameIsLost() throws {
        let verdict = try judge("send 10 15 1 to 7", "drained 90")
        #expect(verdict.broken == ["lost": 1], "\(verdict.text)")
    }

    @Test func aMessageToThoseWhoDiedOrStoppedEarlyIsNotLost() throws {
        #expect(try judge("send 10 15 1 to 7\ngone 20 21 7", "killed 12").violations == 0)
        #expect(try judge("send 10 15 1 to 7", "").violations == 0)
    }

    @Test func halfATransactionIsSeen() throws {
        let verdict = try judge("send 10 15 1 to 7 to 8", "receive 20 21 1 at 7\ndrained 90")
        #expect(verdict.broken == ["atomicity": 1, "lost": 1], "\(verdict.text)")
    }

    @Test func halfATransactionOfAKilledSenderIsSeen() throws {
        let verdict = try judge(
            "send 10 - 1 to 7 to 8\nkilled 15", "receive 20 21 1 at 7\ndrained 90")
        #expect(verdict.broken == ["atomicity": 1, "lost": 1], "\(verdict.text)")
        let none = try judge("send 10 - 1 to 7 to 8\nkilled 15", "drained 90")
        #expect(none.violations == 0, "\(none.text)")
    }

    @Test func whatFailedAndCameIsSeen() throws {
        let verdict = try judge("failed 10 15 1 to 7", "receive 20 21 1 at 7\ndrained 90")
        #expect(verdict.broken == ["atomicity": 1], "\(verdict.text)")
    }

    @Test func aMessageThatCameTwiceIsSeen() throws {
        let verdict = try judge(
            "send 10 15 1 to 7", "receive 20 21 1 at 7\nreceive 22 23 1 at 7\ndrained 90")
        #expect(verdict.broken == ["doubled": 1], "\(verdict.text)")
    }

    @Test func aMessageThatNobodySentIsSeen() throws {
        #expect(try judge("", "receive 20 21 1 at 7\ndrained 90").broken == ["invented": 1])
        let early = try judge("send 30 35 1 to 7", "receive 20 21 1 at 7\ndrained 90")
        #expect(early.broken["invented"] == 1, "\(early.text)")
    }

    @Test func aMessageWithoutAHandleIsSeenIfItArrives() throws {
        let rightless = "drop 8 9 7\nsend 10 15 1 to 7"
        let verdict = try judge(rightless, "receive 20 21 1 at 7\ndrained 90")
        #expect(verdict.broken == ["authority": 1], "\(verdict.text)")
        #expect(try judge(rightless, "drained 90").violations == 0)
    }

    @Test func aHandleThatNobodyGaveIsSeen() throws {
        let verdict = try judge("send 10 15 1 to 7", "receive 20 21 1 at 7 with 8\ndrained 90")
        #expect(verdict.broken == ["authority": 1], "\(verdict.text)")
    }

    @Test(
        "N6: a message after its node's release that comes, or one before it that does not, is seen"
    )
    func theReleaseOfANodeHasItsPlace() throws {
        let late = try judge(
            "send 50 55 1 to 7\ngone 90 91 7",
            "send 20 25 2 release 7\nreceive 60 61 1 at 7\ndrained 90")
        #expect(late.broken.keys.sorted() == ["O1", "O4", "released node"], "\(late.text)")
        let dropped = try judge(
            "send 10 15 1 to 7\ngone 90 91 7", "send 20 25 2 release 7\ndrained 90")
        #expect(dropped.broken.keys.sorted() == ["O1", "O4", "released node"], "\(dropped.text)")
        let meanwhile = try judge(
            "send 10 55 1 to 7\ngone 90 91 7", "send 20 25 2 release 7\ndrained 90")
        #expect(meanwhile.violations == 0, "\(meanwhile.text)")
    }

    @Test("N5: a release that a holder is not told of, or told of twice, is seen")
    func eachHandleHasOneNotice() throws {
        let untold = try judge("", "send 20 25 2 release 7\ndrained 90")
        #expect(untold.broken == ["lost": 1], "\(untold.text)")
        let twice = try judge("gone 30 31 7\ngone 32 33 7", "send 20 25 2 release 7\ndrained 90")
        #expect(twice.broken == ["doubled": 1], "\(twice.text)")
    }

    @Test("N8: what a dead peer had sent comes before its death")
    func aDeathComesAfterAllThatWasSent() throws {
        let verdict = try judge(
            """
            peer 1
            node 1 2 7
            publish 2 3 7
            lookup 4 5 8
            send 30 - 1 to 8
            killed 40
            peer 2
            node 1 2 8
            publish 2 3 8
            lookup 4 5 7
            gone 50 51 7
            receive 52 53 1 at 8
            drained 90

            """)
        #expect(verdict.broken.keys.contains("notices"), "\(verdict.text)")
    }

    @Test("N1: no handles left, said early, twice or not at all, is seen")
    func theLastHandleHasItsNotice() throws {
        let good = try judge("drop 50 55 7", "none 60 61 7\ndrained 90")
        #expect(good.violations == 0, "\(good.text)")
        let early = try judge("drop 50 55 7", "none 40 41 7\nnone 60 61 7\ndrained 90")
        #expect(early.broken == ["doubled": 1, "early notice": 1], "\(early.text)")
        let twice = try judge("drop 50 55 7", "none 60 61 7\nnone 70 71 7\ndrained 90")
        #expect(twice.broken == ["doubled": 1], "\(twice.text)")
        // Killed in the middle of a look-up, one may have held a handle.
        let killed = try judge(
            "drop 50 55 7\nlookup 62 - 7\nkilled 65", "none 60 61 7\nnone 70 71 7\ndrained 90",
            "none 66 67 8")
        #expect(killed.violations == 0, "\(killed.text)")
        let never = try judge(
            "drop 50 55 7\ndrop 56 57 8", "drained 90", "none 60 61 8")
        #expect(never.broken == ["lost": 1], "\(never.text)")
    }

    @Test func aFileThatIsNoHistoryIsRefusedWithItsLine() throws {
        for text in ["peer x", "send 1 2 3", "peer 1\nsend 5 4 3", "peer 1\nsend 0 4 3 to 7"] {
            #expect(throws: BenchError.self) { _ = try judge(text + "\n").violations }
        }
    }

    @Test func aHistoryIsTheSameAfterWritingAndReading() throws {
        let first = try Histories(readingFrom: "\(Self.directory)/histories/good.trace")
        let path = Self.temporaryFile("")
        defer { unlink(path) }
        try first.write(to: path)
        let second = try Histories(readingFrom: path)
        #expect(try OrderVerdict(judging: second).messages == 3)
        #expect(try OrderVerdict(judging: second).violations == 0)
    }
}
