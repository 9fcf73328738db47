/// How far apart the two cores sit, as the yardstick says. It moves under a virtual machine.
enum Placement: String, Codable, Sendable {
    case near, far, mixed
    /// Neither: disturbed, or a machine of another kind.
    case unknown
    /// One core only: there is nothing between the two.
    case single

    static let nearNs = 70.0...160.0
    static let farNs = 400.0...650.0

    init(canaryNs: Double?) {
        switch canaryNs {
        case nil: self = .single
        case .some(let ns) where Self.nearNs.contains(ns): self = .near
        case .some(let ns) where Self.farNs.contains(ns): self = .far
        default: self = .unknown
        }
    }
}

/// One run of a case with the yardstick before and after it.
struct Run: Codable, Sendable {
    var figure: Double
    var canaryBeforeNs: Double?
    var canaryAfterNs: Double?
    var placement: Placement
    var kept: Bool
    /// Why it was thrown away.
    var reason: String?
    var latency: Latency?
    var pageFaults: UInt64
    /// How often something else took a worker's core: no reason to throw away, but to look closer.
    var preemptions: UInt64
    /// A first message: the time from before the process was started.
    var sinceExecUs: Double?

    init(
        figure: Double, before: Double?, after: Double?, latency: Latency? = nil,
        pageFaults: UInt64 = 0, preemptions: UInt64 = 0
    ) {
        self.figure = figure
        canaryBeforeNs = before
        canaryAfterNs = after
        self.latency = latency
        self.pageFaults = pageFaults
        self.preemptions = preemptions
        let first = Placement(canaryNs: before)
        let second = Placement(canaryNs: after)
        if first != second {
            placement = .mixed
            kept = false
            reason = "the canaries disagree: \(first.rawValue) before, \(second.rawValue) after"
        } else if first == .unknown {
            placement = .unknown
            kept = false
            reason = "the canaries are neither near nor far"
        } else {
            placement = first
            kept = true
        }
    }

    /// The yardstick around this run, in ns.
    var canaryNs: Double? {
        guard let canaryBeforeNs, let canaryAfterNs else { return nil }
        return (canaryBeforeNs + canaryAfterNs) / 2
    }

    /// Throws away what was not measured where most was: near and far are never mixed. Returns the
    /// placement that is left, nil when nothing is.
    static func settle(_ runs: inout [[Run]]) -> Placement? {
        var votes: [Placement: Int] = [:]
        for run in runs.joined() where run.kept { votes[run.placement, default: 0] += 1 }
        // Near wins a tie: most targets are stated for it.
        let order: [Placement] = [.near, .far, .single]
        guard
            let chosen = order.filter({ votes[$0] != nil }).max(by: {
                votes[$0]! < votes[$1]! || votes[$0]! == votes[$1]! && $1 == .near
            })
        else { return nil }
        for place in runs.indices {
            for turn in runs[place].indices
            where runs[place][turn].kept && runs[place][turn].placement != chosen {
                runs[place][turn].kept = false
                runs[place][turn].reason =
                    "\(runs[place][turn].placement.rawValue), while most runs were \(chosen.rawValue)"
            }
        }
        return chosen
    }
}
