import CShmRing

/// Point by role: how often a process was killed, or stopped, just there.
struct FaultTable {
    struct Cell {
        let point: UInt32
        let role: shmring_fault_role
        var hits = 0
        /// Orders that were taken back, since nobody arrived in time.
        var misses = 0
        /// The same since the latest hit.
        var missesInARow = 0
    }

    /// One for each role in which a point must be hit.
    private(set) var cells: [Cell] = []
    /// By point: of pairs of processes that both were hit before either ended.
    private(set) var inPairs: [UInt32: Int] = [:]
    private let hasPairs: Bool
    /// By point: of stops.
    private(set) var longest_ns: [UInt32: UInt64] = [:]

    /// All points that processes of these roles pass. Without a special build there are none.
    init(of roles: Set<UInt32>, pairs: Bool) {
        let points = (1..<max(1, shmring_fault_count())).map { ($0, shmring_fault_roles($0)) }
        self.init(points, of: roles, pairs: pairs)
    }

    /// Points with the roles in which each must be hit, as bits.
    init(_ points: [(UInt32, UInt32)], of roles: Set<UInt32>, pairs: Bool) {
        hasPairs = pairs
        for (point, passedBy) in points {
            for role in Self.allRoles
            where passedBy & role.rawValue != 0 && roles.contains(role.rawValue) {
                cells.append(Cell(point: point, role: role))
                if pairs { inPairs[point] = 0 }
            }
        }
    }

    private static let allRoles = [
        SHMRING_FAULT_SENDER, SHMRING_FAULT_RECEIVER, SHMRING_FAULT_BROKER, SHMRING_FAULT_HEIR,
    ]

    static func ms(_ ns: UInt64) -> String { "\(ns / 1_000_000).\(ns / 100_000 % 10)" }

    static func name(of point: UInt32) -> String { String(cString: shmring_fault_name(point)) }

    var hits: Int { cells.reduce(0) { $0 + $1.hits } + inPairs.values.reduce(0, +) }

    /// Never hit, alone or in a pair.
    func isZero(_ cell: Cell) -> Bool { cell.hits == 0 || inPairs[cell.point] == 0 }

    /// What was never hit, and should have been.
    var zeros: [String] {
        let alone = cells.filter { $0.hits == 0 }.map {
            "\(Self.name(of: $0.point)), as \(Self.word($0.role))"
        }
        let paired = inPairs.filter { $0.value == 0 }.keys.sorted().map {
            "\(Self.name(of: $0)), in a pair"
        }
        return alone + paired
    }

    /// The cell that has the least, counting what was tried in vain as a little; by chance among equals.
    func neediest(_ dice: inout SplitMix64, where isPossible: (Cell) -> Bool = { _ in true })
        -> Int?
    {
        let weighed = cells.indices.filter { isPossible(cells[$0]) }.map {
            (index: $0, weight: weight(cells[$0]))
        }
        guard let least = weighed.map(\.weight).min() else { return nil }
        let some = weighed.filter { $0.weight == least }
        return some[Int(dice.next() % UInt64(some.count))].index
    }

    private func weight(_ cell: Cell) -> Int {
        var hits = cell.hits
        // In pairs a point counts once, in whatever roles.
        if hasPairs, cell.hits > 0 { hits = min(hits, 2 * inPairs[cell.point]! + 1) }
        return hits * 2 + cell.misses / 2
    }

    /// Whether the next hit of this cell had better be one of a pair.
    func wantsPair(_ index: Int) -> Bool {
        guard hasPairs else { return false }
        return cells[index].hits > 2 * inPairs[cells[index].point]!
    }

    mutating func hit(_ index: Int, inPair: Bool) {
        cells[index].missesInARow = 0
        if inPair { inPairs[cells[index].point]! += 1 } else { cells[index].hits += 1 }
    }

    /// A hit to which only the end of another one, at a point of its own, could lead.
    mutating func hitAfterAnother(_ index: Int) {
        hit(index, inPair: false)
        hit(index, inPair: true)
    }

    /// Where this point is hit in this role, if it has a cell.
    func cell(of point: shmring_fault_point, _ role: shmring_fault_role) -> Int? {
        cells.firstIndex { $0.point == point.rawValue && $0.role == role }
    }

    mutating func missed(_ index: Int) {
        cells[index].misses += 1
        cells[index].missesInARow += 1
    }

    /// Only those are asked for that a run comes by at all.
    mutating func keep(_ isAskedFor: (Cell) -> Bool) {
        cells.removeAll { !isAskedFor($0) }
        let points = Set(cells.map(\.point))
        inPairs = inPairs.filter { points.contains($0.key) }
    }

    /// The longest that others waited while somebody stood still here.
    mutating func waited(_ index: Int, _ gap_ns: UInt64) {
        let point = cells[index].point
        longest_ns[point] = max(longest_ns[point] ?? 0, gap_ns)
    }

    static func word(_ role: shmring_fault_role) -> String {
        switch role {
        case SHMRING_FAULT_SENDER: "sender"
        case SHMRING_FAULT_RECEIVER: "receiver"
        case SHMRING_FAULT_HEIR: "heir"
        default: "broker"
        }
    }

    /// A line for each point, a column for each role; a dot where a role does not pass.
    var text: String {
        let roles = Self.allRoles.filter { role in cells.contains { $0.role == role } }
        let pad = { (text: String, width: Int) in
            String(repeating: " ", count: max(0, width - text.count)) + text
        }
        var lines = [
            "point" + String(repeating: " ", count: 29)
                + roles.map { pad(Self.word($0), 10) }.joined()
                + (hasPairs ? pad("in pairs", 10) : pad("longest ms", 12))
        ]
        var points: [UInt32] = []
        for cell in cells where points.last != cell.point { points.append(cell.point) }
        for point in points {
            let name = Self.name(of: point)
            var line = name + String(repeating: " ", count: max(0, 34 - name.count))
            for role in roles {
                let cell = cells.first { $0.point == point && $0.role == role }
                line += pad(cell.map { "\($0.hits)" } ?? ".", 10)
            }
            if hasPairs {
                line += pad("\(inPairs[point] ?? 0)", 10)
            } else if let gap = longest_ns[point] {
                line += pad(Self.ms(gap), 12)
            }
            lines.append(line)
        }
        return lines.joined(separator: "\n")
    }
}
