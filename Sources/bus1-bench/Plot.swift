import CBench
import Glibc

/// Plots through gnuplot: one picture with a panel for each kind of figure that was measured.
enum Plot {
    /// Writes bus1-bench.png and bus1-bench.svg into a directory, which is made when missing. Without
    /// gnuplot it says so and returns.
    static func write(_ results: [Result], into directory: String) throws {
        let panels = [roundTrips(results), messages(results), throughput(results)].compactMap { $0 }
        guard !panels.isEmpty else { return }
        guard mkdir(directory, 0o755) == 0 || errno == EEXIST else {
            throw BenchError("\(directory): \(String(cString: strerror(errno)))")
        }
        for (format, terminal) in [
            ("png", "pngcairo noenhanced font 'DejaVu Sans,10'"),
            ("svg", "svg noenhanced font 'DejaVu Sans,12' background '#ffffff'"),
        ] {
            let path = "\(directory)/bus1-bench.\(format)"
            let script =
                "set terminal \(terminal) size \(max(640, 520 * panels.count)),460\n"
                + "set output '\(path)'\n"
                + "set multiplot layout 1,\(panels.count) title '\(caption(results))'\n"
                + panels.joined() + "unset multiplot\n"
            guard try gnuplot(script) else {
                print("no plot: gnuplot is not installed (apt-get install gnuplot-nox)")
                return
            }
            print("plot: \(path)")
        }
    }

    private static func gnuplot(_ script: String) throws -> Bool {
        guard let pipe = popen("command -v gnuplot >/dev/null || exit 127; exec gnuplot", "w")
        else {
            throw BenchError("starting gnuplot: \(String(cString: strerror(errno)))")
        }
        fputs(script, pipe)
        let status = pclose(pipe) >> 8
        guard status == 0 || status == 127 else {
            throw BenchError("gnuplot ended with status \(status)")
        }
        return status == 0
    }

    private static func caption(_ results: [Result]) -> String {
        let machine = results[0].machine
        let placements = Set(results.map(\.placement.rawValue)).sorted().joined(separator: ", ")
        return quoted(
            "\(machine.cpu), \(machine.cores) cores, Linux \(machine.kernel), \(placements)")
    }

    private static func quoted(_ text: String) -> String {
        text.filter { $0 != "'" && $0 != "\"" && $0 != "\\" && $0 != "\n" }
    }

    /// The same transport has the same colour in every panel.
    private static func colour(_ transport: String) -> String {
        let known = [
            "bus1": "#d62728", "pipe": "#1f77b4", "stream": "#2ca02c", "seqpacket": "#9467bd",
            "mq": "#8c564b", "tcp": "#e377c2", "zeromq": "#bcbd22", "iceoryx": "#17becf",
            "nng": "#ff7f0e", "boost-spsc": "#5254a3",
        ]
        return known[transport] ?? "#9a9a9a"
    }

    private static func name(_ result: Result) -> String {
        var words = result.transport
        if result.mode != .best && result.mode != .spin { words += " " + result.mode.rawValue }
        return words
    }

    // MARK: panels

    /// A bar from nothing to the median, a line from p50 to p99.
    private static func roundTrips(_ results: [Result]) -> String? {
        let rows = results.filter {
            ($0.workload == .pingPong || $0.workload == .idlePeers) && $0.median != nil
        }
        guard !rows.isEmpty else { return nil }
        let payloads = Set(rows.map(\.payloadBytes)).count
        var script = """
            reset
            set title 'round trip, ns (bar: mean, line: p50 to p99; less is better)'
            set logscale y
            set yrange [50:*]
            set boxwidth 0.7
            set style fill solid
            set xtics rotate by -30 scale 0
            set grid ytics lc '#dddddd'
            unset key
            set xrange [-0.6:\(rows.count).0 - 0.4]

            """
        var ticks: [String] = []
        var data = "$trips << END\n"
        for (place, row) in rows.enumerated() {
            let label = name(row) + (payloads > 1 ? " \(ByteCount(row.payloadBytes))" : "")
            ticks.append("'\(quoted(label))' \(place)")
            let latency = row.latencyNs
            data +=
                "\(place) \(row.median!) \(latency?.p50 ?? row.median!) "
                + "\(latency?.p99 ?? row.median!) \(colour(row.transport).asColourNumber)\n"
        }
        script += "set xtics (\(ticks.joined(separator: ", ")))\n"
        script += data + "END\n"
        script += "plot $trips using 1:2:5 with boxes lc rgb variable, "
        script += "'' using 1:3:3:4 with yerrorbars lc '#202020' pt 7 ps 0.5, "
        script += "'' using 1:2:(sprintf('%.0f', $2)) with labels offset 0,0.7\n"
        return script
    }

