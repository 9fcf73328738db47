package import CBench
import Glibc

/// What the judge says of the histories of a run.
package struct OrderVerdict {
    package let violations: UInt64
    /// The rules that were broken, with how often, by their names.
    package let broken: [String: UInt64]
    package let transactions: UInt64
    package let overlapped: UInt64
    package let several: UInt64
    package let messages: UInt64
    package let notices: UInt64
    package let unfinished: UInt64
    /// The first violations in words.
    package let text: String

    /// Judges histories in memory.
    package init(judging histories: borrowing Histories) throws {
        var raw = bench_verdict()
        let result = bench_judge(histories.all, &raw)
        defer { free(raw.text) }
        try JudgeError.check(result, "judging")
        violations = raw.violations
        transactions = raw.transactions
        overlapped = raw.overlapped
        several = raw.several
        messages = raw.messages
        notices = raw.notices
        unfinished = raw.unfinished
        text = raw.text.map { String(cString: $0) } ?? ""
        var broken: [String: UInt64] = [:]
        withUnsafeBytes(of: raw.by_rule) { bytes in
            for (bit, count) in bytes.bindMemory(to: UInt64.self).enumerated() where count > 0 {
                broken[String(cString: bench_rule_name(UInt32(bit)))] = count
            }
        }
        self.broken = broken
    }

    /// The lines that `bus1-bench check` prints of it, but for the last.
    package var summary: String {
        """
        transactions: \(transactions), \(several) of them with several destinations
        received: \(messages) messages, \(notices) notices
        overlapped: \(overlapped) began while another peer's was going on
        cut off by a kill: \(unfinished)
        """
    }
}

/// The histories of all peers of a run.
package struct Histories: ~Copyable {
    fileprivate let all: UnsafeMutablePointer<bench_histories>

    package init() {
        all = .allocate(capacity: 1)
        all.initialize(to: bench_histories())
    }

    /// Reads a file as docs/trace-format.md describes it.
    package init(readingFrom path: String) throws {
        self.init()
        var wrong: UnsafePointer<CChar>?
        let result = bench_histories_read(all, path, &wrong)
        if result > 0, let wrong {
            throw JudgeError("\(path), line \(result): \(String(cString: wrong))")
        }
        try JudgeError.check(result, "reading \(path)")
    }

    deinit {
        bench_histories_free(all)
        all.deallocate()
    }

    /// Adds a peer whose records lie in memory that outlives this value.
    package func add(peer: Int, _ recorder: UnsafePointer<bench_recorder>) throws {
        guard recorder.pointee.used <= recorder.pointee.room else {
            throw JudgeError("the history of peer \(peer) is longer than its memory")
        }
        try JudgeError.check(
            bench_histories_add(
                all, UInt32(peer), bench_recorder_records(recorder), recorder.pointee.used),
            "collecting histories")
    }

    package func write(to path: String) throws {
        try JudgeError.check(bench_histories_write(all, path), "writing \(path)")
    }
}
