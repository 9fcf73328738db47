import CBench
import FoundationEssentials
import Glibc

/// One line of the JSON report. A ratio is this figure divided by the other's, whatever is better.
struct Result: Codable, Sendable {
    var transport: String
    var variant: String
    var yardstick: Bool
    var workload: Shape.Workload
    var payloadBytes: Int
    var senders: Int
    var receivers: Int
    var mode: Shape.Mode
    var batch: Int
    var idlePeers: Int
    var intervalNs: Int
    var slotBytes: Int
    var metric: String
    var unit: String
    var median: Double?
    var min: Double?
    var max: Double?
    /// 95 % bootstrap interval of the median.
    var intervalLow: Double?
    var intervalHigh: Double?
    /// Runs that count.
    var runs: Int
    var messagesPerRun: Int
    var placement: Placement
    /// What ratio_to_yardstick divides by.
    var yardstickName: String?
    var ratioToYardstick: Double?
    var ratioToPipe: Double?
    var latencyNs: Latency?
    /// Every run, kept or thrown away with the reason.
    var allRuns: [Run]
    var machine: Machine

    init(_ place: Int, of comparison: Comparison, machine: Machine) {
        let record = comparison.records[place]
        let shape = record.shape
        transport = record.transport
        variant = record.variant
        yardstick = record.isYardstick
        workload = shape.workload
        payloadBytes = shape.payloadBytes
        senders = shape.senders
        receivers = shape.receivers
        mode = shape.mode
        batch = shape.batch
        idlePeers = shape.idlePeers
        intervalNs = shape.intervalNs
        slotBytes = shape.slotBytes
        metric = shape.metric.name
        unit = shape.metric.unit
        let figures = record.figures
        median = figures.isEmpty ? nil : Statistics.median(figures)
        min = figures.min()
        max = figures.max()
        let interval = Statistics.medianInterval(figures)
        intervalLow = interval?.lowerBound
        intervalHigh = interval?.upperBound
        runs = figures.count
        messagesPerRun = record.count
        // More than half thrown away: the place can't be told.
        let counts = runs * 2 >= record.runs.count
        placement = counts ? comparison.placement ?? .mixed : .mixed
        latencyNs = record.latency
        allRuns = record.runs
        self.machine = machine
        if let (name, ratios) = Self.yardstick(place, comparison), !ratios.isEmpty {
            yardstickName = name
            ratioToYardstick = Statistics.median(ratios)
        }
        if let pipe = comparison.place(of: "pipe") {
            let ratios = comparison.ratios(place, over: pipe)
            ratioToPipe = ratios.isEmpty ? nil : Statistics.median(ratios)
        }
    }

    /// A round trip between spinners is held against the raw cache line, one between sleepers against
    /// the raw futex, everything else against the yardstick that took part.
    private static func yardstick(_ place: Int, _ comparison: Comparison) -> (String, [Double])? {
        let record = comparison.records[place]
        if let futex = comparison.place(of: "futex"), record.shape.mode == .park {
            return ("futex", comparison.ratios(place, over: futex))
        }
        if record.shape.isRoundTrip { return ("cache line", comparison.ratiosToLine(place)) }
        for name in ["spsc", "handoff"] {
            if let other = comparison.place(of: name) {
                return (name, comparison.ratios(place, over: other))
            }
        }
        return nil
    }

    /// Writes the report as a whole or not at all.
    static func write(_ results: [Result], to path: String) throws {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        try writeFile([UInt8](try encoder.encode(results)) + [10], to: path)
    }
}

/// Replaces a file: a reader sees the old one or the new one.
func writeFile(_ bytes: [UInt8], to path: String) throws {
    let draft = path + ".\(getpid()).tmp"
    guard let file = fopen(draft, "wx") else {
        throw BenchError("\(path): \(String(cString: strerror(errno)))")
    }
    let written = fwrite(bytes, 1, bytes.count, file)
    guard fclose(file) == 0, written == bytes.count, rename(draft, path) == 0 else {
        let why = String(cString: strerror(errno))
        unlink(draft)
        throw BenchError("\(path): \(why)")
    }
}

/// Where it was measured.
struct Machine: Codable, Sendable {
    var cpu: String
    var cores: Int
    var memoryBytes: UInt64
    var kernel: String
    var clocksource: String
    var build: String

    static func here() throws -> Machine {
        var names = utsname()
        uname(&names)
        let kernel = withUnsafeBytes(of: names.release) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        #if DEBUG
            let build = "debug"
        #else
            let build = "release"
        #endif
        return Machine(
            cpu: field("model name", in: "/proc/cpuinfo") ?? "unknown",
            cores: try usableCores().count,
            memoryBytes: (field("MemTotal", in: "/proc/meminfo").flatMap {
                UInt64($0.prefix { $0.isNumber })
            } ?? 0) * 1024,
            kernel: kernel,
            clocksource: readFile(
                "/sys/devices/system/clocksource/clocksource0/current_clocksource")?
                .split(separator: "\n").first.map(String.init) ?? "unknown",
            build: build)
    }

    private static func field(_ name: String, in path: String) -> String? {
        for line in readFile(path)?.split(separator: "\n") ?? [] where line.hasPrefix(name) {
            guard let colon = line.firstIndex(of: ":") else { continue }
            return String(line[line.index(after: colon)...].drop { $0 == " " || $0 == "\t" })
        }
        return nil
    }
}

/// A small file of /proc or /sys.
func readFile(_ path: String) -> String? {
    guard let file = fopen(path, "re") else { return nil }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 4096)
    while case let count = fread(&block, 1, block.count, file), count > 0 {
        bytes += block[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
}
