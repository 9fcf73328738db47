import CBus1System
import Glibc

extension Peer {
    /// Starts a program and sets handles aside for it: `Peer.inherited()` there makes a peer that holds them, in this
    /// order. The program inherits nothing else of the bus; standard input and outputs are shared.
    ///
    /// - Parameters:
    ///   - path: of the program; not searched for.
    ///   - giving: handles of this peer, which it keeps, 32 at most.
    /// - Throws: `noSuchHandle`, `tooLarge`, `timedOut` when a node's owner has no room to be told of it for ten
    ///   seconds, `system` when the program can't be started.
    public func spawn(
        _ path: String, _ arguments: [String] = [], giving handles: [HandleID] = []
    ) throws(Bus1Error) -> Child {
        try core.requireOpen("spawn")
        let aside = try core.setAside(handles)
        let ticket = aside.ticket
        var pid: Int32 = 0
        let environment = Inheritance.environment(for: ticket, on: core.bus)
        let result = withCStrings([path] + arguments) { arguments in
            withCStrings(environment) { environment in
                bus1_sys_spawn(path, arguments, environment, nil, 0, &pid)
            }
        }
        guard result == 0 else {
            core.takeBack(aside)
            throw Bus1Error(.system, "spawn", errno: -result)
        }
        var pidfd: Int32 = -1
        // The child is not reaped before Child says so: the number can't have passed to another process.
        let opened = bus1_sys_pidfd_open(pid, &pidfd)
        guard opened == 0 else { throw Bus1Error(.system, "spawn", errno: -opened) }
        return Child(pid: pid, pidfd: Descriptor(owning: pidfd))
    }
}

/// A program that was spawned. Dropping it leaves the program alone.
public struct Child: ~Copyable, Sendable {
    /// Its process ID, valid until ``wait(until:)`` has returned its status.
    public let pid: Int32
    let pidfd: Descriptor

    /// Waits until the program has ended; its exit status as waitpid(2) tells it. nil: the deadline has passed.
    public func wait(until deadline: Deadline = .never) -> Int32? {
        while true {
            let result = bus1_sys_pidfd_wait(pidfd.rawValue, deadline.pollTimeout_ms)
            if result == 1 { break }
            // 0 may be a signal that this thread got: then the deadline is still to come.
            guard result == 0, !deadline.hasPassed else { return nil }
        }
        var status: Int32 = 0
        return bus1_sys_child_reap(pid, &status) == 0 ? status : nil
    }

    /// A pidfd: readable when the program has ended, for event loops. The child's; not to be closed.
    public var descriptor: Int32 { pidfd.rawValue }

    /// Sends a signal; does nothing when the program has ended.
    public func signal(_ number: Int32) { _ = bus1_sys_pidfd_signal(pidfd.rawValue, number) }
}

/// How a child learns what was set aside for it: a ticket and the bus's path, in its environment.
enum Inheritance {
    static func environment(for ticket: Ticket, on bus: Bus) -> [String] {
        var lines: [String] = []
        var entry = environ
        while let raw = entry.pointee {
            let line = String(cString: raw)
            if !line.hasPrefix("BUS1_TICKET="), bus.path.isEmpty || !line.hasPrefix("BUS1_PATH=") {
                lines.append(line)
            }
            entry += 1
        }
        if !bus.path.isEmpty { lines.append("BUS1_PATH=\(bus.path)") }
        lines.append(
            "BUS1_TICKET=\(String(ticket.low, radix: 16)):\(String(ticket.high, radix: 16))")
        return lines
    }

    /// The ticket of this process, once: it is taken out of the environment.
    static func read() throws(Bus1Error) -> (Bus, Ticket) {
        guard let raw = bus1_sys_environment("BUS1_TICKET") else {
            throw Bus1Error(.denied, "take what was inherited")
        }
        let halves = String(cString: raw).split(separator: ":", maxSplits: 1).map {
            UInt64($0, radix: 16)
        }
        unsetenv("BUS1_TICKET")
        guard halves.count == 2, let low = halves[0], let high = halves[1] else {
            throw Bus1Error(.denied, "take what was inherited")
        }
        return (.default, Ticket(low: low, high: high))
    }
}

/// Calls with the strings as C has them: pointers, and NULL at the end.
private func withCStrings<R>(
    _ strings: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> R
) -> R {
    var pointers: [UnsafeMutablePointer<CChar>?] = strings.map { strdup($0) }
    pointers.append(nil)
    defer { for pointer in pointers { free(pointer) } }
    return pointers.withUnsafeBufferPointer { body($0.baseAddress!) }
}
