import CBus1System
import Glibc
import Synchronization

/// Runs a broker, and removes its files when it ends: by itself, or because its process exits.
enum BrokerThread {
    /// What lies in the file system on account of a broker.
    private struct Files: Sendable {
        let number: UInt64
        let directory: Int32
        let name: String
        let lockName: String
        let process: Int32
        var loopName = ""
    }

    /// Of the brokers that run in this process: one for each bus.
    private static let running = Mutex<(last: UInt64, files: [Files])>((0, []))

    /// Everything that the thread owns.
    private final class Start {
        let broker: Broker
        let files: UInt64
        let lock: SharedDescriptor
        let atEnd: @Sendable () -> Void

        init(
            _ broker: Broker, files: UInt64, lock: SharedDescriptor,
            atEnd: @escaping @Sendable () -> Void
        ) {
            self.broker = broker
            self.files = files
            self.lock = lock
            self.atEnd = atEnd
        }
    }

    /// Binds the socket and starts the thread. When this returns, others can connect. `atEnd` is
    /// called on the thread when the files are gone; `stopEvent`, signalled, makes that happen.
    static func start(
        _ address: BusAddress, _ limits: BusLimits, lock: consuming Descriptor, mode: Broker.Mode,
        stopEvent: SharedDescriptor? = nil,
        atEnd: @escaping @Sendable () -> Void = {}
    ) throws(Bus1Error) {
        let directory = try address.openDirectory()
        let lock = SharedDescriptor(lock)
        let stopEvent = if let stopEvent { stopEvent } else { try makeEvent() }
        var listener: Int32 = -1
        let result = bus1_sys_socket_listen(directory.rawValue, address.name, &listener)
        guard result == 0 else {
            unlinkat(directory.rawValue, address.lockName, 0)
            throw Bus1Error(.system, "open the bus's socket", errno: -result)
        }
        let listening = SharedDescriptor(Descriptor(owning: listener))
        let number = register(directory.take(), address)
        do throws(Bus1Error) {
            let broker = try Broker(
                listener: listening, stopEvent: stopEvent, mode: mode, limits: limits)
            // A child of this process must not keep the lock or the socket alive.
            bus1_sys_close_on_fork(lock.rawValue, true)
            bus1_sys_close_on_fork(listening.rawValue, true)
            let start = Unmanaged.passRetained(
                Start(broker, files: number, lock: lock, atEnd: atEnd))
            running.withLock { state in
                guard let index = state.files.firstIndex(where: { $0.number == number }) else {
                    return
                }
                state.files[index].loopName = broker.loopName
            }
            let started = bus1_sys_thread_start(
                "bus1-broker", { BrokerThread.main($0!) }, start.toOpaque())
            guard started == 0 else {
                start.release()
                throw Bus1Error(.system, "start a broker", errno: -started)
            }
        } catch {
            removeFiles(number)
            throw error
        }
    }

    /// On what the brokers of this process wait: "io_uring" or "epoll", for each.
    static var loopNames: [String] { running.withLock { $0.files.map(\.loopName) } }

    static func makeEvent() throws(Bus1Error) -> SharedDescriptor {
        SharedDescriptor(try Broker.create("make an event") { bus1_sys_event_create($0) })
    }

    private static func main(_ context: UnsafeMutableRawPointer) {
        let start = Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
        start.broker.run()
        // The socket's name goes first: whoever finds the lock free must not find a socket that
        // nobody serves. Then the listener is closed with the broker, which tells those in its
        // queue to look again.
        removeFiles(start.files)
        bus1_sys_close_on_fork(start.broker.listener.rawValue, false)
        bus1_sys_close_on_fork(start.lock.rawValue, false)
        start.atEnd()
    }

    private static func register(_ directory: Int32, _ address: BusAddress) -> UInt64 {
        running.withLock { state in
            if state.last == 0 { _ = bus1_sys_at_exit { BrokerThread.removeAllFiles() } }
            state.last += 1
            state.files.append(
                Files(
                    number: state.last, directory: directory, name: address.name,
                    lockName: address.lockName,
                    process: getpid()))
            return state.last
        }
    }

    private static func removeFiles(_ number: UInt64) {
        let files = running.withLock { state -> Files? in
            guard let index = state.files.firstIndex(where: { $0.number == number }) else {
                return nil
            }
            return state.files.remove(at: index)
        }
        if let files { remove(files) }
    }

    private static func removeAllFiles() {
        // Another thread may hold the lock for good while the process exits: then the next broker
        // replaces the files.
        let files = running.withLockIfAvailable { state in
            defer { state.files.removeAll() }
            return state.files
        }
        for entry in files ?? [] { remove(entry) }
    }

    private static func remove(_ files: Files) {
        // A fork of the process must leave its parent's files alone.
        if files.process == getpid() {
            unlinkat(files.directory, files.name, 0)
            unlinkat(files.directory, files.lockName, 0)
        }
        close(files.directory)
    }
}
