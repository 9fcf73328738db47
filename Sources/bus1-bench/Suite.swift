import Glibc

/// Comparisons one after the other, with the references that the ratios need.
struct Suite {
    let options: Comparison.Options
    let progress = Progress()
    let machine: Machine
    private(set) var results: [Result] = []

    init(_ options: Comparison.Options) throws {
        self.options = options
        machine = try Machine.here()
    }

    /// Measures a shape on the transports that can do it, next to the pipe and the yardsticks; prints
    /// the table and keeps the results. Says which transports can't.
    mutating func measure(_ shape: Shape, on names: [String], yardsticks: Bool = true) throws {
        var wanted: [any Transport] = []
        for name in names {
            let transport = try transport(named: name)
            if let obstacle = transport.obstacle {
                print("\(shape.title): \(name) is not available: \(obstacle)")
            } else if transport.variants(for: shape).isEmpty {
                print("\(shape.title): \(name) can't do that in mode \(shape.mode.rawValue)")
            } else {
                wanted.append(transport)
            }
        }
        guard !wanted.isEmpty else { return }
        var contenders = wanted.map { Contender(transport: $0, shape: shape) }
        var references: [any Transport] = [try transport(named: "pipe")]
        if yardsticks { references += transports.filter(\.isYardstick) }
        for reference in references where !wanted.contains(where: { $0.name == reference.name }) {
            // A shape that says how to wait is held against the pipe at its best all the same, but
            // for sleepers: there the pipe's readers sleep, too.
            var shape = shape
            if reference.name == "pipe" && shape.mode != .park { shape.mode = .best }
            if !reference.variants(for: shape).isEmpty {
                contenders.append(Contender(transport: reference, shape: shape))
            }
        }
        let comparison = try Comparison(contenders, options) { progress($0) }
        progress.clear()
        for reason in comparison.absent { print("\(shape.title): left out: \(reason)") }
        let fresh = comparison.records.indices.map { Result($0, of: comparison, machine: machine) }
        print(Report.table(fresh, shape))
        for record in comparison.records {
            let times = record.kept.compactMap(\.sinceExecUs)
            guard !times.isEmpty else { continue }
            let median = Statistics.median(times)
            print("  \(record.transport): from exec \(Report.number(median)) us")
        }
        print("")
        results += fresh
    }
}
