import ArgumentParser
import Bus1Shm
import Glibc

/// `bus1 ls`: what a bus has.
struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls",
        abstract: "Say what a bus has: peers, names, rings, who knows whom, quotas.",
        discussion: """
            As the broker knows it. All of it is told to processes of the broker's user and of root; \
            to others what belongs to their own user. The broker of an older version can't be \
            asked. This command is a peer itself, and leaves itself out.

            The bus goes on while it is looked at: what changes meanwhile may be missing.
            """)

    @OptionGroup var options: BusOptions

    @Flag(help: "All that is known, as JSON.")
    var json = false

    func run() throws {
        try saying {
            let seen = try BusView(of: options.bus)
            print(json ? seen.json : seen.table)
        }
    }
}

/// What the broker told.
struct BusView {
    let bus: InspectedBus
    let users: [InspectedUser]
    let peers: [PeerView]

    struct PeerView {
        let peer: InspectedPeer
        let command: String?
        let names: [(name: String, node: UInt64, access: UInt32)]
        let rings: [InspectedRing]
        let links: [InspectedLink]
        let grants: [InspectedGrant]
    }

    init(of bus: Bus) throws {
        guard try bus.isServed() else {
            throw ToolError("nobody serves this bus: it has no peers")
        }
        var options = Peer.Options()
        options.standsBy = false
        options.slots = 16
        let asker = try Peer(on: bus, options)
        do throws(Bus1Error) {
            self.bus = try asker.inspectBus()
            users = try asker.inspectUsers()
            var found: [PeerView] = []
            for peer in try asker.inspectPeers() where peer.peer != asker.number {
                let id = peer.peer
                found.append(
                    PeerView(
                        peer: peer, command: Self.command(of: peer.pid),
                        names: try asker.inspectNames(of: id),
                        rings: try asker.inspectRings(of: id),
                        links: try asker.inspectLinks(of: id),
                        grants: try asker.inspectGrants(of: id)))
            }
            peers = found
        } catch {
            guard error.code == .mismatch else { throw error }
            throw ToolError("the bus's broker is of an older version, which can't be asked")
        }
    }

    /// As the kernel knows it here: in another namespace of processes the number means somebody else, or nobody.
    private static func command(of pid: Int32) -> String? {
        let descriptor = open("/proc/\(pid)/cmdline", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = read(descriptor, &bytes, bytes.count)
        guard count > 0 else { return nil }
        let words = bytes.prefix(count).split(separator: 0).map {
            String(decoding: $0, as: UTF8.self)
        }
        return words.joined(separator: " ")
    }
}

// MARK: For people

extension BusView {
    var table: String {
        var lines = [
            "broker: pid \(bus.brokerPID), user \(bus.brokerUID), "
                + (bus.mode == 2 ? "alone" : "embedded")
                + (bus.heirPID == 0 ? "; no heir" : "; heir: pid \(bus.heirPID)")
        ]
        if bus.isWhole == 0 { lines.append("only what belongs to this user is told") }
        lines.append("")
        var rows = [["peer", "pid", "user", "state", "rings", "knows", "names", "command"]]
        for view in peers {
            let peer = view.peer
            rows.append([
                "\(peer.peer)", "\(peer.pid)", "\(peer.uid)", peer.stateName, "\(peer.rings)",
                "\(peer.links)", view.names.map { printable($0.name) }.joined(separator: ", "),
                printable(String(shortened(view.command ?? "?").prefix(60))),
            ])
        }
        lines += columns(rows, toRight: [0, 1, 2, 4, 5])
        rows = [["ring", "of", "domain", "slots", "senders", "paid by user"]]
        for view in peers {
            for ring in view.rings {
                rows.append([
                    "\(ring.ring)", "\(view.peer.peer)", "\(ring.domain)",
                    "\(ring.slots) x \(ring.slotBytes) B", "\(ring.senders)", "\(ring.payer)",
                ])
            }
        }
        if rows.count > 1 { lines += [""] + columns(rows, toRight: [0, 1, 2, 3, 4, 5]) }
        rows = [["user", "peers", "rings", "links", "bytes"]]
        for user in users {
            rows.append([
                "\(user.uid)", "\(user.peers) of \(user.peersMax)",
                "\(user.rings) of \(user.ringsMax)", "\(user.links) of \(user.linksMax)",
                "\(user.bytes) of \(user.bytesMax)",
            ])
        }
        lines += [""] + columns(rows, toRight: [0, 1, 2, 3, 4])
        return lines.joined(separator: "\n")
    }

