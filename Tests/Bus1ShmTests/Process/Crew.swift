import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// The processes of one test, on a bus of their own, and what they left behind.
///
/// Leaks are counted in the processes, before they join and after they left: other tests run beside
/// this one in the process of the tests.
final class Crew {
    let directory: String
    let bus: Bus
    /// Of all that are started from here on.
    var environment: [String] = []
    private var members: [(member: RemotePeer, before: String)] = []

    fileprivate init(_ directory: String) {
        self.directory = directory
        bus = Bus(path: directory + "/bus")
    }

    /// A process that has not joined yet.
    func start(_ environment: [String] = [], program: String = "bus1-test-program") throws
        -> RemotePeer
    {
        let member = try RemotePeer(
            environment: self.environment + environment, program: program)
        members.append((member, try member.must("counts")))
        return member
    }

    /// A process that has joined; "slots=64" and the like.
    func join(_ options: String = "", _ environment: [String] = []) throws -> RemotePeer {
        let member = try start(environment)
        try member.must("open \(bus.path) \(options)")
        return member
    }

    /// Processes that have joined, each with a node that is published as NAME and its number.
    func join(_ count: Int, publishing name: String, _ options: String = "") throws -> [RemotePeer]
    {
        try (0..<count).map { index in
            let member = try join(options)
            try member.must("node \(name)\(index)")
            return member
        }
    }

    func progress(_ name: String) throws -> Progress {
        let progress = try Progress(directory + "/" + name)
        // Written by members that may be of another user.
        chmod(directory + "/" + name, 0o666)
        return progress
    }

    /// All leave; nothing is left of what they had. Who serves ends when all others have left.
    fileprivate func end() throws {
        for (member, _) in members where !member.isReaped { member.begin("close") }
        for (member, _) in members where !member.isReaped { #expect(member.answer() == "ok ") }
        for (member, before) in members where !member.isReaped {
            var after: String?
            let isClean = eventually(within: .seconds(5)) {
                after = member.ask("counts")
                return after == "ok " + before
            }
            #expect(
                isClean, "descriptors, mappings, threads: \(before) before, \(after ?? "") after")
            #expect(member.ask("children") == "ok none")
        }
        let hadServed = members.contains { !$0.member.isReaped }
        for (member, _) in members { member.end() }
        // A killed broker's files stay until the next one comes.
        if hadServed, !wasBrokerKilled {
            #expect(
                entries(of: directory).isDisjoint(with: ["bus", "bus.lock"]), "files of the bus")
        }
        #expect(entries(of: "/dev/shm").allSatisfy { !$0.contains("bus1") })
    }

    /// Set by tests that kill whoever serves.
    var wasBrokerKilled = false
}

/// Runs a test with processes of its own, and looks for what they left behind.
func withCrew<R>(_ body: (Crew) throws -> R) throws -> R {
    var template = Array("/tmp/bus1-test-XXXXXX".utf8CString)
    let directory = try #require(mkdtemp(&template).map { String(cString: $0) })
    chmod(directory, 0o755)
    defer { removeAll(directory) }
    let crew = Crew(directory)
    let result = try body(crew)
    try crew.end()
    return result
}

extension RemotePeer {
    /// What follows "ok "; anything else fails the test.
    @discardableResult
    func must(_ command: String, within patience: Duration = .seconds(60)) throws -> String {
        begin(command)
        return try mustAnswer(command, within: patience)
    }

    @discardableResult
    func mustAnswer(_ command: String = "", within patience: Duration = .seconds(60)) throws
        -> String
    {
        let answer = answer(within: patience)
        guard let answer, answer.hasPrefix("ok ") else {
            throw PeerTestFailure("\(command): \(answer ?? "no answer")")
        }
        return String(answer.dropFirst(3))
    }

    /// key=value pairs of an answer to "collect".
    func log(within patience: Duration = .seconds(60)) throws -> [String: String] {
        var pairs: [String: String] = [:]
        for word in try mustAnswer("collect", within: patience).split(separator: " ") {
            let pair = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            pairs[String(pair[0])] = pair.count > 1 ? String(pair[1]) : ""
        }
        return pairs
    }
}

extension [String: String] {
    /// The last sequence number that came of a sender and kind.
    func last(_ tag: Int, _ kind: ItemKind) -> UInt64 {
        for one in self["last", default: ""].split(separator: ",")
        where one.hasPrefix("\(tag).\(kind.rawValue):") {
            return UInt64(one.split(separator: ":")[1])!
        }
        return 0
    }

    /// Nothing lost, doubled, mixed up, forged, severed or missing.
    var isClean: Bool {
        self["bad"] == "" && self["forged"] == "0" && self["severed"] == "0"
            && self["late"] == "false"
    }
}

/// Suites that start many processes: one after the other, since there are two processors.
@Suite(.serialized, .timeLimit(.minutes(3)))
enum ProcessTests {}
