import ArgumentParser
import CBench
import Glibc

/// How long and how often: shared by the commands that measure.
struct MeasuringOptions: ParsableArguments {
    @Option(help: "Rounds of each interleaved comparison, 1 to 1000.")
    var runs = 11

    @Option(help: "Milliseconds of each run, 1 to 10000.")
    var runMs = 30.0

    @Option(help: "Write all results to this file as JSON.", completion: .file())
    var json: String?

    @Option(help: "Write plots (PNG and SVG) into this directory.", completion: .directory)
    var plot: String?

    func validate() throws {
        try inRange("--runs", runs, 1...1000)
        try inRange("--run-ms", runMs, 1...10000)
    }

    var comparison: Comparison.Options {
        var options = Comparison.Options()
        options.rounds = runs
        options.runMs = runMs
        return options
    }
}

func inRange<T: Comparable>(_ name: String, _ value: T, _ range: ClosedRange<T>) throws {
    guard range.contains(value) else {
        throw ValidationError("\(name) is \(value); it must lie in \(range)")
    }
}

/// `bus1-bench run`: one workload on the transports asked for.
struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Measure one workload on the transports you name.",
        discussion: """
            Ratios are medians over pairs measured next to each other. The raw cache-line round trip \
            runs before and after each run; runs where the two disagree are thrown away.
            """)

    @Option(help: "Transports, separated by commas; see `bus1-bench list`.")
    var transport = "bus1,pipe"

    @Option(help: "ping-pong, stream, large, multicast, many-senders, idle-peers, first-message.")
    var workload = Shape.Workload.pingPong

    @Option(help: "Bytes of a payload (8 to 256MiB, a multiple of 8); several separated by commas.")
    var payload = "64"

    @Option(help: "Sending processes, 1 to 16.")
    var senders = 1

    @Option(help: "Receiving processes, 1 to 16.")
    var receivers = 1

    @Option(help: "How receivers wait: best, spin, park, adaptive, eventfd.")
    var mode = Shape.Mode.best

    @Option(help: "Messages handed over at once, 1 to 4096.")
    var batch = 1

    @Option(help: "Slots of a ring or hand-off, a power of two; 0: the default.")
    var slots = 0

    @Option(help: "Bytes of a slot of the plain ring: 64 or 128.")
    var slotBytes = 64

    @Option(help: "Peers that stay idle, 0 to 1000.")
    var idlePeers = 0

    @Option(help: "Nanoseconds between intended starts of a paced ping-pong, 0 to 10^9.")
    var intervalNs = 0

    @Flag(inversion: .prefixedNo, help: "Measure the yardsticks of the workload, too.")
    var yardsticks = true

    @OptionGroup var measuring: MeasuringOptions

    func validate() throws {
        try inRange("--senders", senders, 1...16)
        try inRange("--receivers", receivers, 1...16)
        try inRange("--batch", batch, 1...4096)
        try inRange("--idle-peers", idlePeers, 0...1000)
        try inRange("--interval-ns", intervalNs, 0...1_000_000_000)
        guard slots == 0 || slots >= 2 && slots <= 1 << 20 && slots & (slots - 1) == 0 else {
            throw ValidationError("--slots is \(slots); it must be a power of two up to 1048576")
        }
        guard slotBytes == 64 || slotBytes == 128 else {
            throw ValidationError("--slot-bytes is \(slotBytes); it must be 64 or 128")
        }
        _ = try payloads()
        if senders > 1 && workload != .manySenders {
            throw ValidationError("--senders is for the workload many-senders")
        }
        if receivers > 1 && workload != .multicast {
            throw ValidationError("--receivers is for the workload multicast")
        }
    }

    private func payloads() throws -> [Int] {
        try payload.split(separator: ",").map { text in
            guard let bytes = ByteCount.parse(String(text)) else {
                throw ValidationError("--payload: \(text) is not a number of bytes")
            }
            guard bytes >= 8, bytes <= 256 << 20, bytes % 8 == 0 else {
                throw ValidationError(
                    "--payload is \(bytes); it must be a multiple of 8 from 8 to 256 MiB")
            }
            return bytes
        }
    }

    func run() throws {
        try catching {
            var suite = try Suite(measuring.comparison)
            for bytes in try payloads() {
                let shape = Shape(
                    workload: workload, payloadBytes: bytes, senders: senders, receivers: receivers,
                    mode: mode, batch: batch, slots: slots, slotBytes: slotBytes,
                    idlePeers: idlePeers, intervalNs: intervalNs)
                try suite.measure(
                    shape, on: transport.split(separator: ",").map(String.init),
                    yardsticks: yardsticks)
            }
            try suite.finish(measuring)
        }
    }
}

extension Shape.Workload: ExpressibleByArgument {}
extension Shape.Mode: ExpressibleByArgument {}

extension Suite {
    /// Writes what was asked for.
    func finish(_ measuring: MeasuringOptions) throws {
        if let path = measuring.json {
            try Result.write(results, to: path)
            print("results: \(path)")
        }
        if let directory = measuring.plot { try Plot.write(results, into: directory) }
    }
}

/// Runs a command's work; Ctrl-C and failures become exit codes, and no worker stays behind.
func catching(_ body: () throws -> Void) throws {
    bench_interrupt_catch()
    bench_clock_begin()
    bench_output_by_lines()
    do {
        try body()
    } catch is Interrupted {
        Progress().clear()
        printError("interrupted\n")
        throw ExitCode(130)
    } catch let error as BenchError {
        Progress().clear()
        printError("bus1-bench: \(error)\n")
        throw ExitCode(1)
    }
}
