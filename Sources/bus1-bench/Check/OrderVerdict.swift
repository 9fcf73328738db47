import CBench
import Glibc

/// What the judge says of the histories of a run.
struct OrderVerdict {
    let violations: UInt64
    /// The rules that were broken, with how often, by their names.
    let broken: [String: UInt64]
    let transactions: UInt64
    let overlapped: UInt64
    let several: UInt64
    let messages: UInt64
    let notices: UInt64
    let unfinished: UInt64
    /// The first violations in words.
    let text: String

    /// Judges histories in memory.
    init(judging histories: borrowing Histories) throws {
        var raw = bench_verdict()
        let result = bench_judge(histories.all, &raw)
        defer { free(raw.text) }
        try BenchError.check(result, "judging")
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
    var summary: String {
        """
        transactions: \(transactions), \(several) of them with several destinations
        received: \(messages) messages, \(notices) notices
        overlapped: \(overlapped) began while another peer's was going on
        cut off by a kill: \(unfinished)
        """
    }
}

/// The histories of all peers of a run.
struct Histories: ~Copyable {
    fileprivate let all: UnsafeMutablePointer<bench_histories>

    init() {
        all = .allocate(capacity: 1)
        all.initialize(to: bench_histories())
    }

    /// Reads a file as docs/trace-format.md describes it.
    init(readingFrom path: String) throws {
        self.init()
        var wrong: UnsafePointer<CChar>?
        let result = bench_histories_read(all, path, &wrong)
        if result > 0, let wrong {
            throw BenchError("\(path), line \(result): \(String(cString: wrong))")
        }
        try BenchError.check(result, "reading \(path)")
    }

    deinit {
        bench_histories_free(all)
        all.deallocate()
    }

    /// Adds a peer whose records lie in memory that outlives this value.
    func add(peer: Int, _ recorder: UnsafePointer<bench_recorder>) throws {
        guard recorder.pointee.used <= recorder.pointee.room else {
            throw BenchError("the history of peer \(peer) is longer than its memory")
        }
        try BenchError.check(
            bench_histories_add(
                all, UInt32(peer), bench_recorder_records(recorder), recorder.pointee.used),
            "collecting histories")
    }

    func write(to path: String) throws {
        try BenchError.check(bench_histories_write(all, path), "writing \(path)")
    }
}
