public import Bus1Shm
import Glibc

/// Starts programs in an order, and starts again those that end.
///
/// After Erlang's supervisor: the same strategies, and the same bound on how often (*supervisor(3erl)*). Each start gets the same
/// handles; whoever talked to the one that ended hears of it by notices, and looks the next one up.
///
/// One thread at a time, that of the peer by which it starts them. When it is dropped, its children are ended in the reverse
/// order, which blocks as long as they may take.
public struct Supervisor: ~Copyable {
    /// Who is started again when one has ended.
    public enum Strategy: Sendable {
        /// That one.
        case oneForOne
        /// All of them; the others are ended first, in the reverse order.
        case oneForAll
        /// That one and those that were started after it, which are ended first.
        case restForOne
    }

    /// A child that runs, or has ended.
    private final class Place {
        let specification: ChildSpecification
        private var child: Child?

        init(_ specification: ChildSpecification) { self.specification = specification }

        var descriptor: Int32? { child?.descriptor }
        var pid: Int32? { child?.pid }

        func start(by peer: borrowing Peer) throws(SupervisionError) {
            do throws(Bus1Error) {
                child = try peer.spawn(
                    specification.path, specification.arguments, giving: specification.handles)
            } catch { throw .notStarted(name: specification.name, error) }
        }

        /// Its status, if it has ended by then.
        func reap(until deadline: Deadline) -> Int32? {
            guard let status = child?.wait(until: deadline) else { return nil }
            child = nil
            return status
        }

        func stop() {
            child?.signal(SIGTERM)
            // One that stands still would not hear it.
            child?.signal(SIGCONT)
            if reap(until: .after(specification.shutdown)) == nil, child != nil {
                child?.signal(SIGKILL)
                _ = reap(until: .never)
            }
        }
    }

    private let strategy: Strategy
    private let restartsMax: Int
    private let period: Duration
    private var places: [Place] = []
    /// When somebody was started again, within the last period.
    private var restarts: [ContinuousClock.Instant] = []

    /// A supervisor without children.
    ///
    /// - Parameters:
    ///   - restarts: so many within `period` are borne; with one more it gives up. By default one in five seconds.
    public init(
        _ strategy: Strategy, atMost restarts: Int = 1, within period: Duration = .seconds(5)
    ) {
        precondition(restarts >= 0, "fewer than no restarts")
        self.strategy = strategy
        restartsMax = restarts
        self.period = period
    }

    /// Starts a child, behind those there are.
    ///
    /// - Throws: `notStarted`; the others go on.
    public mutating func start(
        _ specification: ChildSpecification, by peer: borrowing Peer
    ) throws(SupervisionError) {
        let place = Place(specification)
        try place.start(by: peer)
        places.append(place)
    }

    /// The process IDs of those that run, by their names, in the order of their start.
    public var running: [(name: String, pid: Int32)] {
        places.compactMap { place in place.pid.map { (place.specification.name, $0) } }
    }

    /// Descriptors of which one is readable when a child has ended, for event loops that call ``tend(by:)`` then. Others
    /// after each event.
    public var descriptors: [Int32] { places.compactMap(\.descriptor) }

    /// Looks after one child that has ended, if there is one. Blocks only while others are ended with it.
    ///
    /// - Returns: what happened. nil: nothing.
    /// - Throws: `tooManyRestarts`, `notStarted`: all children have ended then.
    public mutating func tend(by peer: borrowing Peer) throws(SupervisionError) -> SupervisionEvent?
    {
        for index in places.indices {
            if let status = places[index].reap(until: .now) {
                return try lookAfter(index, status, by: peer)
            }
        }
        return nil
    }

    /// Waits until a child has ended, and looks after it. Sleeps meanwhile.
    ///
    /// - Returns: what happened. nil: nothing until the deadline, or no child is left.
    /// - Throws: as ``tend(by:)``.
    public mutating func next(
        by peer: borrowing Peer, until deadline: Deadline = .never
    ) throws(SupervisionError) -> SupervisionEvent? {
        while true {
            if let event = try tend(by: peer) { return event }
            var polled = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            guard !polled.isEmpty, !deadline.hasPassed else { return nil }
            _ = poll(&polled, nfds_t(polled.count), deadline.pollTimeout_ms)
        }
    }

    /// Ends all children in the reverse order of their start.
    public mutating func stop() {
        for place in places.reversed() { place.stop() }
        places = []
    }

    deinit { for place in places.reversed() { place.stop() } }

    private mutating func lookAfter(
        _ index: Int, _ status: Int32, by peer: borrowing Peer
    ) throws(SupervisionError) -> SupervisionEvent {
        let specification = places[index].specification
        guard
            specification.restart == .permanent
                || specification.restart == .transient && status != 0
        else {
            places.remove(at: index)
            return .ended(name: specification.name, status: status)
        }
        let now = ContinuousClock.now
        restarts.removeAll { now - $0 > period }
        restarts.append(now)
        guard restarts.count <= restartsMax else {
            stop()
            throw .tooManyRestarts(name: specification.name, status: status)
        }
        let own = places[index]
        let others =
            switch strategy {
            case .oneForOne: [Place]()
            case .oneForAll: places.filter { $0 !== own }
            case .restForOne: Array(places[(index + 1)...])
            }
        for place in others.reversed() { place.stop() }
        places.removeAll { place in
            place.specification.restart == .temporary && others.contains { $0 === place }
        }
        do throws(SupervisionError) {
            for place in places where place === own || others.contains(where: { $0 === place }) {
                try place.start(by: peer)
            }
        } catch {
            stop()
            throw error
        }
        return .restarted(name: specification.name, status: status, others: others.count)
    }
}
