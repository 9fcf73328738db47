import CBench
import Glibc

/// What is counted from outside the measured program, as (2N run - N run) / N.
struct Outside {
    /// The arguments of `bus1-bench once`, without --count.
    let arguments: [String]
    let count: Int

    struct Count: Sendable {
        let perMessage: Double
        let tool: String
    }

    /// System calls a message, by perf where it is permitted, else by strace. A message of a ping-pong
    /// is a round trip.
    func systemCalls() throws -> Count {
        var reasons: [String] = []
        for (tool, command) in [
            ("perf stat", "perf stat -x, -e raw_syscalls:sys_enter -o $OUT -- "),
            ("strace", "strace -f -c -o $OUT "),
        ] {
            do {
                let once = try total(command, count, Self.parse)
                let twice = try total(command, 2 * count, Self.parse)
                return Count(perMessage: (twice - once) / Double(count), tool: tool)
            } catch let error as BenchError {
                reasons.append("\(tool): \(error)")
            }
        }
        throw BenchError("system calls can't be counted here; " + reasons.joined(separator: "; "))
    }

    /// Allocations a message, by a library that is preloaded.
    func allocations() throws -> Count {
        let library = try Self.directory() + "/libbench-malloc-count.so"
        guard access(library, R_OK) == 0 else {
            throw BenchError("\(library) is missing: swift build")
        }
        let command = "env LD_PRELOAD=\(quoted(library)) BENCH_MALLOC_COUNT=$OUT "
        func sum(_ text: String) -> Double? {
            let counts = text.split(separator: "\n").compactMap { Double($0) }
            return counts.isEmpty ? nil : counts.reduce(0, +)
        }
        let once = try total(command, count, sum)
        let twice = try total(command, 2 * count, sum)
        return Count(perMessage: (twice - once) / Double(count), tool: "preloaded counter")
    }

    /// The exit status of one run with more arguments, and what it printed.
    func run(_ more: [String], prefix: String = "") throws -> (status: Int, output: String) {
        let words = [try Self.program(), "once"] + arguments + ["--count", "\(count)"] + more
        return try shell(prefix + words.map(quoted).joined(separator: " "))
    }

    private func total(_ prefix: String, _ count: Int, _ parse: (String) -> Double?) throws
        -> Double
    {
        let path = "/tmp/bus1-bench-\(getpid()).count"
        unlink(path)
        defer { unlink(path) }
        let words = [try Self.program(), "once"] + arguments + ["--count", "\(count)"]
        let command =
            prefix.split(separator: "$OUT", omittingEmptySubsequences: false).joined(
                separator: path)
            + words.map(quoted).joined(separator: " ")
        let (status, output) = try shell(command)
        guard status == 0 else {
            throw BenchError(output.split(separator: "\n").last.map(String.init) ?? "failed")
        }
        guard let text = readFile(path), let value = parse(text) else {
            throw BenchError("it counted nothing")
        }
        return value
    }

    /// The total of perf's CSV, or the last line of strace's table.
    static func parse(_ text: String) -> Double? {
        for line in text.split(separator: "\n") {
            if line.contains("raw_syscalls:sys_enter") {
                return Double(line.prefix { $0 != "," })
            }
            let words = line.split(separator: " ")
            if words.last == "total", words.count >= 4 { return Double(words[3]) }
        }
        return nil
    }

    private static func program() throws -> String {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let length = readlink("/proc/self/exe", &buffer, buffer.count)
        guard length > 0 else { throw BenchError("/proc/self/exe can't be read") }
        return String(decoding: buffer[..<length], as: UTF8.self)
    }

    static func directory() throws -> String {
        let path = try program()
        return String(path[..<(path.lastIndex(of: "/") ?? path.endIndex)])
    }
}

/// One word for the shell.
private func quoted(_ word: String) -> String {
    "'" + word.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''")
        + "'"
}

/// Runs a command line; returns its exit status and everything it printed.
func shell(_ command: String) throws -> (status: Int, output: String) {
    guard let pipe = popen("{ \(command) ; } 2>&1 </dev/null", "r") else {
        throw BenchError("starting a shell: \(String(cString: strerror(errno)))")
    }
    var bytes: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 4096)
    while case let count = fread(&block, 1, block.count, pipe), count > 0 {
        bytes += block[..<count]
    }
    let status = pclose(pipe)
    if bench_interrupted() != 0 { throw Interrupted() }
    let code = status & 0x7f == 0 ? Int(status >> 8) & 0xff : 128 + Int(status & 0x7f)
    return (code, String(decoding: bytes, as: UTF8.self))
}
