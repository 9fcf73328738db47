import Bus1Shm
import CBench
import Glibc

/// A peer that sees whether names, introductions and notices of deaths work after each end of a broker: a newcomer each
/// time, which is there the next time to be told who died.
final class FaultWitness {
    private let run: CheckRun
    private var peer: Peer
    /// By the name of the server whose node it leads to.
    private var handles: [String: HandleID] = [:]

    init(_ run: CheckRun) throws {
        self.run = run
        peer = try Self.join(run.bus)
        try meet()
    }

    private static func join(_ bus: Bus) throws(Bus1Error) -> Peer {
        var options = Peer.Options()
        options.standsBy = false
        options.slots = 64
        return try Peer(on: bus, options)
    }

    /// The bus is complete again; says what does not work.
    func look(after what: String, _ failures: inout [String]) throws {
        let late = try late()
        if !late.isEmpty { failures.append("after \(what): nobody told of the death of \(late)") }
        handles = [:]
        do throws(Bus1Error) {
            peer = try Self.join(run.bus)
            try meet()
        } catch {
            failures.append("after \(what): a newcomer fails: \(error)")
        }
        let silent = try silent()
        if !silent.isEmpty {
            failures.append("after \(what): messages of a newcomer do not reach \(silent)")
        }
    }

    /// Whose deaths are not told in time.
    private func late() throws -> [String] {
        let alive = Set(run.servers?.all.map(\.name) ?? [])
        var gone = handles.filter { !alive.contains($0.key) }
        let deadline = Deadline.after(.seconds(10))
        while !gone.isEmpty {
            do throws(Bus1Error) {
                guard case .notice(let notice) = try peer.receive(until: deadline),
                    case .nodeReleased(let id) = notice.kind
                else { continue }
                gone = gone.filter { $0.value != id }
            } catch {
                break
            }
        }
        return gone.keys.sorted()
    }

    /// Looks all servers up.
    private func meet() throws(Bus1Error) {
        for server in run.servers?.all ?? [] {
            let handle = try peer.lookUp(server.name, until: .after(.seconds(10)))
            handles[server.name] = handle.detach()
        }
    }

    /// Who gets no message.
    private func silent() throws -> [String] {
        guard let servers = run.servers else { return [] }
        let before = servers.all.map { ($0, servers.received(by: $0)) }
        for (name, id) in handles {
            guard let handle = peer.adopt(id) else { continue }
            do throws(Bus1Error) {
                try peer.send(UInt64(1), to: handle, until: .after(.seconds(10)))
            } catch {
                throw BenchError("a message to \(name): \(error)")
            }
            _ = handle.detach()
        }
        let received = { before.allSatisfy { servers.received(by: $0.0) > $0.1 } }
        if servers.eventually(received) { return [] }
        return before.filter { servers.received(by: $0.0) == $0.1 }.map(\.0.name)
    }

    /// Two that are the first on a bus.
    static func meet(on bus: Bus) throws {
        let first = try join(bus)
        let node = try first.makeNode()
        try first.publish(node, as: "first")
        let second = try join(bus)
        let handle = try second.lookUp("first", until: .after(.seconds(10)))
        try second.send(UInt64(1), to: handle, until: .after(.seconds(10)))
        guard case .message = try first.receive(until: .after(.seconds(10))) else {
            throw BenchError("no message but a notice")
        }
    }
}
