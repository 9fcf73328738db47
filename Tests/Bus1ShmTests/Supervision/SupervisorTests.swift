import Bus1Supervision
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

@Suite(.timeLimit(.minutes(1)))
struct SupervisorTests {
    private func shell(
        _ name: String, _ script: String, restart: ChildSpecification.Restart = .permanent,
        shutdown: Duration = .seconds(5)
    ) -> ChildSpecification {
        ChildSpecification(
            name, "/bin/sh", ["-c", script], restart: restart, shutdown: shutdown)
    }

    private func pids(_ supervisor: borrowing Supervisor) -> [String: Int32] {
        Dictionary(uniqueKeysWithValues: supervisor.running.map { ($0.name, $0.pid) })
    }

    private func ignoresTermination(_ pid: Int32) throws -> Bool {
        var line = [UInt8](repeating: 0, count: 8192)
        let fd = open("/proc/\(pid)/status", O_RDONLY)
        defer { close(fd) }
        let count = read(fd, &line, line.count)
        let text = String(decoding: line.prefix(max(0, count)), as: UTF8.self)
        guard let ignored = text.split(separator: "\n").first(where: { $0.hasPrefix("SigIgn:") })
        else { return false }
        let mask = UInt64(ignored.dropFirst(7).trimmingPrefix(while: \.isWhitespace), radix: 16)
        return mask.map { $0 & 1 << UInt64(SIGTERM - 1) != 0 } ?? false
    }

    /// Kills the second of three; who has another process afterwards.
    private func replaced(_ strategy: Supervisor.Strategy) throws -> (
        Set<String>, SupervisionEvent?
    ) {
        let test = TestBus()
        let peer = try Peer(on: test.bus)
        var supervisor = Supervisor(strategy)
        for name in ["a", "b", "c"] {
            try supervisor.start(shell(name, "exec sleep 1000"), by: peer)
        }
        let before = pids(supervisor)
        #expect(supervisor.descriptors.count == 3)
        #expect(try supervisor.tend(by: peer) == nil)
        kill(before["b"]!, SIGKILL)
        let event = try supervisor.next(by: peer, until: .after(.seconds(20)))
        let after = pids(supervisor)
        #expect(supervisor.running.map(\.name) == ["a", "b", "c"])
        // Those that were ended are no processes any more, and no zombies.
        for (name, pid) in before where after[name] != pid { #expect(kill(pid, 0) == -1) }
        return (Set(before.keys.filter { before[$0] != after[$0] }), event)
    }

    @Test func theOneThatEndedIsStartedAgain() throws {
        let (names, event) = try replaced(.oneForOne)
        #expect(names == ["b"])
        #expect(event == .restarted(name: "b", status: SIGKILL, others: 0))
    }

    @Test func allAreStartedAgain() throws {
        let (names, event) = try replaced(.oneForAll)
        #expect(names == ["a", "b", "c"])
        #expect(event == .restarted(name: "b", status: SIGKILL, others: 2))
    }

    @Test func thoseStartedLaterAreStartedAgain() throws {
        let (names, event) = try replaced(.restForOne)
        #expect(names == ["b", "c"])
        #expect(event == .restarted(name: "b", status: SIGKILL, others: 1))
    }

    @Test func howAChildEndsDecidesWhetherItIsStartedAgain() throws {
        let test = TestBus()
        let peer = try Peer(on: test.bus)
        var supervisor = Supervisor(.oneForOne, atMost: 1)
        try supervisor.start(shell("done", "exit 0", restart: .transient), by: peer)
        let done = try supervisor.next(by: peer, until: .after(.seconds(20)))
        #expect(done == .ended(name: "done", status: 0))
        try supervisor.start(shell("once", "exit 3", restart: .temporary), by: peer)
        let once = try supervisor.next(by: peer, until: .after(.seconds(20)))
        #expect(once == .ended(name: "once", status: 3 << 8))
        #expect(try supervisor.next(by: peer) == nil, "no child is left")
        try supervisor.start(shell("fails", "exit 4", restart: .transient), by: peer)
        let failed = try supervisor.next(by: peer, until: .after(.seconds(20)))
        #expect(failed == .restarted(name: "fails", status: 4 << 8, others: 0))
    }

    @Test func whoEndsTooOftenEndsAllOfThem() throws {
        let test = TestBus()
        let peer = try Peer(on: test.bus)
        var supervisor = Supervisor(.oneForOne, atMost: 2, within: .seconds(60))
        try supervisor.start(shell("lives", "exec sleep 1000"), by: peer)
        let lives = supervisor.running[0].pid
        try supervisor.start(shell("fails", "exit 9"), by: peer)
        var count = 0
        do throws(SupervisionError) {
            while try supervisor.next(by: peer, until: .after(.seconds(20))) != nil { count += 1 }
            Issue.record("it goes on")
        } catch {
            guard case .tooManyRestarts(let name, let status) = error else {
                Issue.record("\(error)")
                return
            }
            #expect(name == "fails" && status == 9 << 8)
        }
        #expect(count == 2)
        #expect(kill(lives, 0) == -1 && errno == ESRCH)
        #expect(supervisor.running.isEmpty)
    }

    @Test func whoDoesNotEndIsKilled() throws {
        let test = TestBus()
        let peer = try Peer(on: test.bus)
        var supervisor = Supervisor(.oneForOne)
        try supervisor.start(
            shell(
                "deaf", "trap '' TERM; while :; do sleep 1; done", shutdown: .milliseconds(50)),
            by: peer)
        let pid = supervisor.running[0].pid
        let deadline = Deadline.after(.seconds(20))
        while try !ignoresTermination(pid), !deadline.hasPassed { sched_yield() }
        supervisor.stop()
        #expect(kill(pid, 0) == -1 && errno == ESRCH)
        #expect(!deadline.hasPassed)
    }

    @Test func whatCanNotBeStartedIsSaid() throws {
        let test = TestBus()
        let peer = try Peer(on: test.bus)
        var supervisor = Supervisor(.oneForOne)
        do throws(SupervisionError) {
            try supervisor.start(ChildSpecification("none", "/nowhere/at/all"), by: peer)
            Issue.record("it was started")
        } catch {
            guard case .notStarted("none", let reason) = error else {
                Issue.record("\(error)")
                return
            }
            #expect(reason.code == .system)
        }
        #expect(supervisor.running.isEmpty)
    }
}