    /// Without the directories of the program.
    private func shortened(_ command: String) -> String {
        guard let end = command.firstIndex(of: " ") else {
            return String(command.split(separator: "/").last ?? "?")
        }
        return String(command[..<end].split(separator: "/").last ?? "?") + command[end...]
    }

    /// What others chose is not to move the cursor.
    private func printable(_ text: String) -> String {
        String(
            text.unicodeScalars.map {
                $0.value < 32 || (127..<160).contains($0.value) ? "?" : Character($0)
            })
    }

    private func columns(_ rows: [[String]], toRight: Set<Int>) -> [String] {
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (column, text) in row.enumerated() {
                let pad = String(repeating: " ", count: widths[column] - text.count)
                line +=
                    (column == 0 ? "" : "  ") + (toRight.contains(column) ? pad + text : text + pad)
            }
            while line.last == " " { line.removeLast() }
            return line
        }
    }
}

extension InspectedPeer {
    var stateName: String {
        switch phase {
        case 1, 2: "joins"
        case 3: flags & 1 != 0 ? "heir" : "member"
        case 4: "severed"
        default: "dead"
        }
    }
}

// MARK: For programs

extension BusView {
    var json: String {
        JSON.object([
            (
                "broker",
                .object([
                    ("pid", .number(bus.brokerPID)), ("uid", .number(bus.brokerUID)),
                    ("version", .number(bus.version)), ("alone", .bool(bus.mode == 2)),
                    ("heirPID", bus.heirPID == 0 ? .null : .number(bus.heirPID)),
                    ("connections", .number(bus.connections)), ("deaths", .number(bus.deaths)),
                    ("aborts", .number(bus.aborts)),
                ])
            ),
            ("complete", .bool(bus.isWhole != 0)),
            ("peers", .array(peers.map(\.json))),
            ("users", .array(users.map(\.json))),
        ]).text
    }
}

extension BusView.PeerView {
    private static let rules = [1: "sameUser", 2: "users", 3: "anyone"]

    var json: JSON {
        .object([
            ("peer", .number(peer.peer)), ("pid", .number(peer.pid)), ("uid", .number(peer.uid)),
            ("command", command.map { .string($0) } ?? .null), ("state", .string(peer.stateName)),
            ("isolation", .string(peer.isolation == 2 ? "process" : "user")),
            ("domain", .number(peer.domain)), ("version", .number(peer.version)),
            ("lanes", .number(peer.lanes)), ("lookUps", .number(peer.lookUps)),
            ("tickets", .number(peer.tickets)), ("queued", .number(peer.queued)),
            ("standsBy", .bool(peer.flags & 3 != 0)),
            (
                "names",
                .array(
                    names.map {
                        .object([
                            ("name", .string($0.name)), ("node", .number($0.node)),
                            ("access", .string(Self.rules[Int($0.access)] ?? "?")),
                        ])
                    })
            ),
            (
                "rings",
                .array(
                    rings.map {
                        .object([
                            ("ring", .number($0.ring)), ("domain", .number($0.domain)),
                            ("slots", .number($0.slots)), ("slotBytes", .number($0.slotBytes)),
                            ("senders", .number($0.senders)), ("payer", .number($0.payer)),
                            ("acknowledged", .bool($0.isAcknowledged != 0)),
                        ])
                    })
            ),
            ("knows", .array(links.map { .number($0.peer) })),
            (
                "wasGiven",
                .array(
                    grants.map {
                        .object([
                            ("owner", .number($0.owner)), ("node", .number($0.node)),
                            ("grant", .number($0.number)),
                        ])
                    })
            ),
        ])
    }
}

extension InspectedUser {
    var json: JSON {
        let pair = { (used: UInt64, limit: UInt64) in
            JSON.object([("used", .number(used)), ("limit", .number(limit))])
        }
        return .object([
            ("uid", .number(uid)), ("peers", pair(UInt64(peers), UInt64(peersMax))),
            ("rings", pair(UInt64(rings), UInt64(ringsMax))),
            ("links", pair(UInt64(links), UInt64(linksMax))), ("bytes", pair(bytes, bytesMax)),
        ])
    }
}
