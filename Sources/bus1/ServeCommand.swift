import ArgumentParser
import Bus1Shm
import Glibc

/// `bus1 serve`: a bus's broker in a process of its own.
struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Serve a bus alone, until SIGINT or SIGTERM.",
        discussion: """
            Without it the first peer's process serves. When this one ends, a peer's process of \
            this user goes on in its place, if there is one; else the bus's files are removed, and \
            peers that were introduced go on talking.

            A service manager is told when others can connect (NOTIFY_SOCKET), and may hand in the \
            listening socket (LISTEN_FDS), whose path is then the bus's. It goes on listening, and \
            another bus1 serve stands by while a peer's process serves in the place of a \
            former one.
            """)

    @OptionGroup var options: BusOptions

    func run() throws {
        // Blocked before there is another thread, so that all inherit it and only sigwait gets them.
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGINT)
        sigaddset(&signals, SIGTERM)
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else {
            return try saying { throw ToolError("make a pipe", errno: errno) }
        }
        let ended = ends[1]
        let given = try saying { try ServiceManager.takeSocket() }
        let bus =
            options.path.isEmpty ? given.map { Bus(path: $0.path) } ?? options.bus : options.bus
        let serving = Task.detached {
            do throws(Bus1Error) {
                try await bus.serve(on: given?.descriptor) { ServiceManager.tell("READY=1") }
            } catch {
                complain("\(error)")
                Glibc.exit(1)
            }
            close(ended)
        }
        var received: Int32 = 0
        sigwait(&signals, &received)
        ServiceManager.tell("STOPPING=1")
        serving.cancel()
        var byte: UInt8 = 0
        _ = read(ends[0], &byte, 1)
    }
}
