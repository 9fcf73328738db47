import CBus1System
import CShmRing
import Glibc

/// A process that was asked to be the heir, or is it, as the broker sees it.
final class HeirLink {
    /// Of this broker's, for the loop.
    let number: UInt64
    let process: BrokerProcess
    let journal: JournalSocket
    /// Signalled: it is the heir no longer, whatever happens to the journal.
    let dismissal: SharedDescriptor
    /// It answered, and is told everything.
    var isReady = false
    /// When it was asked, or last spoke.
    var heard = Deadline.after(.zero)
    /// In this turn.
    var noted: [JournalPacket] = []
    /// Of this turn and those before: its socket is full.
    var unsent: [JournalPacket] = []
    /// How long it may take nothing of that.
    var lag: Deadline?
    var isWatchedForRoom = false
    /// It has been sent all tables: from then on it could take the broker's place.
    var isWhole = false
    private var isSynced = false

    init(
        _ number: UInt64, _ process: BrokerProcess, journal: JournalSocket,
        dismissal: SharedDescriptor
    ) {
        self.number = number
        self.process = process
        self.journal = journal
        self.dismissal = dismissal
    }

    func synced() { isSynced = true }

    /// True once.
    func takeSynced() -> Bool {
        defer { isSynced = false }
        return isSynced
    }

    func dismiss() { bus1_sys_event_signal(dismissal.rawValue) }
}

// Who takes this broker's place when it ends, and who may read what an heir must be able to write.
extension Broker {
    /// An heir that is not heard of for so long stands still.
    static let heirPatience = Duration.seconds(2)
    /// An heir that takes nothing of its journal for so long stands still; meanwhile nobody is told anything by the
    /// broker, which does everything else.
    static let heirLag = Duration.milliseconds(200)
    /// So many processes are asked at a time: who does not look at its messages does not answer.
    private static let askedMax = 4

    // MARK: Choosing

    /// A peer says that its process would take the broker's place.
    func standBy(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        guard message.bytes.count == MemoryLayout<ControlHeader>.size, message.header.roles.isEmpty
        else { throw .sever }
        if peer.process.standBy == nil {
            peer.process.standBy = peer.id
            noteProcess(peer.process)
        }
        chooseHeir()
        answer(message, from: peer, EmptyBody())
    }

    /// Asks the next process, if there is no heir and one that may be.
    func chooseHeir() {
        guard heir == nil, service != nil, !isBusPageSealed, asked.count < Self.askedMax else {
            return
        }
        let isAsked = { (process: BrokerProcess) in
            self.asked.contains { $0.process === process }
        }
        let order = { (process: BrokerProcess) in (process.timesAsked, process.number) }
        for process in processes.values.sorted(by: { order($0) < order($1) })
        where process.isLikeOwn && !isAsked(process) {
            guard let peer = process.standBy.flatMap({ peers[$0] }), peer.isAlive,
                // Others first; and who did not keep it several times is left alone.
                process.timesAsked < 8,
                peer.account.pid != getpid(), peer.queue.count < 64,
                // It may have been confined since it joined.
                bus1_sys_process_is_like_own(peer.account.pid) == 1,
                bus1_sys_pidfd_wait(process.pidfd.rawValue, 0) == 0
            else { continue }
            if ask(process, through: peer) { return }
        }
    }

    private func ask(_ process: BrokerProcess, through peer: BrokerPeer) -> Bool {
        var ends: (Int32, Int32) = (-1, -1)
        let made = withUnsafeMutablePointer(to: &ends) { pointer in
            pointer.withMemoryRebound(to: Int32.self, capacity: 2) { bus1_sys_socket_pair($0) }
        }
        guard made == 0 else { return false }
        let own = SharedDescriptor(Descriptor(owning: ends.0))
        let its = SharedDescriptor(Descriptor(owning: ends.1))
        guard let dismissal = try? BrokerThread.makeEvent() else { return false }
        process.timesAsked += 1
        lastHeir += 1
        let link = HeirLink(
            lastHeir, process, journal: JournalSocket(descriptor: own), dismissal: dismissal)
        guard watchReady(own.rawValue, writable: false, Token(.heir, link.number)) else {
            return false
        }
        link.heard = .after(Self.heirPatience)
        bus1_sys_close_on_fork(own.rawValue, true)
        asked.append(link)
        tell(
            .inherit, to: peer, EmptyBody(), roles: [.event, .socket],
            descriptors: [dismissal, its])
        shmring_fault_at(SHMRING_FAULT_JOURNAL_ASKED)
        return true
    }

    // MARK: Hearing

