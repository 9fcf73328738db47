import CBus1System
import CShmRing
import Glibc

// What a successor does first, with the tables that it kept as an heir.
extension Broker {
    /// Serves from here on: whoever was connected still is, through the same sockets.
    func succeed(_ service: Service) {
        serve(service)
        // New connections are shown this process's account, not the former broker's.
        _ = bus1_sys_socket_listen_again(service.listener.rawValue)
        shmring_fault_at(SHMRING_FAULT_OVER_LISTENS)
        hasServed = true
        for process in processes.values {
            // One that ended meanwhile is found at once.
            _ = watchReady(
                process.pidfd.rawValue, writable: false, Token(.process, process.number))
        }
        countAnew()
        let known = peers.values.sorted { $0.id.rawValue < $1.id.rawValue }
        for peer in known {
            guard let socket = peer.socket else { continue }
            let token = Token(.packets, UInt64(peer.id.rawValue))
            guard peer.version >= controlVersionOfSuccession,
                watchPackets(socket.rawValue, token)
            else {
                cut(peer)
                continue
            }
            peer.asksAgain = true
            // The former broker may have counted one whom it did not come to tell.
            peer.outbox?.setNewcomers(peer.given)
            shmring_fault_at(SHMRING_FAULT_OVER_WATCHES)
        }
        // What it counted in the place of a broker that stood still goes on by the alarm.
        judgeStalls()
        for peer in known where peer.dyingAs != nil {
            die(peer)
            shmring_fault_at(SHMRING_FAULT_OVER_DEATH)
        }
        // Before anybody gets anything: who receives from a stranger asks before it drops that.
        for peer in known where peer.socket != nil { peer.outbox?.attend() }
        shmring_fault_at(SHMRING_FAULT_OVER_ATTENDED)
        sendAgain(to: known)
        for peer in known where peer.socket != nil {
            tell(.succeeded, to: peer, EmptyBody())
            flush(peer)
            peer.outbox?.attend()
            shmring_fault_at(SHMRING_FAULT_OVER_TOLD)
        }
        for peer in known where peer.isAlive {
            if let ticket = peer.redeeming { redeem(ticket, for: peer) }
        }
        chooseHeir()
        shmring_fault_at(SHMRING_FAULT_OVER_DONE)
    }

    /// What the former broker may have sent or not: who has it drops it by its number. In the order in which it was said:
    /// should this broker end in the middle, too, nobody has been given a right of which the owner was not told.
    private func sendAgain(to known: [BrokerPeer]) {
        let waiting = known.filter { $0.socket != nil }.flatMap { peer in
            peer.queue.map { (place: $0.placeInJournal, peer: peer) }
        }
        for (_, peer) in waiting.sorted(by: { $0.place < $1.place }) {
            flush(peer, most: 1)
            shmring_fault_at(SHMRING_FAULT_OVER_RESENT)
        }
    }

    /// What follows from the tables.
    private func countAnew() {
        connectionCount = peers.values.count { $0.socket != nil }
        peersOfUser = [:]
        chargesOfUser = [:]
        for entry in unburied.values { peersOfUser[entry.uid, default: 0] += 1 }
        for peer in peers.values {
            let uid = peer.account.uid
            peersOfUser[uid, default: 0] += 1
            var charges = peer.memoryCharge
            for _ in peer.introduced { charges = charges + Self.linkCharge }
            chargesOfUser[uid] = chargesOfUser[uid, default: Charges()] + charges
        }
        for ring in rings.values {
            ring.findFreed()
            chargesOfUser[ring.payer] = chargesOfUser[ring.payer, default: Charges()] + ring.charge
        }
    }
}
