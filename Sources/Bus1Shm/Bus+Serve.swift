import CBus1System
import Glibc

extension Bus {
    /// Serves this bus as its broker, alone, until the task is cancelled. Suspends; the work is
    /// done by a thread.
    ///
    /// Peers start a broker of their own where none serves; this is for those who want it to
    /// outlive them all, or to run as another user. Returns when the bus's files are removed, or its
    /// heir goes on, which is one of the peers' processes of this user, if there is any
    /// (``Peer/Options/standsBy``). Peers that were connected go on talking to those they know.
    ///
    /// `socket`: a descriptor of a SOCK_SEQPACKET socket that listens under the bus's path already, as a service
    /// manager hands it in; closed in the end. The manager goes on owning it, so it stays where it is,
    /// and who connects while no broker lives waits for the next. While another broker serves the bus, an heir
    /// of the one before, this stands by, and takes over from it when it ends.
    ///
    /// `whenReady` is called once, when others can connect; it must not block.
    ///
    /// Errors: `system`: with EADDRINUSE when somebody serves this bus already or a service manager listens
    /// for it, with EADDRNOTAVAIL when the bus's path does not lead to the socket, with EINVAL when
    /// that is none that listens for packets. `denied` for the directory's owner or mode.
    public func serve(
        on socket: Int32? = nil, whenReady: @escaping @Sendable () -> Void = {}
    ) async throws(Bus1Error) {
        let listener = socket.map { SharedDescriptor(Descriptor(owning: $0)) }
        guard let (lock, stoodBy) = try await takeLock(waiting: listener != nil, whenReady) else {
            return
        }
        let stopEvent = try BrokerThread.makeEvent()
        // The broker may have closed its own when a late cancellation arrives.
        let signal = StopSignal(try stopEvent.duplicate())
        let failure: Bus1Error? = await withTaskCancellationHandler {
            await withCheckedContinuation { (done: CheckedContinuation<Bus1Error?, Never>) in
                do throws(Bus1Error) {
                    try startAlone(lock, listener, stopEvent) { done.resume(returning: nil) }
                    if !stoodBy { whenReady() }
                } catch {
                    done.resume(returning: error)
                }
            }
        } onCancel: {
            signal.send()
        }
        if let failure { throw failure }
    }

    /// nil: cancelled while another broker had it.
    private func takeLock(
        waiting: Bool, _ whenReady: @escaping @Sendable () -> Void
    ) async throws(Bus1Error) -> (SharedDescriptor, stoodBy: Bool)? {
        let address = BusAddress(self)
        var standsBy = false
        while true {
            do {
                let directory = try address.openDirectory()
                if let lock = try Rendezvous.takeLock(address, directory) {
                    return (SharedDescriptor(lock), standsBy)
                }
            }
            guard waiting else { throw Bus1Error(.system, "serve a bus", errno: EADDRINUSE) }
            // Who has the lock listens at the same socket: others can connect.
            if !standsBy { whenReady() }
            standsBy = true
            // Meanwhile who connects waits in the socket's queue.
            do { try await Task.sleep(for: .milliseconds(100)) } catch { return nil }
        }
    }

    private func startAlone(
        _ lock: SharedDescriptor, _ listener: SharedDescriptor?, _ stopEvent: SharedDescriptor,
        atEnd: @escaping @Sendable () -> Void
    ) throws(Bus1Error) {
        let address = BusAddress(self)
        if listener == nil {
            // Nobody has the lock. Who listens all the same is a service manager, which would not find out.
            let directory = try address.openDirectory()
            var socket: Int32 = -1
            let result = bus1_sys_socket_connect(directory.rawValue, address.name, &socket)
            if result == 0 || result == -EAGAIN {
                if socket >= 0 { close(socket) }
                unlinkat(directory.rawValue, address.lockName, 0)
                throw Bus1Error(.system, "serve a bus", errno: EADDRINUSE)
            }
        }
        try BrokerThread.start(
            address, limits, lock: lock, mode: .alone, stopEvent: stopEvent, socket: listener,
            atEnd: atEnd)
    }
}

/// Tells a broker to end, from any thread.
private final class StopSignal: Sendable {
    private let descriptor: Int32

    init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor.take() }
    deinit { close(descriptor) }

    func send() { bus1_sys_event_signal(descriptor) }
}