    /// Something stands in the journal of an heir, or of one that was asked.
    func heirSpoke(_ number: UInt64, watchingAgain: Bool = true) {
        guard
            let link = [heir].compactMap({ $0 }).first(where: { $0.number == number })
                ?? asked.first(where: { $0.number == number })
        else { return }
        while true {
            switch link.journal.receive() {
            case .record(let record):
                link.heard = .after(Self.heirPatience)
                switch record.kind {
                case .ping: _ = link.journal.say(.pong)
                case .synced: link.synced()
                case .ready: becameReady(link)
                default: return drop(link)
                }
            case .nothing:
                guard watchingAgain else { return }
                _ = watchReady(
                    link.journal.descriptor.rawValue, writable: false, Token(.heir, number))
                return
            case .ended, .full: return drop(link)
            }
            guard heir === link || asked.contains(where: { $0 === link }) else { return }
        }
    }

    private func becameReady(_ link: HeirLink) {
        asked.removeAll { $0 === link }
        guard heir == nil, let service, !isBusPageSealed else { return end(link) }
        heir = link
        link.isReady = true
        noteEverything(service)
        commitJournal()
    }

    func heirIsWhole() { setFilesStay(true) }

    /// It resigned, died, or says what it should not.
    private func drop(_ link: HeirLink) {
        link.process.standBy = nil
        if heir === link {
            loseHeir()
        } else {
            asked.removeAll { $0 === link }
            end(link)
            chooseHeir()
        }
    }

    /// Somebody is the heir, was asked, or would be: who could not be asked a moment ago may be asked now.
    var looksForHeirs: Bool {
        heir != nil || !asked.isEmpty
            || !isBusPageSealed && processes.values.contains { $0.isLikeOwn && $0.standBy != nil }
    }

    /// Called now and then: who has not been heard of stands still.
    func lookAfterHeirs() {
        if let heir, heir.heard.hasPassed {
            // Perhaps it was this broker that stood still.
            heirSpoke(heir.number, watchingAgain: false)
            if heir.heard.hasPassed { loseHeir() }
        }
        // A fifth is asked when the first of four has had its time.
        if heir == nil, asked.count == Self.askedMax, asked[0].heard.hasPassed {
            end(asked.removeFirst())
        }
        chooseHeir()
    }

    // MARK: Ending

    /// The heir is of no use any more; another one is looked for.
    func loseHeir() {
        guard heir != nil else { return }
        dismissHeir()
        chooseHeir()
    }

    func dismissHeir() {
        for link in asked { end(link) }
        asked = []
        guard let dismissed = heir else { return }
        setFilesStay(false)
        heir = nil
        end(dismissed)
        shmring_fault_at(SHMRING_FAULT_JOURNAL_DISMISSED)
    }

    /// Whatever it still has it gives up when it looks.
    private func end(_ link: HeirLink) {
        link.dismiss()
        unwatch(link.journal.descriptor.rawValue, Token(.heir, link.number))
        if link.isWatchedForRoom { unwatch(link.journal.descriptor.rawValue, .roomInJournal) }
        bus1_sys_close_on_fork(link.journal.descriptor.rawValue, false)
    }

    private func setFilesStay(_ stay: Bool) { BrokerThread.keepFiles(filesNumber, stay) }

    // MARK: What others may read

    /// Before a process is given the bus page. One of the broker's user that could not harm the broker
    /// otherwise must not be able to map it for writing: it is sealed, and nobody can become an heir
    /// from then on. Other users can't in any case.
    func sealBusPage(for peer: BrokerPeer) throws(Bus1Error) {
        guard !isBusPageSealed, mustNotWrite(peer) else { return }
        waitForHeir()
        try Self.seal(busPageDescriptor)
        isBusPageSealed = true
    }

    /// A descriptor of a peer's outbox for another peer, through which that one can only read.
    func outbox(
        of peer: BrokerPeer, toBeReadBy reader: BrokerPeer
    ) throws(Bus1Error) -> SharedDescriptor {
        guard let outbox = peer.outboxDescriptor else {
            throw Bus1Error(.nodeReleased, "introduce peers")
        }
        let areApart = peer.isolation == .process || reader.isolation == .process
        if !peer.isOutboxSealed, mustNotWrite(reader) || areApart && isOwnUser(reader) {
            waitForHeir()
            try Self.seal(outbox)
            peer.isOutboxSealed = true
            notePeer(peer)
        }
        return try Self.reopenReadOnly(outbox.rawValue)
    }

    private func isOwnUser(_ peer: BrokerPeer) -> Bool {
        peer.account.uid == geteuid() || peer.account.uid == overflowUID
    }

    /// It could open the broker's memory for writing, and is not known to be free to do worse.
    private func mustNotWrite(_ peer: BrokerPeer) -> Bool {
        isOwnUser(peer) && !peer.process.isLikeOwn
    }
}
