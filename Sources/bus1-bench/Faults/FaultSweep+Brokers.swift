import Bus1Shm
import CBench
import CShmRing
import Glibc

// Brokers and heirs, killed where they stand, and what must work afterwards.
extension FaultSweep {
    // MARK: Which cells

    /// Of processes that serve a bus or stand by for it.
    static func isOfServers(_ cell: FaultTable.Cell) -> Bool {
        cell.role == SHMRING_FAULT_BROKER || cell.role == SHMRING_FAULT_HEIR
    }

    /// Those that come by only where a broker is, or was, a process of its own.
    static func isOfBrokers(_ cell: FaultTable.Cell) -> Bool {
        isOfServers(cell) || isOfTheBereaved(cell)
    }

    /// A peer that is told that its broker is gone.
    private static func isOfTheBereaved(_ cell: FaultTable.Cell) -> Bool {
        cell.point == SHMRING_FAULT_AGAIN_SAID.rawValue
            || cell.point == SHMRING_FAULT_AGAIN_REPEATED.rawValue
    }

    /// The heir has just been lost, so that nobody follows the broker.
    static func isWithoutHeir(_ cell: FaultTable.Cell) -> Bool {
        cell.point == SHMRING_FAULT_JOURNAL_ASKED.rawValue
            || cell.point == SHMRING_FAULT_JOURNAL_DISMISSED.rawValue
    }

    /// The heir is about to take the broker's place, or in the middle of it.
    static func isTakingOver(_ cell: FaultTable.Cell) -> Bool {
        (SHMRING_FAULT_HEIR_KILLED.rawValue...SHMRING_FAULT_OVER_DONE.rawValue).contains(cell.point)
    }

    /// Broker and heir are both gone: whoever comes next begins a new bus.
    static func endsBus(_ cell: FaultTable.Cell) -> Bool {
        isWithoutHeir(cell) || isTakingOver(cell)
    }

    /// The next process that is asked to be the heir comes by.
    private func isOfSpares(_ cell: Int) -> Bool {
        table.cells[cell].point == SHMRING_FAULT_HEIR_ASKED.rawValue
            || table.cells[cell].point == SHMRING_FAULT_HEIR_READY.rawValue
    }

    /// Only somebody's death makes a broker come by.
    private static let ofDeaths = [
        SHMRING_FAULT_BROKER_SETTLED, SHMRING_FAULT_BROKER_DEATH, SHMRING_FAULT_BROKER_STAMPED,
        SHMRING_FAULT_BROKER_MARKED,
    ]

    // MARK: A round

    /// Kills so many brokers, heirs and peers, one or two at a time, of whom each is followed by another one; then
    /// broker and heir at once.
    mutating func killBrokers(_ count: Int) throws {
        guard let servers = run.servers, try servers.isComplete(withSpare: true) else {
            failures.append("nobody stands by for a new broker")
            return
        }
        let witness = try FaultWitness(run)
        var inVain = 0
        while killed < count, inVain < 20, !isOver {
            let only = only
            let isWanted = { (cell: FaultTable.Cell) in
                Self.isOfBrokers(cell) && !Self.endsBus(cell)
                    && FaultTable.name(of: cell.point).hasPrefix(only)
            }
            guard let cell = table.neediest(&dice, where: isWanted) else { break }
            let before = killed
            try killAndFollow(cell, witness)
            inVain = killed > before ? 0 : inVain + 1
        }
        guard !isOver, let cell = table.neediest(&dice, where: Self.endsBus) else { return }
        try endBus(cell)
        if isOver { try judgeEnd() }
    }

    private mutating func killAndFollow(_ cell: Int, _ witness: FaultWitness) throws {
        let name = FaultTable.name(of: table.cells[cell].point)
        let before = killed
        doing = table.wantsPair(cell) ? "\(name), in a pair" : name
        if Self.isOfTheBereaved(table.cells[cell]) {
            try killBereaved(cell)
        } else {
            try killServer(cell)
        }
        guard killed > before, let servers = run.servers else { return }
        guard try servers.isComplete(withSpare: true) else {
            failures.append("nobody took the place that became free at: \(name)")
            isOver = true
            return
        }
        try witness.look(after: name, &failures)
    }

