public import Bus1Shm

/// A program that a ``Supervisor`` starts, and starts again.
public struct ChildSpecification: Sendable {
    /// After which end it is started again.
    public enum Restart: Sendable {
        /// After any.
        case permanent
        /// Only when it ended by a signal, or with a status other than 0.
        case transient
        /// After none; nor when others are started again with it.
        case temporary
    }

    /// Names it in events and errors.
    public var name: String
    /// Of the program; not searched for.
    public var path: String
    /// Behind the program's name.
    public var arguments: [String]
    /// Handles of the supervising peer that each start is given, as by `Peer.spawn`.
    public var handles: [HandleID]
    /// When it is started again.
    public var restart: Restart
    /// How long it may take to end by SIGTERM, before it gets SIGKILL.
    public var shutdown: Duration

    /// A program with Erlang's defaults: permanent, and five seconds to end.
    public init(
        _ name: String, _ path: String, _ arguments: [String] = [], giving handles: [HandleID] = [],
        restart: Restart = .permanent, shutdown: Duration = .seconds(5)
    ) {
        self.name = name
        self.path = path
        self.arguments = arguments
        self.handles = handles
        self.restart = restart
        self.shutdown = shutdown
    }
}

/// Why a supervisor has given up. All its children have ended then.
public enum SupervisionError: Error {
    /// A child ended too often: its name, and its last status as waitpid(2) tells it.
    case tooManyRestarts(name: String, status: Int32)
    /// A child could not be started.
    case notStarted(name: String, Bus1Error)
}

/// What happened to a child of a ``Supervisor``.
public enum SupervisionEvent: Sendable, Equatable {
    /// It ended, and was started again, with so many others.
    case restarted(name: String, status: Int32, others: Int)
    /// It ended, and stays so.
    case ended(name: String, status: Int32)
}
