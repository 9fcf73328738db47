import Glibc

/// What another process has in use, as /proc tells.
struct ProcessUse {
    var descriptors = 0
    /// Of shared memory. What the C library maps for itself comes and goes with the sizes of tables.
    var mappings = 0
    /// Of address space, touched or not.
    var reserved_bytes = 0
    var threads = 0
    /// Its own memory, and what it has touched of shared memory.
    var bytes = 0

    init(of pid: pid_t) {
        if let directory = opendir("/proc/\(pid)/fd") {
            while readdir(directory) != nil { descriptors += 1 }
            closedir(directory)
        }
        for line in (readFile("/proc/\(pid)/maps") ?? "").split(separator: "\n")
        where line.contains("/memfd:") {
            mappings += 1
        }
        for line in (readFile("/proc/\(pid)/status") ?? "").split(separator: "\n") {
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" || $0 == ":" })
            guard words.count >= 2, let number = Int(words[1]) else { continue }
            switch words[0] {
            case "Threads": threads = number
            case "RssAnon", "RssShmem": bytes += number * 1024
            case "VmSize": reserved_bytes = number * 1024
            default: break
            }
        }
    }

    /// The least of each within a while: what comes and goes is no leak.
    static func settled(of pid: pid_t) -> ProcessUse {
        var least = ProcessUse(of: pid)
        for _ in 0..<40 {
            usleep(25_000)
            let now = ProcessUse(of: pid)
            least.descriptors = min(least.descriptors, now.descriptors)
            least.mappings = min(least.mappings, now.mappings)
            least.reserved_bytes = min(least.reserved_bytes, now.reserved_bytes)
            least.threads = min(least.threads, now.threads)
            least.bytes = min(least.bytes, now.bytes)
        }
        return least
    }

    /// What there is more than before, in words. Memory may grow by 1 MiB.
    func leaks(since before: ProcessUse, of whom: String) -> [String] {
        var leaks: [String] = []
        for (more, what) in [
            (descriptors - before.descriptors, "descriptors"),
            (mappings - before.mappings, "mappings"),
            (threads - before.threads, "threads"),
        ] where more > 0 {
            leaks.append("\(more) \(what) of the \(whom)")
        }
        // A table of one holder's numbers has 4 MiB, hardly any of which is touched.
        if reserved_bytes - before.reserved_bytes >= 64 << 20 {
            leaks.append(
                "\((reserved_bytes - before.reserved_bytes) >> 20) MiB of address space of the \(whom)"
            )
        }
        if bytes - before.bytes >= 1 << 20 {
            leaks.append("\((bytes - before.bytes) >> 10) KiB of the \(whom)")
        }
        return leaks
    }

    var text: String { "\(descriptors) descriptors, \(mappings) mappings, \(bytes >> 10) KiB" }
}