    /// A broker, an heir, or one that is asked to be it; and perhaps a peer at the same time, which stands still before:
    /// without a broker most of them soon wait for it.
    private mutating func killServer(_ cell: Int) throws {
        let other = table.wantsPair(cell) ? try stopSomePeer() : nil
        defer { if let other { letGoOn(other) } }
        let peer = other?.member.peer
        guard var victim = try arm(cell, other == nil ? SIGKILL : SIGSTOP, without: nil) else {
            return
        }
        let claimer = try provokeServer(cell, without: peer)
        if var claimer, try arrival(of: &claimer) {
            try reap(claimer)
            table.hit(claimer.cell, inPair: false)
        }
        guard try arrival(of: &victim) else { return table.missed(cell) }
        if let other {
            for one in [victim, other] { Glibc.kill(one.member.pid, SIGKILL) }
            try reap(other)
            table.hit(other.cell, inPair: true)
        }
        try reap(victim)
        table.hit(cell, inPair: other != nil)
    }

    /// nil: nobody came by.
    private mutating func stopSomePeer() throws -> Victim? {
        let some = cellsAtOnce
        guard !some.isEmpty, var victim = try arm(some[roll(some.count)], SIGSTOP, without: nil)
        else { return nil }
        return try arrival(of: &victim) ? victim : nil
    }

    /// Makes the broker or the heir come by; returns a peer that is to be killed for that at a point of its own.
    mutating func provokeServer(_ cell: Int, without other: Int?) throws -> Victim? {
        let point = table.cells[cell].point
        if isOfSpares(cell) || point == SHMRING_FAULT_JOURNAL_WHOLE.rawValue {
            if let heir = run.servers?.heir { run.servers?.forget(heir, andEnd: true) }
        } else if point == SHMRING_FAULT_BROKER_BURIED.rawValue,
            let moved = table.cell(of: SHMRING_FAULT_CLAIM_MOVED, SHMRING_FAULT_SENDER)
        {
            // What it had claimed is to be buried.
            return try arm(moved, SIGKILL, without: other)
        } else {
            try renew(without: other)
        }
        return nil
    }

    /// A peer, as soon as it is told that another broker serves; the former one ends at a point, too.
    private mutating func killBereaved(_ cell: Int) throws {
        guard let brokerCell = someBrokerCell(), var victim = try arm(cell, SIGKILL, without: nil)
        else { return }
        guard var broker = try arm(brokerCell, SIGKILL, without: nil) else {
            _ = shmring_fault_disarm(victim.control)
            return
        }
        _ = try run.start(quota: .max)
        if try arrival(of: &broker) {
            try reap(broker)
            table.hit(brokerCell, inPair: true)
        } else {
            table.missed(brokerCell)
        }
        guard try arrival(of: &victim) else { return table.missed(cell) }
        try reap(victim)
        table.hitAfterAnother(cell)
    }

    /// A point at which a broker comes by when somebody joins.
    private mutating func someBrokerCell() -> Int? {
        let some = [
            SHMRING_FAULT_BROKER_WELCOMED, SHMRING_FAULT_BROKER_SEALED,
            SHMRING_FAULT_BROKER_PUBLISHED, SHMRING_FAULT_BROKER_RING,
            SHMRING_FAULT_JOURNAL_PACKET, SHMRING_FAULT_JOURNAL_ENTRY,
        ]
        return table.cell(of: some[roll(some.count)], SHMRING_FAULT_BROKER)
    }

    /// A process must start first, or stand still until its heir kills it.
    func serverPatience_ns(_ cell: Int) -> UInt64 {
        let isStopped = table.cells[cell].point == SHMRING_FAULT_HEIR_KILLED.rawValue
        return isStopped ? 5_000_000_000 : 500_000_000
    }

