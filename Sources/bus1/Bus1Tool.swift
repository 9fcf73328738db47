import ArgumentParser
import Bus1Judge
import Bus1Shm
import Glibc

@main
struct Bus1Tool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bus1",
        abstract: "Serves a bus, looks at it, and talks over it.",
        discussion: """
            Exit status: 0 done; 1 it failed, and one line on the standard error says what was \
            tried and why not; 2 a file cannot be read or is no trace; 3 nothing came before the deadline; 64 the command line is wrong.

            bus1 --generate-completion-script bash (or zsh, or fish) prints completions for a shell.
            """,
        subcommands: [
            ServeCommand.self, ListCommand.self, PingCommand.self, CatCommand.self,
            CheckCommand.self,
        ])
}

/// Which bus.
struct BusOptions: ParsableArguments {
    @Option(
        name: .customLong("bus"),
        help: ArgumentHelp(
            "The broker's socket. Default: $BUS1_PATH, else the user's own bus.",
            valueName: "path"))
    var path = ""

    var bus: Bus { Bus(path: path) }
}

/// A sentence for who sits before the screen.
struct ToolError: Error {
    let text: String
    var status: Int32 = 1

    init(_ text: String, status: Int32 = 1) {
        self.text = text
        self.status = status
    }

    init(_ operation: String, errno code: Int32) {
        self.init("\(operation): \(String(cString: strerror(code)))")
    }
}

/// Runs a command's body, and ends it as the help says: one line and a status.
func saying<Value>(_ body: () throws -> Value) throws -> Value {
    do {
        return try body()
    } catch let error as Bus1Error {
        complain("\(error)")
        throw ExitCode(error.code == .timedOut ? 3 : 1)
    } catch let error as JudgeError {
        complain(error.description)
        throw ExitCode(2)
    } catch let error as ToolError {
        complain(error.text)
        throw ExitCode(error.status)
    }
}

/// One line on the standard error, whole also beside those of others.
func complain(_ text: String) {
    let line = "bus1: \(text)\n"
    _ = line.withCString { write(STDERR_FILENO, $0, strlen($0)) }
}
