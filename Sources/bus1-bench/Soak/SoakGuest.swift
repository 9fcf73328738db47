import ArgumentParser
import Bus1Shm
import CBench
import Glibc

/// A process of `bus1-bench soak` besides those whose histories are judged.
struct SoakGuest: ParsableCommand {
    enum Role: String, ExpressibleByArgument {
        /// Serves the bus, all the time.
        case broker
        /// Answers visitors, all the time.
        case resident
        /// Joins, asks the resident something, leaves; again and again.
        case visitor
    }

    static let configuration = CommandConfiguration(
        commandName: "soak-guest", abstract: "One of the processes of a soak.", shouldDisplay: false
    )

    /// Of a visitor that was answered wrongly.
    static let wrongAnswer: Int32 = 3
    private static let name = "resident"

    @Option var role: Role
    @Option var parent: Int32
    @Option var bus: String
    @Option var seed: UInt64

    func run() throws {
        guard bench_worker_settle(parent) == 0 else { throw ExitCode(70) }
        do {
            switch role {
            case .broker: serve()
            case .resident: try answer()
            case .visitor: try visit()
            }
        } catch {
            printError("bus1-bench soak, \(role): \(error)\n")
            throw ExitCode(1)
        }
    }

    // MARK: Broker

    private func serve() {
        let bus = Bus(path: bus)
        Task.detached {
            do { try await bus.serve() } catch {
                printError("bus1-bench soak, broker: \(error)\n")
                Glibc.exit(1)
            }
        }
        // Until the coordinator closes its end.
        _ = bench_control_wait(BENCH_CONTROL_FD, -1)
        Glibc.exit(0)
    }

    // MARK: Resident

    private func answer() throws {
        let peer = try Peer(on: Bus(path: bus))
        let node = try peer.makeNode()
        try peer.publish(node, as: Self.name, to: .anyone)
        let long = [UInt64](repeating: 0, count: 8192)
        while bench_control_wait(BENCH_CONTROL_FD, 0) == 0 {
            for _ in 0..<100 {
                do {
                    guard
                        case .message(let message) = try peer.receive(
                            until: .after(.milliseconds(20)))
                    else { continue }
                    try answer(message, by: peer, long)
                } catch let error as Bus1Error {
                    switch error.code {
                    // Nobody came; or who asked is gone, or full, or was cut off.
                    case .timedOut, .nodeReleased, .overQuota, .severed, .noSuchHandle: continue
                    default: throw error
                    }
                }
            }
        }
    }

    private func answer(
        _ question: consuming Message, by peer: borrowing Peer, _ long: [UInt64]
    ) throws {
        guard question.byteCount >= 8 else { return }
        let word = question.payload.unsafeLoadUnaligned(as: UInt64.self)
        if question.wantsReply, let reply = question.takeReply() {
            return try reply.send(word, until: .after(.milliseconds(20)))
        }
        guard question.handleCount > 0, let back = question.takeHandle() else { return }
        let soon = Deadline.after(.milliseconds(20))
        if word % 3 == 0 {
            var all = long
            all[0] = word
            try peer.send(all.span.bytes, to: back, until: soon)
        } else {
            try peer.send(word, to: back, until: soon)
        }
    }

    // MARK: Visitor

    private func visit() throws {
        var dice = SplitMix64(state: seed)
        while bench_control_wait(BENCH_CONTROL_FD, 0) == 0 {
            let peer: Peer
            do { peer = try Peer(on: Bus(path: bus)) } catch { continue }
            do { try ask(by: peer, &dice) } catch let error as Bus1Error {
                switch error.code {
                case .timedOut, .nodeReleased, .overQuota, .severed: break
                default: throw error
                }
            }
            // Now and then it just goes.
            if dice.next() % 8 == 0 { Glibc._exit(0) }
            peer.close()
        }
    }

    private func ask(by peer: borrowing Peer, _ dice: inout SplitMix64) throws {
        let resident = try peer.lookUp(Self.name, until: .after(.seconds(5)))
        let node = try peer.makeNode()
        for _ in 0..<1 + dice.next() % 20 {
            let word = dice.next()
            let own = try peer.makeHandle(to: node)
            var question = [word]
            // Some questions need a slice.
            if dice.next() % 4 == 0 { question += [UInt64](repeating: 0, count: 2000) }
            try peer.send(
                question.span.bytes, to: resident, passing: [own.id], until: .after(.seconds(1)))
            let until = Deadline.after(.seconds(1))
            while case .message(let answer) = try peer.receive(until: until) {
                guard answer.payload.unsafeLoadUnaligned(as: UInt64.self) == word else {
                    Glibc._exit(Self.wrongAnswer)
                }
                break
            }
        }
    }
}
