import Glibc
import Testing

@testable import bus1_bench

/// `bus1-bench check` as it is called: real processes, and what it prints at the end.
@Suite(.serialized, .timeLimit(.minutes(2))) struct CheckRunTests {
    private func check(_ arguments: String) throws -> (status: Int, output: String) {
        let (status, output) = try shell(try Outside.directory() + "/bus1-bench check " + arguments)
        return (status, output)
    }

    @Test("O7: what real processes saw fits one order", arguments: CheckIsolation.allCases)
    func processesAtRandomBreakNothing(_ isolation: CheckIsolation) throws {
        let seed = UInt64.random(in: 0...UInt64(UInt32.max))
        let (status, output) = try check(
            "--transactions 30000 --kills 0 --isolation \(isolation.rawValue) --seed \(seed)")
        #expect(status == 0, "seed \(seed)\n\(output)")
        #expect(output.hasSuffix("violations: 0\n"), "seed \(seed)\n\(output)")
    }

    @Test func aKeptTraceIsJudgedAsTheRunWas() throws {
        let path = "/tmp/bus1-check-\(getpid()).trace"
        defer { unlink(path) }
        let run = try check("--transactions 5000 --kills 0 --trace \(path)")
        #expect(run.status == 0, "\(run.output)")
        let again = try check("--from \(path)")
        #expect(again.status == 0, "\(again.output)")
        let line = { (text: String) in
            text.split(separator: "\n").filter { $0.contains("received:") }
        }
        #expect(line(run.output) == line(again.output))
        // One receipt less is one message lost, and the exit status says so.
        _ = try shell("sed -i '0,/^receive/{/^receive/d}' \(path)")
        let worse = try check("--from \(path)")
        #expect(worse.status == 1, "\(worse.output)")
        #expect(worse.output.contains("lost"), "\(worse.output)")
    }
}

/// Rules can be broken on purpose in special builds only.
@Suite struct SwitchTests {
    @Test func noOtherBuildHasAnythingOfTheSwitches() throws {
        let program = try Outside.directory() + "/bus1-bench"
        let (status, symbols) = try shell("nm \(program)")
        #expect(status == 0)
        #expect(symbols.contains("shmring_transaction_commit"))
        #expect(!symbols.contains("shmring_switch"))
        #expect(!symbols.contains(" shmring_unchecked\n"))
        #expect(!symbols.contains("shmring_fault_here"))
        #expect(!symbols.contains("shmring_fault_own"))
        // Nor the names of the rules.
        let (_, strings) = try shell("grep -c stamp-before-barrier \(program)")
        #expect(strings == "0\n")
        #expect(try shell("grep -c 'claim: tail moved' \(program)").output == "0\n")
        // The variables that choose one are read by nobody.
        #expect(
            try shell("BUS1_BREAK=nonsense BUS1_UNCHECKED=nonsense \(program) --help").status == 0)
    }
}
