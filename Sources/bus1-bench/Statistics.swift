/// The statistics of all figures. Pure functions; the random ones are seeded.
enum Statistics {
    /// The middle value; the mean of the middle two. NaN when there is none.
    static func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        guard !sorted.isEmpty else { return .nan }
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }

    /// a[i] / b[i] for the pairs that were measured next to each other.
    static func ratios(_ a: [Double], _ b: [Double]) -> [Double] {
        zip(a, b).map { $0 / $1 }
    }

    /// The interval that holds the median of `values` with the given probability, by the percentile
    /// bootstrap: medians of `rounds` samples drawn with replacement.
    static func medianInterval(
        _ values: [Double], confidence: Double = 0.95, rounds: Int = 2000, seed: UInt64 = 1
    ) -> ClosedRange<Double>? {
        guard !values.isEmpty else { return nil }
        var generator = SplitMix64(state: seed)
        var medians: [Double] = []
        medians.reserveCapacity(rounds)
        var sample = values
        for _ in 0..<rounds {
            for place in sample.indices { sample[place] = values.randomElement(using: &generator)! }
            medians.append(median(sample))
        }
        medians.sort()
        let tail = (1 - confidence) / 2
        let low = Int(tail * Double(rounds))
        return medians[low]...medians[rounds - 1 - low]
    }
}

/// A small generator with a seed, so that a report can be made again.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
