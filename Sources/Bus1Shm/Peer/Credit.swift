import CShmRing

/// What one message brings besides bytes, and is charged for at its receiver: to the senders of its trust domain, until
/// the message is given back. All of it or nothing.
struct CreditCharge {
    var handles = 0
    var descriptors = 0
    /// Of a segment that the receiver has to map.
    var bytes = 0

    var isEmpty: Bool { handles == 0 && descriptors == 0 && bytes == 0 }
    fileprivate var amounts: shmring_amounts {
        shmring_amounts_make(0, UInt64(handles), UInt64(descriptors), UInt64(bytes))
    }

    /// How much of the kind that is short.
    fileprivate func amount(_ resource: Resource) -> Int {
        switch resource {
        case .handles: handles
        case .descriptors: descriptors
        default: bytes
        }
    }
}

private let chargedKinds: [(kind: UInt32, resource: Resource)] = [
    (UInt32(SHMRING_CREDIT_RIGHTS.rawValue), .handles),
    (UInt32(SHMRING_CREDIT_DESCRIPTORS.rawValue), .descriptors),
    (UInt32(SHMRING_CREDIT_BYTES.rawValue), .bytes),
]

/// Who waits for credit at a receiver, and since when.
struct CreditWait {
    let link: Link
    let announced: UInt32
    /// What holds something else once credit was given back.
    var ringsWord: UnsafePointer<UInt32> {
        UnsafePointer(link.creditBell.pointer(to: \.rings)!)
    }

    /// Sleeps until some has been given back, or a while.
    func sleep(until deadline: Deadline) {
        shmring_bell_sleep(link.creditBell, announced, deadline.monotonic_ns)
    }
}

// MARK: The sender's side

extension LinkRoute {
    fileprivate var itsControl: UnsafeMutablePointer<shmring_ring_control> {
        producer.pointee.control
    }

    /// Charges what a message brings, before anything is claimed. `producer`: the lane's into the ring behind the link.
    ///
    /// - Returns: nil; or what is not there, and nothing is charged.
    func charge(
        _ charge: CreditCharge, by producer: UnsafeMutablePointer<shmring_producer>
    ) -> shmring_shortage? {
        guard !charge.isEmpty else { return nil }
        var amounts = charge.amounts
        var shortage = shmring_shortage()
        let result = shmring_credit_charge(producer, boardOut, &amounts, &shortage)
        return result == 0 ? nil : shortage
    }

    /// It was not sent after all.
    func takeBack(_ charge: CreditCharge) {
        guard !charge.isEmpty else { return }
        var amounts = charge.amounts
        shmring_credit_take_back(itsControl, boardOut, &amounts)
    }

    fileprivate var creditBell: UnsafeMutablePointer<shmring_bell> {
        itsControl.pointer(to: \.credit_bell)!
    }
}

extension Link {
    fileprivate var creditBell: UnsafeMutablePointer<shmring_bell> { route.pointee.creditBell }

    func takeBack(_ charge: CreditCharge) { route.pointee.takeBack(charge) }

    /// Charges, or refuses. `wait`: how to wait for it, unless no waiting helps.
    ///
    /// - Throws: `overQuota`, nothing is charged then.
    func charge(
        _ charge: CreditCharge, by producer: UnsafeMutablePointer<shmring_producer>,
        account: Account, _ wait: inout CreditWait?
    ) throws(Bus1Error) {
        guard route.pointee.charge(charge, by: producer) != nil else { return }
        let announced = shmring_bell_announce(creditBell)
        guard let shortage = route.pointee.charge(charge, by: producer) else { return }
        let resource = chargedKinds.first { $0.kind == shortage.kind }!.resource
        // Alone, a sender gets half.
        let isPossible = UInt64(charge.amount(resource)) <= (shortage.limit + 1) / 2
        if isPossible { wait = CreditWait(link: self, announced: announced) }
        throw Bus1Error(
            .overQuota, "charge what a message brings",
            refusal: .init(
                resource: resource, used: Int(clamping: shortage.used),
                limit: Int(clamping: shortage.limit), account: account))
    }
}

