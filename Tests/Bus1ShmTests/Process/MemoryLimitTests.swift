import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// A group of processes that may use so much memory; whoever goes beyond is killed by the kernel.
private final class MemoryGroup {
    let path: String

    /// Where this process may make one: of control groups version 2, or 1. nil: nowhere.
    private static let place: (directory: String, limit: String)? = {
        if text(of: "/sys/fs/cgroup/cgroup.subtree_control").contains("memory") {
            return ("/sys/fs/cgroup", "memory.max")
        }
        let first = "/sys/fs/cgroup/memory"
        return access(first + "/memory.limit_in_bytes", W_OK) == 0
            ? (first, "memory.limit_in_bytes") : nil
    }()

    static let isPossible: Bool = (try? MemoryGroup(limit_bytes: 64 << 20)) != nil

    init(limit_bytes: Int) throws {
        guard let place = Self.place else { throw PeerTestFailure("no control group of memory") }
        path = "\(place.directory)/bus1-test-\(getpid())-\(monotonicNow_ns())"
        guard mkdir(path, 0o755) == 0 else { throw PeerTestFailure("mkdir \(path): \(errno)") }
        guard write("\(limit_bytes)", to: place.limit) else {
            throw PeerTestFailure("no limit of memory can be set")
        }
        // Where there is swap, it is no way out.
        _ =
            write("0", to: "memory.swap.max")
            || write("\(limit_bytes)", to: "memory.memsw.limit_in_bytes")
    }

    func add(_ pid: Int32) throws {
        guard write("\(pid)", to: "cgroup.procs") else { throw PeerTestFailure("no such group") }
    }

    private func write(_ text: String, to file: String) -> Bool {
        let descriptor = open("\(path)/\(file)", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        return Glibc.write(descriptor, text, text.utf8.count) == text.utf8.count
    }

    private static func text(of path: String) -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        let bytes = [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
            count = max(0, read(descriptor, buffer.baseAddress, buffer.count))
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    deinit { rmdir(path) }
}

extension ProcessTests {
    @Suite(
        .serialized, .timeLimit(.minutes(2)),
        .enabled(if: MemoryGroup.isPossible, "no control group of memory can be made here"))
    struct MemoryLimitTests {
        /// What a sender's group uses up has nothing to do with the bus: it ends as by any SIGKILL.
        @Test func whoIsKilledForItsMemoryIsDeadAndNothingElseHappens() throws {
            try withCrew { crew in
                let receivers = try crew.join(2, publishing: "r", "slots=64")
                let witness = try crew.join()
                for i in 0..<2 { try witness.must("look r\(i) 5000") }
                for receiver in receivers { receiver.begin("collect 1 60000") }
                var progress: [Progress] = []
                for round in 0..<3 {
                    let group = try MemoryGroup(limit_bytes: 48 << 20)
                    let doomed = try crew.start()
                    try group.add(doomed.pid)
                    try doomed.must("open \(crew.bus.path)")
                    try doomed.must("node s\(round)")
                    for i in 0..<2 { try doomed.must("look r\(i) 5000") }
                    try witness.must("look s\(round) 5000")
                    progress.append(try crew.progress("p\(round)"))
                    try doomed.must("eat")
                    doomed.begin("forever 1,0,2,3 \(round) \(crew.directory)/p\(round)")
                    #expect(doomed.answer(within: .seconds(40)) == nil)
                    doomed.reap()
                    #expect(doomed.status & 0x7f == SIGKILL, "status \(doomed.status)")
                    try witness.must("awaitdeath \(2 + round) 20000")
                }
                for i in 0..<2 { try witness.must("send \(i) 999 end 16 5000") }
                let logs = try receivers.map { try $0.log() }
                #expect(logs[0]["order"] == logs[1]["order"], "\(logs)")
                for log in logs {
                    #expect(log.isClean, "\(log)")
                    for (round, one) in progress.enumerated() {
                        for kind in [ItemKind.multicast, .unicast, .loan, .longMulticast] {
                            let returned = one[kind]
                            #expect(
                                (returned...(returned + 1)).contains(log.last(round, kind)),
                                "sends that returned: \(returned); \(log)")
                        }
                    }
                }
                // The bus is as it was.
                let late = try crew.join()
                try late.must("look r0 5000")
                try late.must("loan 0 9 1 50000 5000")
                #expect(try receivers[0].must("receive 5000").hasPrefix("message 50000 9 1"))
            }
        }
    }
}
