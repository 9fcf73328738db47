import CBus1System
import CShmRing
import Glibc
import Synchronization

/// Runs a broker, and removes its files when it ends: by itself, or because its process exits.
enum BrokerThread {
    /// What lies in the file system on account of a broker.
    private struct Files: Sendable {
        let number: UInt64
        let directory: SharedDescriptor
        let name: String
        let process: Int32
        let isSocketGiven: Bool
        /// They are the heir's.
        var stay = false
        var loopName = ""
    }

    /// Of the brokers that run in this process: one for each bus.
    private static let running = Mutex<(last: UInt64, files: [Files])>((0, []))

    /// Everything that the thread owns.
    private final class Start {
        let broker: Broker
        let atEnd: @Sendable () -> Void

        init(_ broker: Broker, atEnd: @escaping @Sendable () -> Void) {
            self.broker = broker
            self.atEnd = atEnd
        }
    }

    /// Binds the socket, unless it is given one, and starts the thread. When this returns, others can connect. `atEnd` is
    /// called on the thread when the files are gone, or another broker's; `stopEvent`, signalled, makes
    /// that happen.
    static func start(
        _ address: BusAddress, _ limits: BusLimits, lock: SharedDescriptor, mode: Broker.Mode,
        stopEvent: SharedDescriptor? = nil, socket: SharedDescriptor? = nil,
        atEnd: @escaping @Sendable () -> Void = {}
    ) throws(Bus1Error) {
        let directory = SharedDescriptor(try address.openDirectory())
        let stopEvent = if let stopEvent { stopEvent } else { try makeEvent() }
        let isSocketGiven = socket != nil
        let listening: SharedDescriptor
        do throws(Bus1Error) {
            listening = try listen(address, directory, socket)
        } catch {
            unlinkat(directory.rawValue, address.lockName, 0)
            throw error
        }
        let place = Broker.Place(
            lock: lock, directory: directory, name: address.name, isSocketGiven: isSocketGiven)
        let number = register(place)
        do throws(Bus1Error) {
            let service = try Broker.Service(
                listener: listening, stopEvent: stopEvent, mode: mode, place: place)
            let broker = try Broker(limits: limits)
            broker.filesNumber = number
            broker.serve(service)
            note(loop: broker.loopName, number)
            keep(service)
            let start = Unmanaged.passRetained(Start(broker, atEnd: atEnd))
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

    private static func listen(
        _ address: BusAddress, _ directory: SharedDescriptor, _ given: SharedDescriptor?
    ) throws(Bus1Error) -> SharedDescriptor {
        let operation: StaticString = "open the bus's socket"
        if let given {
            let result = bus1_sys_socket_adopt(given.rawValue, directory.rawValue, address.name)
            guard result == 0 else { throw Bus1Error(.system, operation, errno: -result) }
            return given
        }
        var listener: Int32 = -1
        let result = bus1_sys_socket_listen(directory.rawValue, address.name, &listener)
        guard result == 0 else { throw Bus1Error(.system, operation, errno: -result) }
        return SharedDescriptor(Descriptor(owning: listener))
    }

    /// Serves in this thread, in the place of a broker that has ended, until it is to end.
    static func takeOver(
        _ broker: Broker, listener: SharedDescriptor, place: Broker.Place
    ) throws(Bus1Error) {
        let service = try Broker.Service(
            listener: listener, stopEvent: try makeEvent(), mode: .embedded, place: place)
        broker.filesNumber = register(place)
        shmring_fault_at(SHMRING_FAULT_OVER_PLACE)
        broker.succeed(service)
        _ = shmring_fault_act_as(SHMRING_FAULT_BROKER.rawValue)
        note(loop: broker.loopName, broker.filesNumber)
        keep(service)
        serve(broker)
    }

    /// A child of this process must not keep the lock or the socket alive.
    private static func keep(_ service: Broker.Service) {
        bus1_sys_close_on_fork(service.place.lock.rawValue, true)
        bus1_sys_close_on_fork(service.listener.rawValue, true)
    }

    private static func note(loop name: String, _ number: UInt64) {
        running.withLock { state in
            guard let index = state.files.firstIndex(where: { $0.number == number }) else {
                return
            }
            state.files[index].loopName = name
        }
    }

    /// Whether a broker's files are to stay when its process exits: there is an heir.
    static func keepFiles(_ number: UInt64, _ stay: Bool) {
        running.withLock { state in
            guard let index = state.files.firstIndex(where: { $0.number == number }) else {
                return
            }
            state.files[index].stay = stay
        }
    }

    /// On what the brokers of this process wait: "io_uring" or "epoll", for each.
    static var loopNames: [String] { running.withLock { $0.files.map(\.loopName) } }

    static func makeEvent() throws(Bus1Error) -> SharedDescriptor {
        SharedDescriptor(try Broker.create("make an event") { bus1_sys_event_create($0) })
    }

    private static func main(_ context: UnsafeMutableRawPointer) {
        let start = Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
        _ = shmring_fault_act_as(SHMRING_FAULT_BROKER.rawValue)
        serve(start.broker)
        start.atEnd()
    }

    private static func serve(_ broker: Broker) {
        guard let service = broker.service else { return }
        let (listener, place) = (service.listener, service.place)
        broker.run()
        keepFiles(broker.filesNumber, broker.isToBeSucceeded)
        // The socket's name goes first: whoever finds the lock free must not find a socket that
        // nobody serves. Then the listener is closed with the broker, which tells those in its
        // queue to look again.
        removeFiles(broker.filesNumber)
        bus1_sys_close_on_fork(listener.rawValue, false)
        bus1_sys_close_on_fork(place.lock.rawValue, false)
        broker.end()
    }

    private static func register(_ place: Broker.Place) -> UInt64 {
        running.withLock { state in
            if state.last == 0 { _ = bus1_sys_at_exit { BrokerThread.removeAllFiles() } }
            state.last += 1
            state.files.append(
                Files(
                    number: state.last, directory: place.directory, name: place.name,
                    process: getpid(), isSocketGiven: place.isSocketGiven))
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
        guard files.process == getpid(), !files.stay else { return }
        if !files.isSocketGiven { unlinkat(files.directory.rawValue, files.name, 0) }
        unlinkat(files.directory.rawValue, files.name + ".lock", 0)
    }
}