    /// Gives a server the order: the broker, its heir, or the one who will be asked next.
    mutating func armServer(_ cell: Int, _ signal: Int32) -> Victim? {
        let (point, role) = (table.cells[cell].point, table.cells[cell].role)
        guard let servers = run.servers,
            let server = role == SHMRING_FAULT_BROKER
                ? servers.broker : isOfSpares(cell) ? servers.spare : servers.heir
        else { return nil }
        // Some come by once for each newcomer or death.
        let comesOnce =
            isOfSpares(cell) || Self.endsBus(table.cells[cell])
            || point < SHMRING_FAULT_BROKER_PUBLISHED.rawValue
            || Self.ofDeaths.contains { $0.rawValue == point }
            || point == SHMRING_FAULT_JOURNAL_WHOLE.rawValue
        let isOneOfMany =
            point == SHMRING_FAULT_OVER_WATCHES.rawValue
            || point == SHMRING_FAULT_OVER_TOLD.rawValue
        let pass = isOneOfMany ? roll(4) : comesOnce ? 0 : roll(2)
        let control = run.faults(of: server.member.peer)
        shmring_fault_arm(control, point, role.rawValue, UInt32(pass), signal)
        return Victim(
            member: server.member, cell: cell, control: control, before: bench_recorder_now())
    }

    // MARK: The end of a bus

    /// Kills broker and heir, the later one at this point.
    private mutating func endBus(_ cell: Int) throws {
        bench_check_store(&run.stage.pointee.may_bus_end, 1)
        // Of a right that is just being given when both end one of two may know only: those who know each other go on.
        bench_check_store(&run.stage.pointee.is_broker_away, 1)
        usleep(50_000)
        doing = FaultTable.name(of: table.cells[cell].point)
        let isLater = Self.isTakingOver(table.cells[cell])
        let isDeath = table.cells[cell].point == SHMRING_FAULT_OVER_DEATH.rawValue
        let isResent = table.cells[cell].point == SHMRING_FAULT_OVER_RESENT.rawValue
        let other =
            !isLater
            ? table.cell(of: SHMRING_FAULT_HEIR_ENTRY, SHMRING_FAULT_HEIR)
            : isDeath
                ? table.cell(of: Self.ofDeaths[roll(Self.ofDeaths.count)], SHMRING_FAULT_BROKER)
                // What its journal told, and it did not come to send.
                : isResent
                    ? table.cell(of: SHMRING_FAULT_JOURNAL_ENTRY, SHMRING_FAULT_BROKER)
                    : someBrokerCell()
        guard let other else { return }
        // A broker that is stopped is killed by its heir.
        let isStopped = table.cells[cell].point == SHMRING_FAULT_HEIR_KILLED.rawValue
        guard var last = try arm(cell, SIGKILL, without: nil),
            var first = try arm(other, isStopped ? SIGSTOP : SIGKILL, without: nil)
        else { return }
        if isDeath, let spare = run.servers?.spare {
            run.servers?.forget(spare, andEnd: true)
        } else {
            _ = try run.start(quota: .max)
        }
        guard try arrival(of: &first) else {
            bench_check_store(&run.stage.pointee.is_broker_away, 0)
            if !shmring_fault_disarm(last.control) { _ = try arrival(of: &last) }
            return table.missed(other)
        }
        guard try arrival(of: &last) else {
            bench_check_store(&run.stage.pointee.is_broker_away, 0)
            return table.missed(cell)
        }
        try reap(first)
        try reap(last)
        table.hit(other, inPair: true)
        table.hitAfterAnother(cell)
        isOver = true
    }

    /// Those who know each other go on, and whoever comes next begins a new bus in the same place.
    private mutating func judgeEnd() throws {
        let run = run
        let known = run.members.map(\.peer).filter { run.at($0).pointee.received > 500 }
        let before = known.map { run.at($0).pointee.received }
        let goOn = run.servers?.eventually {
            zip(known, before).allSatisfy { run.at($0).pointee.received >= $1 + 64 }
        }
        if goOn != true {
            let silent = zip(known, before).filter { run.at($0).pointee.received < $1 + 64 }.map(
                \.0)
            failures.append("without a broker, these receive nothing more: \(silent)")
        }
        do {
            try FaultWitness.meet(on: run.bus)
        } catch {
            failures.append("no new bus after broker and heir have ended: \(error)")
        }
    }
}
