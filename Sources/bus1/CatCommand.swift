import ArgumentParser
import Bus1Shm
import Glibc

/// `bus1 cat`: a pipe between two shells.
struct CatCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cat",
        abstract: "A pipe between two shells: standard input here, standard output there.",
        discussion: """
            bus1 cat --listen NAME in one shell, bus1 cat NAME in another, in either order. The sender ends \
            well when all of its input has been written at the other end; who is left alone by the \
            other says so, and ends with status 1. A listener takes one sender, others are refused.
            """)

    @OptionGroup var options: BusOptions

    @Argument(help: "Under which the listener is published.")
    var name: String

    @Flag(help: "Write what comes to the standard output.")
    var listen = false

    @Option(help: "Seconds to wait for the name.")
    var wait = 60

    func validate() throws {
        guard (0...1_000_000).contains(wait) else {
            throw ValidationError("--wait is 0 to 1000000 seconds")
        }
    }

    func run() throws {
        // A reader that is gone is an error with a name.
        signal(SIGPIPE, SIG_IGN)
        try saying { if listen { try receive() } else { try send() } }
    }

    /// Each message begins with 8 bytes that say what it is; the rest of data is data.
    private enum Kind: UInt64 {
        /// Asked first, and answered: ``Answer``.
        case open = 1
        case data
        /// Asked last, and answered when everything is written.
        case end
    }

    private enum Answer: UInt64 {
        case yes = 1
        /// Somebody else is sending.
        case no
    }

    private static let headBytes = MemoryLayout<UInt64>.size
    private static let chunkBytes = 256 << 10
    /// Shorter ones are copied into the ring.
    private static let shortBytes = 96

    // MARK: Sending

    private func send() throws {
        let peer = try Peer(on: options.bus)
        let handle = try lookUp(name, on: peer, waiting: wait)
        var sent: UInt64 = 0
        let explain = { (error: Bus1Error) in ended(error, name, after: "\(sent) bytes") }
        let answer: UInt64
        do throws(Bus1Error) {
            answer = try peer.call(Kind.open.rawValue, on: handle, until: .after(.seconds(60)))
        } catch { throw explain(error) }
        guard Answer(rawValue: answer) == .yes else {
            throw ToolError("somebody else sends to \(name)")
        }
        // Made once something long is to be sent; filled again as long as only short ones were.
        var slice: Slice?
        while true {
            do throws(Bus1Error) {
                if slice == nil { slice = try loan(peer) }
            } catch { throw explain(error) }
            var chunk = slice.take()!
            let count = try read(into: &chunk)
            guard count > 0 else { break }
            do throws(Bus1Error) {
                if count <= Self.shortBytes {
                    try peer.send(
                        chunk.readableBytes.extracting(first: Self.headBytes + count), to: handle)
                    slice = consume chunk
                } else {
                    chunk.shorten(to: Self.headBytes + count)
                    try peer.send(chunk, to: handle)
                }
            } catch { throw explain(error) }
            sent += UInt64(count)
        }
        do throws(Bus1Error) {
            let _: UInt64 = try peer.call(Kind.end.rawValue, on: handle, until: .never)
        } catch { throw explain(error) }
    }

    /// Waits until the reader has given some back: that is the back-pressure.
    private func loan(_ peer: borrowing Peer) throws(Bus1Error) -> Slice {
        try peer.loan(Self.headBytes + Self.chunkBytes, until: .never)
    }

    /// What there is, behind the head. 0: the input has ended.
    private func read(into slice: inout Slice) throws -> Int {
        var bytes = slice.bytes
        return try bytes.withUnsafeMutableBytes { bytes in
            bytes.storeBytes(of: Kind.data.rawValue, as: UInt64.self)
            while true {
                let count = Glibc.read(
                    STDIN_FILENO, bytes.baseAddress! + Self.headBytes, Self.chunkBytes)
                if count >= 0 { return count }
                guard errno == EINTR else { throw ToolError("read the input", errno: errno) }
            }
        }
    }

    // MARK: Receiving

    private func receive() throws {
        let peer = try Peer(on: options.bus)
        let node = try peer.makeNode()
        try peer.publish(node, as: name)
        var isOpen = false
        var received: UInt64 = 0
        while let delivery = try next(of: peer) {
            switch delivery {
            case .notice(let notice):
                guard isOpen, case .noHandles = notice.kind else { continue }
                throw ToolError("the sender is gone, in the middle, after \(received) bytes")
            case .message(var message):
                switch kind(of: message) {
                case .open:
                    let answer = isOpen ? Answer.no : .yes
                    isOpen = true
                    // Who asked may be gone.
                    try? message.takeReply()?.send(answer.rawValue)
                case .data:
                    try write(message)
                    received += UInt64(message.byteCount - Self.headBytes)
                case .end:
                    try? message.takeReply()?.send(Answer.yes.rawValue)
                    return
                case nil: complain("somebody sent what is none of cat's")
                }
            }
        }
    }

    private func kind(of message: borrowing Message) -> Kind? {
        guard message.byteCount >= Self.headBytes else { return nil }
        return Kind(rawValue: message.payload.unsafeLoadUnaligned(as: UInt64.self))
    }

    private func write(_ message: borrowing Message) throws {
        try message.payload.withUnsafeBytes { bytes in
            var done = Self.headBytes
            while done < bytes.count {
                let count = Glibc.write(
                    STDOUT_FILENO, bytes.baseAddress! + done, bytes.count - done)
                if count > 0 { done += count }
                guard count >= 0 || errno == EINTR else {
                    throw ToolError("write the output", errno: errno)
                }
            }
        }
    }
}
