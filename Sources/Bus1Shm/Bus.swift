/// An address and a policy; holds nothing, connects to nothing.
public struct Bus: Sendable, Hashable {
    /// The bus of this user: `$BUS1_PATH`, else `$XDG_RUNTIME_DIR/bus1/bus`, else `bus` in the
    /// directory `bus1-UID` of /tmp.
    public static let `default` = Bus(path: "")

    /// Which processes share a ring: those that could already harm each other.
    public enum Isolation: UInt32, Sendable {
        /// All processes of one effective user.
        case user = 1
        /// Each process by itself. A boundary only against processes that cannot trace this one.
        case process = 2
    }

    /// Of the broker's socket; empty for the default.
    public let path: String
    /// With whom the peers that are made on it share rings.
    public let isolation: Isolation
    /// What users and peers may have, if this process starts the broker.
    public let limits: Limits

    /// Names a bus. The directory of the path must exist; the default's is made when it is needed.
    public init(path: String, isolation: Isolation = .user, limits: Limits = Limits()) {
        self.path = path
        self.isolation = isolation
        self.limits = limits
    }
}