    /// Messages a second, one group of bars for each shape.
    private static func messages(_ results: [Result]) -> String? {
        let rows = results.filter { $0.unit == "M/s" && $0.median != nil }
        guard !rows.isEmpty else { return nil }
        var shapes: [String] = []
        for row in rows where !shapes.contains(shape(row)) { shapes.append(shape(row)) }
        var script = """
            reset
            set title 'messages a second, millions (more is better)'
            set logscale y
            set boxwidth 0.8
            set style fill solid
            set grid ytics lc '#dddddd'
            set key top left

            """
        var place = 0.0
        var ticks: [String] = []
        var data: [String: String] = [:]
        var order: [String] = []
        for title in shapes {
            let group = rows.filter { shape($0) == title }
            ticks.append("'\(quoted(title))' \(place + Double(group.count - 1) / 2)")
            for row in group {
                if data[row.transport] == nil { order.append(row.transport) }
                data[row.transport, default: ""] += "\(place) \(row.median!)\n"
                place += 1
            }
            place += 1
        }
        let most = rows.compactMap(\.median).max()!
        let least = rows.compactMap(\.median).min()!
        script += "set xtics (\(ticks.joined(separator: ", "))) scale 0\n"
        script += "set xrange [-1:\(place - 1)]\n"
        script += "set yrange [\(least / 3):\(most * 8)]\n"
        var plots: [String] = []
        for (index, transport) in order.enumerated() {
            script += "$m\(index) << END\n\(data[transport]!)END\n"
            plots.append(
                "$m\(index) using 1:2 with boxes lc '\(colour(transport))' title '\(transport)', "
                    + "$m\(index) using 1:2:(sprintf('%.3g', $2)) with labels offset 0,0.7 notitle")
        }
        return script + "plot \(plots.joined(separator: ", "))\n"
    }

    private static func shape(_ row: Result) -> String {
        var words = row.workload.rawValue + " \(ByteCount(row.payloadBytes))"
        if row.batch > 1 { words += " by \(row.batch)" }
        if row.senders > 1 { words += " from \(row.senders)" }
        if row.receivers > 1 { words += " to \(row.receivers)" }
        return words
    }

    /// GB/s over the payload's size, a curve for each transport.
    private static func throughput(_ results: [Result]) -> String? {
        let rows = results.filter { $0.workload == .large && $0.median != nil }
        guard !rows.isEmpty else { return nil }
        var script = """
            reset
            set title 'large payloads, GB/s (more is better)'
            set logscale xy
            set logscale x 2
            set grid lc '#dddddd'
            set key top right
            set offsets graph 0, graph 0, graph 0.25, graph 0.05

            """
        var order: [String] = []
        for row in rows where !order.contains(name(row)) { order.append(name(row)) }
        let sizes = Set(rows.map(\.payloadBytes)).sorted()
        let ticks = sizes.map { "'\(ByteCount($0))' \($0)" }
        script += "set xtics (\(ticks.joined(separator: ", ")))\n"
        script += "set xrange [\(Double(sizes.first!) / 1.5):\(Double(sizes.last!) * 1.5)]\n"
        var plots: [String] = []
        for (index, title) in order.enumerated() {
            let curve = rows.filter { name($0) == title }.sorted {
                $0.payloadBytes < $1.payloadBytes
            }
            script += "$t\(index) << END\n"
            for row in curve { script += "\(row.payloadBytes) \(row.median!)\n" }
            script += "END\n"
            let dash = curve[0].yardstick ? "dt \(index + 1) lw 1.5" : "lw 2.5"
            plots.append(
                "$t\(index) using 1:2 with linespoints \(dash) pt 7 ps 0.6 "
                    + "lc '\(colour(curve[0].transport))' title '\(quoted(title))'")
        }
        return script + "plot \(plots.joined(separator: ", "))\n"
    }
}

extension String {
    /// A colour as the number that `lc rgb variable` wants.
    fileprivate var asColourNumber: String { "0x" + dropFirst() }
}
