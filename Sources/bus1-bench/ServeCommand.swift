import ArgumentParser
import Bus1Shm
import Glibc

/// `bus1-bench serve`: a bus's broker in a process of its own.
struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Serve a bus alone, until SIGINT or SIGTERM.",
        discussion: """
            Without it the first peer's process serves. Peers that were introduced go on \
            talking when this one ends.
            """)

    @Option(help: "The broker's socket. Default: $BUS1_PATH, else the user's own bus.")
    var path = ""

    func run() throws {
        // Blocked before there is another thread, so that all inherit it and only sigwait gets them.
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGINT)
        sigaddset(&signals, SIGTERM)
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else {
            throw BenchError("making a pipe: \(String(cString: strerror(errno)))")
        }
        let writeEnd = ends[1]
        let bus = path.isEmpty ? Bus.default : Bus(path: path)
        let serving = Task.detached {
            do {
                try await bus.serve()
            } catch {
                let line = "bus1-bench: \(error)\n"
                _ = line.withCString { write(2, $0, strlen($0)) }
                Glibc.exit(1)
            }
            close(writeEnd)
        }
        var received: Int32 = 0
        sigwait(&signals, &received)
        serving.cancel()
        var byte: UInt8 = 0
        _ = read(ends[0], &byte, 1)
    }
}
