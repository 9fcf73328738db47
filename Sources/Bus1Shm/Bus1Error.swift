/// The only error type of the library.
///
/// An error says what kind of thing went wrong (``code``), in which operation, what the kernel said
/// if it was the kernel that refused, and, for quotas, what was refused. Full and empty are
/// results, never errors.
public struct Bus1Error: Error, Sendable {
    /// What kind of thing went wrong. The caller decides by this.
    public enum Code: UInt32, Sendable {
        /// The handle is not one of this peer, or was released.
        case noSuchHandle = 1
        /// The node that the handle leads to is gone, or its owner is.
        case nodeReleased = 2
        /// One destination stands twice in a transaction.
        case duplicateDestination = 3
        /// More than a fixed limit of the format allows; no waiting helps.
        case tooLarge = 4
        /// A quota refuses; ``Bus1Error/refusal`` says which, and waiting may help.
        case overQuota = 5
        /// The deadline passed first.
        case timedOut = 6
        /// The waiting was cancelled.
        case cancelled = 7
        /// The peer was closed.
        case shutDown = 8
        /// The other side broke the rules, or went away in the middle: the link or connection is
        /// cut.
        case severed = 9
        /// An access rule, or the owner or mode of a file, says no.
        case denied = 10
        /// The two sides do not fit: layout version, type, size, or an argument out of range.
        case mismatch = 11
        /// The kernel refused; ``Bus1Error/errno`` says why.
        case system = 12
        /// Nobody has published that name.
        case noSuchName = 13
        /// The name is published already.
        case nameTaken = 14
        /// This process was forked from one that was on the bus: it can do nothing here before it executes a program.
        case forked = 15
        /// Nobody is going to answer a call: the callee dropped the request or its reply handle, released the node, or died.
        case replyLost = 16
    }

    /// What a quota refused.
    public struct Refusal: Sendable, Hashable {
        /// Which resource ran out.
        public let resource: Resource
        /// How much of it is in use, in the resource's own unit.
        public let used: Int
        /// How much of it may be in use.
        public let limit: Int
        /// Whose use was counted.
        public let account: Account
    }

    /// What a trust domain did that no honest process does: its ring is cut off, for all of it.
    public struct Breach: Sendable, Hashable {
        /// Which rule was broken.
        public enum Rule: UInt32, Sendable {
            /// The ring's tail lay where it cannot be.
            case tail = 1
            /// A slot was of no kind that there is.
            case kind = 2
            /// A message was longer than its slot.
            case length = 3
            /// A stamp lay ahead of the clock, or before the message was begun.
            case stamp = 4
            /// A message changed after it was written.
            case rewritten = 5
            /// More messages were begun and left unfinished than a ring bears.
            case claims = 6
            /// More was attached than the sender had credit for.
            case credit = 7
            /// More came under rights that nobody gave than honest peers send by mistake.
            case rights = 8
        }

        /// Which rule was broken.
        public let rule: Rule
        /// A member of the trust domain; any of it may have done it.
        public let account: Account
    }

    /// What kind of thing went wrong.
    public let code: Code
    /// What was attempted, in words.
    public let operation: StaticString
    /// What the kernel said; 0 when it was not asked or did not refuse.
    public let errno: Int32
    /// What a quota refused; nil unless ``code`` is ``Code/overQuota``.
    public let refusal: Refusal?
    /// What others did; nil unless ``code`` is ``Code/severed`` and a trust domain broke the rules of a ring.
    public let breach: Breach?

    /// A payload that is not as long as the type that it should be.
    @usableFromInline
    static let wrongSize = Bus1Error(.mismatch, "read a payload as a value")

    package init(
        _ code: Code, _ operation: StaticString, errno: Int32 = 0, refusal: Refusal? = nil,
        breach: Breach? = nil
    ) {
        self.code = code
        self.operation = operation
        self.errno = errno
        self.refusal = refusal
        self.breach = breach
    }

    /// From a C result: negative is -errno, positive an `SHMRING_E_...` code.
    init(result: Int32, _ operation: StaticString) {
        if result < 0 {
            self.init(.system, operation, errno: -result)
        } else {
            self.init(Code(shmring: result), operation)
        }
    }
}

extension Bus1Error: CustomStringConvertible {
    /// One line for a log: operation, code, and what else is known.
    public var description: String {
        var line = "\(operation): \(code)"
        if errno != 0 { line += " (\(errnoText(errno)))" }
        if let refusal {
            line += " (\(refusal.resource): \(refusal.used) used of \(refusal.limit)"
            line += ", uid \(refusal.account.uid), pid \(refusal.account.pid))"
        }
        if let breach {
            line += " (\(breach.rule), uid \(breach.account.uid), pid \(breach.account.pid))"
        }
        return line
    }
}
