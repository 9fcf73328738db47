import CBus1System
import Glibc

/// Finds the broker of a bus, or becomes it.
///
/// A lock file beside the socket elects: whoever holds it binds the socket, everybody else
/// connects. The socket appears under its name only when it listens, by a rename, which also
/// replaces what a killed broker left.
enum Rendezvous {
    /// The socket of a connection to the bus's broker. Blocks until there is one, or the deadline.
    static func connect(_ bus: Bus, until deadline: Deadline) throws(Bus1Error) -> Descriptor {
        let operation: StaticString = "find the broker"
        let address = BusAddress(bus)
        let directory = try address.openDirectory()
        var watch: Descriptor?
        var patience_ms: Int32 = 5
        while true {
            var socket: Int32 = -1
            let result = bus1_sys_socket_connect(directory.rawValue, address.name, &socket)
            switch -result {
            case 0:
                let socket = Descriptor(owning: socket)
                try checkBroker(socket, directory, operation)
                return socket
            case ENOENT, ECONNREFUSED:
                if try becomeBroker(bus, address, directory) { continue }
            case EAGAIN:
                break  // Its queue of connections is full: it is busy, or stopped.
            case EACCES, EPERM:
                throw Bus1Error(.denied, operation, errno: -result)
            default:
                throw Bus1Error(.system, operation, errno: -result)
            }
            // Somebody else is just becoming the broker. What happened before the watch began is
            // looked for once more.
            guard !deadline.hasPassed else { throw Bus1Error(.timedOut, operation) }
            if let watching = watch?.rawValue {
                _ = bus1_sys_wait_readable(watching, deadline.pollTimeout_ms(atMost: patience_ms))
                bus1_sys_discard(watching)
                patience_ms = min(patience_ms * 2, 100)
            } else {
                watch = try watchDirectory(directory, operation)
            }
        }
    }

    /// True when this process is the broker now.
    private static func becomeBroker(
        _ bus: Bus, _ address: BusAddress, _ directory: borrowing Descriptor
    ) throws(Bus1Error) -> Bool {
        guard let lock = try takeLock(address, directory) else { return false }
        try BrokerThread.start(
            address, bus.limits, lock: SharedDescriptor(lock), mode: .embedded)
        return true
    }

    /// Whether somebody listens there.
    static func isServed(_ bus: Bus) throws(Bus1Error) -> Bool {
        let operation: StaticString = "find the broker"
        let address = BusAddress(bus)
        let directory = try address.openDirectory()
        var socket: Int32 = -1
        let result = bus1_sys_socket_connect(directory.rawValue, address.name, &socket)
        switch -result {
        case 0:
            close(socket)
            return true
        case EAGAIN: return true
        case ENOENT, ECONNREFUSED: return false
        case EACCES, EPERM: throw Bus1Error(.denied, operation, errno: -result)
        default: throw Bus1Error(.system, operation, errno: -result)
        }
    }

    /// nil when somebody else holds it.
    static func takeLock(
        _ address: BusAddress, _ directory: borrowing Descriptor
    ) throws(Bus1Error) -> Descriptor? {
        var lock: Int32 = -1
        let result = bus1_sys_lock_take(directory.rawValue, address.lockName, &lock)
        switch -result {
        case 0: return Descriptor(owning: lock)
        // EACCES: the lock is another user's, who is about to bind the socket.
        case EWOULDBLOCK, EACCES: return nil
        default: throw Bus1Error(.system, "take the bus's lock", errno: -result)
        }
    }

    private static func watchDirectory(
        _ directory: borrowing Descriptor, _ operation: StaticString
    ) throws(Bus1Error) -> Descriptor {
        var watch: Int32 = -1
        let result = bus1_sys_directory_watch(directory.rawValue, &watch)
        guard result == 0 else { throw Bus1Error(.system, operation, errno: -result) }
        return Descriptor(owning: watch)
    }

    /// The broker plays the kernel's part: it must be of this user, of root, or of whoever owns the
    /// directory, since that one decides who stands there. The overflow user stands for many: equal only if nobody but
    /// the owner, whoever that is, can have put the socket there.
    private static func checkBroker(
        _ socket: borrowing Descriptor, _ directory: borrowing Descriptor, _ operation: StaticString
    ) throws(Bus1Error) {
        var credentials = bus1_sys_credentials()
        var owner: UInt32 = 0
        var isOnlyHis = false
        let result = bus1_sys_socket_credentials(socket.rawValue, &credentials)
        guard result == 0 else { throw Bus1Error(.system, operation, errno: -result) }
        _ = bus1_sys_directory_owner(directory.rawValue, &owner, &isOnlyHis)
        let isTrusted =
            credentials.uid == bus1_sys_overflow_uid()
            ? credentials.uid == owner && isOnlyHis
            : [geteuid(), 0, owner].contains(credentials.uid)
        guard isTrusted else { throw Bus1Error(.denied, operation) }
    }
}
