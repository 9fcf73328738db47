import Histogram

/// Round trips timed singly, in nanoseconds.
struct Latency: Codable, Hashable, Sendable {
    var mean = 0.0
    var min = 0.0
    var p50 = 0.0
    var p90 = 0.0
    var p99 = 0.0
    var p999 = 0.0
    var p9999 = 0.0
    var max = 0.0

    enum CodingKeys: String, CodingKey {
        case mean, min, p50, p90, p99
        case p999 = "p99_9"
        case p9999 = "p99_99"
        case max
    }

    static let places: [(String, any WritableKeyPath<Latency, Double> & Sendable)] = [
        ("mean", \.mean), ("min", \.min), ("p50", \.p50), ("p90", \.p90), ("p99", \.p99),
        ("p99.9", \.p999),
        ("p99.99", \.p9999), ("max", \.max),
    ]

    init() {}

    /// Made from raw ticks after the run, so that no histogram disturbs it.
    init(ticks: UnsafeBufferPointer<UInt64>, ticksPerNs: Double) {
        var histogram = Histogram<UInt32>(
            highestTrackableValue: 60_000_000_000, numberOfSignificantValueDigits: .three)
        for sample in ticks { histogram.record(UInt64((Double(sample) / ticksPerNs).rounded())) }
        mean = ticks.reduce(0) { $0 + Double($1) } / ticksPerNs / Double(Swift.max(1, ticks.count))
        min = Double(histogram.min)
        p50 = Double(histogram.valueAtPercentile(50))
        p90 = Double(histogram.valueAtPercentile(90))
        p99 = Double(histogram.valueAtPercentile(99))
        p999 = Double(histogram.valueAtPercentile(99.9))
        p9999 = Double(histogram.valueAtPercentile(99.99))
        max = Double(histogram.max)
    }

    /// The median of each place over several runs.
    static func median(of runs: [Latency]) -> Latency? {
        guard !runs.isEmpty else { return nil }
        var result = Latency()
        for (_, place) in places {
            result[keyPath: place] = Statistics.median(runs.map { $0[keyPath: place] })
        }
        return result
    }
}