// MARK: The receiver's side

/// What a message has been charged: given back when this goes. Any thread.
struct ReceivedCharge: ~Copyable, @unchecked Sendable {
    // @unchecked: ring and link are only kept; what is written there, any thread may write.
    private let charge: CreditCharge
    private let ring: OwnRing
    private let link: Link
    /// It brings more than its trust domain may have outstanding, which no honest sender sends.
    let isTooMuch: Bool

    /// Takes note of what a message brings. Only the receiving thread.
    init(_ charge: CreditCharge, from link: Link, in ring: OwnRing) {
        self.charge = charge
        self.ring = ring
        self.link = link
        var amounts = charge.amounts
        isTooMuch =
            shmring_allowance_receive(
                ring.allowance, &link.route.pointee.received, &amounts) != 0
    }

    /// For a list.
    final class Box {
        private let charge: ReceivedCharge
        init(_ charge: consuming ReceivedCharge) { self.charge = charge }
    }

    deinit {
        guard !charge.isEmpty else { return }
        var amounts = charge.amounts
        shmring_allowance_give_back(ring.allowance, link.boardIn, &amounts)
    }
}

extension PeerCore {
    /// What all users together may have outstanding here.
    private func total(_ resource: Resource) -> UInt64 {
        resource == .bytes ? viewLimit_bytes : UInt64(limits[resource])
    }

    /// Descriptors in messages that were received and are not given back.
    func descriptorsHeld() -> Int {
        let kind = UInt32(SHMRING_CREDIT_DESCRIPTORS.rawValue)
        return rings.reduce(0) { $0 + Int(clamping: shmring_allowance_held($1.allowance, kind)) }
    }

    /// Gives each user its share, and each of its rings a part of that: when there is a new ring or link, after a death,
    /// when a limit has changed, and while somebody still has more than that.
    func shareCredit() {
        var ringsOfUser: [UInt32: [OwnRing]] = [:]
        for ring in rings { ringsOfUser[user(of: ring), default: []].append(ring) }
        let users = UInt64(ringsOfUser.count)
        guard users > 0 else { return }
        isCreditUneven = false
        for (kind, resource) in chargedKinds {
            let total = total(resource)
            let even = total / (2 * users)
            var exposures: [UInt32: UInt64] = [:]
            var all: UInt64 = 0
            for (user, rings) in ringsOfUser {
                let used = rings.reduce(0) {
                    $0 + shmring_allowance_outstanding($1.allowance, kind)
                }
                if used > even { isCreditUneven = true }
                exposures[user] = max(even, used)
                all += max(even, used)
            }
            for (user, rings) in ringsOfUser {
                let share = shmring_credit_share(total, users, all - exposures[user]!)
                let part = share / UInt64(rings.count)
                for ring in rings where ring.allowance.pointee.limit(kind) != part {
                    shmring_allowance_set(ring.allowance, kind, part)
                }
            }
        }
    }

    /// Whose peers write into a ring. One that nobody writes into yet counts as a user of its own.
    private func user(of ring: OwnRing) -> UInt32 {
        if ring.domain == ownDomain { return account.uid }
        return links.first { $0.ownRing == ring.id }?.account.uid ?? .max - ring.id.rawValue
    }

    /// A dead peer's messages have all been received: what it had charged and not sent comes back.
    func buryCredit(of link: Link) {
        guard let ring = rings.first(where: { $0.id == link.ownRing }) else { return }
        shmring_allowance_bury(ring.allowance, link.boardIn, &link.route.pointee.received)
        shareCredit()
    }
}

extension shmring_allowance {
    func limit(_ kind: UInt32) -> UInt64 {
        withUnsafeBytes(of: limit) { $0.load(fromByteOffset: Int(kind) * 8, as: UInt64.self) }
    }
}
