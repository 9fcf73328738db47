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
    /// `whenReady` is called once, when others can connect, before this suspends for long; it must not
    /// block.
    ///
    /// Errors: `system` with EADDRINUSE when somebody serves this bus already, `denied` for the
    /// directory's owner or mode.
    public func serve(
        whenReady: @escaping @Sendable () -> Void = {}
    ) async throws(Bus1Error) {
        let stopEvent = try BrokerThread.makeEvent()
        // The broker may have closed its own when a late cancellation arrives.
        let signal = StopSignal(try stopEvent.duplicate())
        let failure: Bus1Error? = await withTaskCancellationHandler {
            await withCheckedContinuation { (done: CheckedContinuation<Bus1Error?, Never>) in
                do throws(Bus1Error) {
                    try startAlone(stopEvent) { done.resume(returning: nil) }
                    whenReady()
                } catch {
                    done.resume(returning: error)
                }
            }
        } onCancel: {
            signal.send()
        }
        if let failure { throw failure }
    }

    private func startAlone(
        _ stopEvent: SharedDescriptor, atEnd: @escaping @Sendable () -> Void
    ) throws(Bus1Error) {
        let address = BusAddress(self)
        let directory = try address.openDirectory()
        guard let lock = try Rendezvous.takeLock(address, directory) else {
            throw Bus1Error(.system, "serve a bus", errno: EADDRINUSE)
        }
        try BrokerThread.start(
            address, limits, lock: lock, mode: .alone, stopEvent: stopEvent, atEnd: atEnd)
    }
}

/// Tells a broker to end, from any thread.
private final class StopSignal: Sendable {
    private let descriptor: Int32

    init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor.take() }
    deinit { close(descriptor) }

    func send() { bus1_sys_event_signal(descriptor) }
}
