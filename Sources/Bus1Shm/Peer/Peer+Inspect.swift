// What the bus has, as its broker tells it: for the tool.
extension Peer {
    /// The bus as a whole. Blocks until the broker has answered.
    ///
    /// - Throws: `mismatch` when the broker is of a version that can't be asked; `severed`, `timedOut`.
    package func inspectBus() throws(Bus1Error) -> InspectedBus {
        let all = try pages(.bus, as: InspectedBus.self)
        guard let bus = all.first else { throw core.connection.sever(Self.inspecting) }
        return bus
    }

    /// The peers of which this process may know, by their numbers.
    package func inspectPeers() throws(Bus1Error) -> [InspectedPeer] {
        try pages(.peers, as: InspectedPeer.self)
    }

    /// The users of which this process may know.
    package func inspectUsers() throws(Bus1Error) -> [InspectedUser] {
        try pages(.users, as: InspectedUser.self)
    }

    /// The rings of a peer; none when there is no such peer any more.
    package func inspectRings(of peer: UInt32) throws(Bus1Error) -> [InspectedRing] {
        try pages(.rings, of: peer, as: InspectedRing.self)
    }

    /// Whom a peer knows.
    package func inspectLinks(of peer: UInt32) throws(Bus1Error) -> [InspectedLink] {
        try pages(.links, of: peer, as: InspectedLink.self)
    }

    /// What rights the broker gave to a peer.
    package func inspectGrants(of peer: UInt32) throws(Bus1Error) -> [InspectedGrant] {
        try pages(.grants, of: peer, as: InspectedGrant.self)
    }

    /// What a peer has published: name, node, and the rule (1 same user, 2 users, 3 anyone).
    package func inspectNames(
        of peer: UInt32
    ) throws(Bus1Error) -> [(name: String, node: UInt64, access: UInt32)] {
        var found: [(name: String, node: UInt64, access: UInt32)] = []
        try eachPage(.names, of: peer) { (count, tail) throws(Bus1Error) in
            var rest = tail
            for _ in 0..<count {
                guard let record = Self.take(InspectedName.self, from: &rest),
                    record.nameLength <= controlNameBytesMax, rest.count >= Int(record.nameLength)
                else { return false }
                let name = rest.prefix(Int(record.nameLength))
                rest = rest.dropFirst(Int(record.nameLength))
                found.append((String(decoding: name, as: UTF8.self), record.node, record.access))
            }
            return rest.isEmpty
        }
        return found
    }

    /// The number by which others know this peer.
    package var number: UInt32 { core.connection.ownPeer.rawValue }

    private static var inspecting: StaticString { "ask what the bus has" }

    private func pages<Record: BitwiseCopyable>(
        _ subject: InspectBody.Subject, of peer: UInt32 = 0, as type: Record.Type
    ) throws(Bus1Error) -> [Record] {
        var found: [Record] = []
        try eachPage(subject, of: peer) { (count, tail) throws(Bus1Error) in
            var rest = tail
            for _ in 0..<count {
                guard let record = Self.take(type, from: &rest) else { return false }
                found.append(record)
            }
            return rest.isEmpty
        }
        return found
    }

    private static func take<Record: BitwiseCopyable>(
        _ type: Record.Type, from bytes: inout ArraySlice<UInt8>
    ) -> Record? {
        guard bytes.count >= MemoryLayout<Record>.size else { return nil }
        defer { bytes = bytes.dropFirst(MemoryLayout<Record>.size) }
        return bytes.withUnsafeBytes { $0.loadUnaligned(as: type) }
    }

    /// The body says whether a page is well formed.
    private func eachPage(
        _ subject: InspectBody.Subject, of peer: UInt32,
        _ body: (Int, ArraySlice<UInt8>) throws(Bus1Error) -> Bool
    ) throws(Bus1Error) {
        let operation = Self.inspecting
        try core.requireOpen(operation)
        guard core.connection.version >= controlVersionOfInspection else {
            throw Bus1Error(.mismatch, operation)
        }
        var cursor: UInt64 = 0
        repeat {
            let answer = try core.connection.ask(
                .inspect,
                InspectBody(subject: subject.rawValue, of: UInt64(peer), cursor: cursor), operation,
                until: .after(.seconds(10)))
            guard let told = answer.body(InspectBody.self), told.subject == subject.rawValue,
                told.cursor == 0 || told.cursor > cursor, told.count <= controlMessageBytesMax,
                try body(Int(told.count), answer.tail(after: InspectBody.self))
            else { throw core.connection.sever(operation) }
            cursor = told.cursor
        } while cursor != 0
    }
}

extension Bus {
    /// Whether somebody listens where the broker of this bus would. A service manager that does starts the broker then.
    package func isServed() throws(Bus1Error) -> Bool { try Rendezvous.isServed(self) }
}
