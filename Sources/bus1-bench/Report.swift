import FoundationEssentials
import Glibc

/// Tables for people.
enum Report {
    /// All results of one comparison under one heading.
    static func table(_ results: [Result], _ shape: Shape) -> String {
        guard let first = results.first else { return "" }
        let metric = shape.metric
        var header = ["", metric.name, "95 % interval"]
        if shape.isRoundTrip { header += ["p50", "p99", "p99.9", "max"] }
        header += ["x " + (first.yardstickName ?? "yardstick"), "vs pipe", ""]
        let rows = results.map { result -> [String] in
            var row = [
                result.transport, number(result.median) + " " + metric.unit,
                "\(number(result.intervalLow)) - \(number(result.intervalHigh))",
            ]
            if shape.isRoundTrip {
                row += [\Latency.p50, \.p99, \.p999, \.max].map {
                    duration(result.latencyNs?[keyPath: $0])
                }
            }
            row.append(number(result.ratioToYardstick))
            row.append(faster(result.ratioToPipe, metric))
            row.append(result.variant)
            return row
        }
        let kept = results.map(\.runs).min() ?? 0
        let placements = Set(results.map(\.placement.rawValue)).sorted().joined(separator: ", ")
        let title = "\(shape.title) - \(placements), \(kept) of \(first.allRuns.count) runs count"
        return title + "\n" + align([header] + rows)
    }

    /// How many times as fast as the pipe.
    private static func faster(_ ratio: Double?, _ metric: Metric) -> String {
        guard let ratio, ratio > 0 else { return "-" }
        return number(metric.lowerIsBetter ? 1 / ratio : ratio) + " x"
    }

    /// The first and the last column to the left, figures to the right; or as `left` says.
    static func align(_ rows: [[String]], left: Set<Int>? = nil) -> String {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in
            rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0
        }
        return rows.map { row in
            var line = " "
            for (column, text) in row.enumerated() {
                let pad = String(repeating: " ", count: widths[column] - text.count)
                let left = left?.contains(column) ?? (column == 0 || column == columns - 1)
                line += " " + (left ? text + pad : pad + text) + " "
            }
            while line.last == " " { line.removeLast() }
            return line
        }.joined(separator: "\n")
    }

    /// Three significant digits.
    static func number(_ value: Double?) -> String {
        guard let value, value.isFinite else { return "-" }
        let size = abs(value)
        let decimals = size >= 99.95 || size == 0 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : 3
        return fixed(value, decimals)
    }

    /// Nanoseconds in the unit that fits.
    static func duration(_ ns: Double?) -> String {
        guard let ns, ns.isFinite else { return "-" }
        switch ns {
        case ..<10_000: return "\(number(ns)) ns"
        case ..<10_000_000: return "\(number(ns / 1e3)) us"
        default: return "\(number(ns / 1e6)) ms"
        }
    }

    static func fixed(_ value: Double, _ decimals: Int) -> String {
        var scale = 1.0
        for _ in 0..<decimals { scale *= 10 }
        let scaled = (value * scale).rounded()
        guard abs(scaled) < 9e15 else { return "\(value)" }
        let digits = String(Int(abs(scaled)))
        let sign = scaled < 0 ? "-" : ""
        guard decimals > 0 else { return sign + digits }
        let padded = String(repeating: "0", count: max(0, decimals + 1 - digits.count)) + digits
        return sign + padded.dropLast(decimals) + "." + padded.suffix(decimals)
    }
}

/// One line on a terminal that says what happens now; nothing when piped.
struct Progress {
    private let shown = isatty(STDERR_FILENO) == 1

    func callAsFunction(_ text: String) {
        guard shown else { return }
        printError("\r\u{1b}[K" + text.prefix(78))
    }

    func clear() {
        guard shown else { return }
        printError("\r\u{1b}[K")
    }
}

/// Text to standard error, as it is.
func printError(_ text: String) {
    var text = text
    text.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
