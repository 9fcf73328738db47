import CBench
import Glibc

/// What this process has open, to be compared: descriptors, and mappings of shared memory.
struct OpenThings: Equatable {
    var descriptors: Int
    var mappings: Int

    static var now: OpenThings {
        OpenThings(descriptors: countEntries("/proc/self/fd"), mappings: countMappings())
    }

    /// As soon as nothing is more than it was, and in any case after a second: the broker sees the ends of processes
    /// later than their parent.
    static func settled(at before: OpenThings) -> OpenThings {
        let until = bench_monotonic_ns() + 1_000_000_000
        while true {
            let now = self.now
            if now.leaks(since: before, of: "").isEmpty || bench_monotonic_ns() > until {
                return now
            }
            usleep(2000)
        }
    }

    /// What there is more than before, in words.
    func leaks(since before: OpenThings, of whom: String) -> [String] {
        var leaks: [String] = []
        if descriptors > before.descriptors {
            leaks.append("\(descriptors - before.descriptors) descriptors of \(whom)")
        }
        if mappings > before.mappings {
            leaks.append("\(mappings - before.mappings) mappings of shared memory of \(whom)")
        }
        return leaks
    }

    private static func countEntries(_ path: String) -> Int {
        guard let directory = opendir(path) else { return 0 }
        defer { closedir(directory) }
        var count = 0
        while readdir(directory) != nil { count += 1 }
        return count
    }

    private static func countMappings() -> Int {
        guard let file = fopen("/proc/self/maps", "r") else { return 0 }
        defer { fclose(file) }
        var count = 0
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: 512) { line in
            while fgets(line.baseAddress, 512, file) != nil {
                if strstr(line.baseAddress!, "/memfd:bus1-") != nil { count += 1 }
            }
        }
        return count
    }
}
