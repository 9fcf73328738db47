import CBus1System
import CShmRing
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

@Suite(.serialized, .timeLimit(.minutes(2)))
struct RendezvousTests {
    @Test func fiftyUnrelatedProcessesStartedAtOnceFindOneBroker() throws {
        try withBus { bus in
            let remotes = try (0..<50).map { _ in try RemotePeer() }
            for remote in remotes { remote.begin("open \(bus.path)") }
            var brokers: Set<Substring> = []
            var ids: Set<Substring> = []
            for remote in remotes {
                let words = try #require(remote.answer()).split(separator: " ")
                try #require(words.count == 4 && words[0] == "ok", "\(words)")
                ids.insert(words[1])
                brokers.insert(words[2])
            }
            #expect(brokers.count == 1)
            #expect(ids.count == 50)
            // They are strangers to each other, and can meet all the same.
            #expect(remotes[0].ask("publish meeting anyone") == "ok ")
            for remote in remotes.dropFirst() { remote.begin("lookup meeting 20000") }
            for remote in remotes.dropFirst() { #expect(remote.answer()?.hasPrefix("ok ") == true) }
        }
    }

    @Test(arguments: ["", "BUS1_NO_URING=1"])
    func aKilledBrokersSocketIsReplacedByTheNextStarter(variable: String) throws {
        try withBus { bus in
            let first = try RemotePeer(environment: variable.isEmpty ? [] : [variable])
            #expect(first.ask("open \(bus.path)")?.contains(" \(first.pid) ") == true)
            let loop = first.ask("loop")
            if variable.isEmpty {
                #expect(loop == "ok io_uring" || loop == "ok epoll")
            } else {
                #expect(loop == "ok epoll")
            }
            let other = try RemotePeer()
            #expect(other.ask("open \(bus.path)")?.contains(" \(first.pid) ") == true)
            first.kill()
            #expect(
                entries(of: String(bus.path.dropLast(4))).contains("bus"),
                "a killed one removes nothing")
            let second = try RemotePeer()
            #expect(second.ask("open \(bus.path)")?.contains(" \(second.pid) ") == true)
            // Who had been connected to the dead one says so.
            #expect(
                other.ask("publish x anyone")?.hasPrefix("error publish a node: severed") == true)
            second.end()
            #expect(
                entries(of: String(bus.path.dropLast(4))).isEmpty, "an orderly exit removes them")
        }
    }

    @Test func theBrokersProcessMayLeaveLastOrFirst() throws {
        try withBus { bus in
            let broker = try RemotePeer()
            let other = try RemotePeer()
            #expect(broker.ask("open \(bus.path)") != nil)
            #expect(other.ask("open \(bus.path)") != nil)
            #expect(broker.ask("close") == "ok ")
            // It goes on serving others, without a peer of its own.
            #expect(other.ask("publish x anyone") == "ok ")
            #expect(other.ask("close") == "ok ")
            #expect(eventually { entries(of: String(bus.path.dropLast(4))).isEmpty })
            #expect(broker.ask("open \(bus.path)")?.contains(" \(broker.pid) ") == true)
            broker.end()
        }
    }

    @Test func aBrokerAloneServesUntilItIsCancelled() async throws {
        var template = Array("/tmp/bus1-test-XXXXXX".utf8CString)
        let directory = try #require(mkdtemp(&template).map { String(cString: $0) })
        defer { removeAll(directory) }
        let bus = Bus(path: directory + "/bus")
        let service = Task { () -> Bus1Error? in
            do throws(Bus1Error) {
                try await bus.serve()
                return nil
            } catch {
                return error
            }
        }
        #expect(eventually { entries(of: directory).contains("bus") })
        try TestPeer(bus).connection.goodbye()
        // It stays when the last peer has gone, and is the only one.
        try TestPeer(bus).connection.goodbye()
        let second = await #expect(throws: Bus1Error.self) { try await bus.serve() }
        #expect(second?.errno == EADDRINUSE)
        service.cancel()
        #expect(await service.value == nil)
        #expect(entries(of: directory).isEmpty)
    }

    @Test func aForkDoesNotKeepADeadBrokersLock() throws {
        try withBus { bus in
            let broker = try RemotePeer()
            #expect(broker.ask("open \(bus.path)") != nil)
            let child = try #require(
                broker.ask("fork")?.split(separator: " ").last.flatMap { Int32($0) })
            defer { Glibc.kill(child, SIGKILL) }
            broker.kill()
            let next = try RemotePeer()
            #expect(next.ask("open \(bus.path)")?.contains(" \(next.pid) ") == true)
        }
    }

    @Test func aDirectoryOfOthersIsRefused() throws {
        try withBus { bus in
            let directory = String(bus.path.dropLast(4))
            let private_ = directory + "/private"
            defer { rmdir(private_) }
            var descriptor: Int32 = -1
            #expect(bus1_sys_directory_open(private_, true, geteuid(), &descriptor) == 0)
            close(descriptor)
            chmod(private_, 0o750)
            #expect(bus1_sys_directory_open(private_, true, geteuid(), &descriptor) == -EPERM)
            chmod(private_, 0o700)
            #expect(bus1_sys_directory_open(private_, true, geteuid() + 1, &descriptor) == -EPERM)
            symlink(private_, directory + "/link")
            let result = bus1_sys_directory_open(directory + "/link", true, geteuid(), &descriptor)
            #expect(result == -ELOOP || result == -ENOTDIR)
            // A named one may be shared, but not one where all may replace the socket.
            chmod(directory, 0o777)
            let error = #expect(throws: Bus1Error.self) { try TestPeer(bus) }
            #expect(error?.code == .denied)
            chmod(directory, 0o1777)
            #expect(throws: Never.self) { try TestPeer(bus).connection.goodbye() }
            #expect(eventually { !entries(of: directory).contains("bus") })
        }
    }

    @Test func aLongPathWorksAndALongNameIsRefused() throws {
        try withBus { bus in
            let directory = String(bus.path.dropLast(4))
            let long = directory + "/" + String(repeating: "d", count: 200)
            mkdir(long, 0o700)
            defer { removeAll(long) }
            let peer = try TestPeer(Bus(path: long + "/bus"))
            try peer.connection.goodbye()
            #expect(eventually { entries(of: long).isEmpty })
            let error = #expect(throws: Bus1Error.self) {
                try TestPeer(Bus(path: directory + "/" + String(repeating: "n", count: 150)))
            }
            #expect(error?.errno == ENAMETOOLONG)
        }
    }

    @Test func aStoppedBrokerIsATimeoutNotAHang() throws {
        try withBus { bus in
            let broker = try RemotePeer()
            #expect(broker.ask("open \(bus.path)") != nil)
            Glibc.kill(broker.pid, SIGSTOP)
            var status: Int32 = 0
            #expect(
                waitpid(broker.pid, &status, WUNTRACED) == broker.pid,
                "all of its threads have stopped")
            let error = #expect(throws: Bus1Error.self) {
                try TestPeer(bus, until: .after(.milliseconds(100)))
            }
            #expect(error?.code == .timedOut)
            Glibc.kill(broker.pid, SIGCONT)
            #expect(throws: Never.self) { try TestPeer(bus) }
        }
    }

    @Test(.enabled(if: getuid() == 0, "only root can become somebody else"))
    func theAccessRuleIsCheckedAgainstWhatTheKernelVouches() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            try owner.connection.publish("own", node: 1, access: .sameUser)
            try owner.connection.publish("listed", node: 2, access: .users([7, 61001]))
            try owner.connection.publish("unlisted", node: 2, access: .users([7]))
            try owner.connection.publish("all", node: 3, access: .anyone)
            let stranger = try RemotePeer()
            #expect(stranger.ask("setuid 61001") == "ok ")
            #expect(stranger.ask("open \(bus.path)")?.hasSuffix(" 61001") == true)
            #expect(
                stranger.ask("lookup own 20000")?.hasPrefix("error look a name up: denied") == true)
            #expect(
                stranger.ask("lookup unlisted 20000")?.hasPrefix("error look a name up: denied")
                    == true)
            stranger.begin("lookup listed 20000")
            // Another user is another trust domain: its ring is the owner's second.
            while true {
                guard case .ringAdded(let offer) = try owner.event() else { continue }
                if offer.mustAcknowledge {
                    try owner.connection.acknowledge(offer.ring)
                    break
                }
            }
            #expect(stranger.answer()?.hasPrefix("ok \(owner.id.rawValue) ") == true)
            let introduction = try owner.introduction()
            #expect(introduction.account.uid == 61001 && introduction.account.pid == stranger.pid)
            #expect(introduction.domain != owner.domain)
            #expect(stranger.ask("lookup all 20000")?.hasPrefix("ok ") == true)
        }
    }
}
