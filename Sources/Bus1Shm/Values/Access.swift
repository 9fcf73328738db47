/// Who may look a published name up. Checked by the broker, against what the kernel vouched for the
/// asker.
public enum Access: Sendable, Hashable {
    /// Processes of the same effective user as the owner's.
    case sameUser
    /// Processes of these effective users, 32 at most, and those of the owner's own.
    case users([UInt32])
    /// Whoever can connect to the bus.
    case anyone
}
