/// What the gate asks, as a number and its bound.
enum Bound: Sendable {
    case atMost(Double)
    case atLeast(Double)

    var text: String {
        switch self {
        case .atMost(let bound): "at most \(Report.number(bound))"
        case .atLeast(let bound): "at least \(Report.number(bound))"
        }
    }

    /// Whether the worse end of the interval lies within the bound.
    func holds(_ interval: ClosedRange<Double>) -> Bool {
        switch self {
        case .atMost(let bound): interval.upperBound <= bound
        case .atLeast(let bound): interval.lowerBound >= bound
        }
    }
}

/// What was found for one row.
enum Finding: Sendable {
    /// The values that count, out of so many tries.
    case values([Double], tries: Int, Placement?, note: String = "")
    /// A count that has no spread.
    case count(Double, note: String = "")
    case missing(String)
}

enum Verdict: Equatable, Sendable {
    case holds(String)
    case fallsShort(String)
    case notMeasured(String)

    var word: String {
        switch self {
        case .holds: "holds"
        case .fallsShort: "falls short"
        case .notMeasured: "not measured"
        }
    }

    var figure: String {
        switch self {
        case .holds(let figure), .fallsShort(let figure): figure
        case .notMeasured(let reason): "(\(reason))"
        }
    }
}

/// One row of what bus1 must show.
struct GateRow: Sendable {
    let title: String
    let bound: Bound
    let unit: String
    /// The target is stated for cores that are near each other.
    var nearOnly = false
    let find: @Sendable (GateBench) throws -> Finding

    init(
        _ title: String, _ bound: Bound, _ unit: String, nearOnly: Bool = false,
        _ find: @escaping @Sendable (GateBench) throws -> Finding
    ) {
        self.title = title
        self.bound = bound
        self.unit = unit
        self.nearOnly = nearOnly
        self.find = find
    }

    func judge(_ finding: Finding) -> Verdict {
        switch finding {
        case .missing(let reason): return .notMeasured(reason)
        case .count(let value, let note):
            let figure = "\(Report.number(value)) \(unit)" + (note.isEmpty ? "" : ", \(note)")
            return bound.holds(value...value) ? .holds(figure) : .fallsShort(figure)
        case .values(let values, let tries, let placement, let note):
            if nearOnly && placement == .far { return .notMeasured("far") }
            guard values.count * 2 >= tries, let interval = Statistics.medianInterval(values) else {
                return .notMeasured("\(tries - values.count) of \(tries) runs thrown away")
            }
            let figure =
                "\(Report.number(Statistics.median(values))) \(unit) "
                + "(\(Report.number(interval.lowerBound)) - \(Report.number(interval.upperBound)))"
                + (placement.map { ", \($0.rawValue)" } ?? "")
                + (note.isEmpty ? "" : ", \(note)")
            return bound.holds(interval) ? .holds(figure) : .fallsShort(figure)
        }
    }
}
