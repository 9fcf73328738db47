@_spi(Checking) @_spi(Hostile) import Bus1Shm
import CBench
import Glibc

/// Does at random what a peer can do, and writes down what it did and got.
struct CheckActor: ~Copyable {
    /// A node of this peer that others can look up.
    final class Place {
        let number: UInt32
        let id: NodeID
        var node: Node?

        init(_ number: UInt32, _ node: consuming Node) {
            self.number = number
            id = node.id
            self.node = consume node
        }
    }

    struct Held {
        let id: HandleID
        let node: UInt32
    }

    let peer: Peer
    let stage: UnsafeMutablePointer<bench_check_stage>
    let mine: UnsafeMutablePointer<bench_check_peer>
    let recorder: UnsafeMutablePointer<bench_recorder>
    let me: Int
    let quota: UInt64
    let access: Access
    let habits: CheckHabits
    var dice: SplitMix64
    var places: [Place] = []
    /// Nodes that cannot be looked up: few hold handles to them, so that the last one often goes.
    var secrets: [Place] = []
    /// Nodes to which only this peer ever holds handles, so that it knows when the last one goes.
    var privates: [Place] = []
    var privateHandles: [Held] = []
    var ownNodes: [NodeID: UInt32] = [:]
    static let secretBit: UInt32 = 1 << 13
    var handles: [Held] = []
    /// Where a handle stands in `handles`.
    var indices: [HandleID: Int] = [:]
    /// The only grant that it ever had of each of some peers.
    var victims: [UInt32: HandleID] = [:]
    var nodesMade: UInt32 = 0
    var transactions: UInt64 = 0
    var steps: UInt64 = 0
    var items: [UInt32] = []
    /// It came when the bus ended: it only looks on.
    var isIdle = false
    /// The latest notice said that no handles are left.
    var noneLeft = false

    init(
        peer: consuming Peer, stage: UnsafeMutablePointer<bench_check_stage>, me: Int,
        quota: UInt64, dice: SplitMix64, access: Access, habits: CheckHabits
    ) {
        self.peer = peer
        self.stage = stage
        self.me = me
        self.quota = quota
        self.dice = dice
        self.access = access
        self.habits = habits
        mine = bench_check_peer_at(stage, UInt32(me))
        recorder = bench_check_recorder(stage, UInt32(me))
    }

    mutating func roll(_ sides: Int) -> Int { Int(dice.next() % UInt64(sides)) }

    // MARK: Setting up

    mutating func gather(places count: Int) throws {
        do {
            for place in 0..<count { try addPlace(place) }
            for _ in 0..<4 { secrets.append(try makeNode(isSecret: true)) }
            for _ in 0..<3 { privates.append(try makeNode(isSecret: true)) }
        } catch let error as Bus1Error where isLoss(of: error) {
            isIdle = true
        }
        mine.pointee.phase = BENCH_CHECK_GATHER.rawValue
    }

    /// Makes a node and publishes it.
    mutating func addPlace(_ index: Int) throws {
        let place = try makeNode(isSecret: false)
        // Written down before, since a look-up may end before the call does.
        bench_recorder_begin(recorder, BENCH_RECORD_PUBLISH.rawValue, 0, [place.number], 1)
        if index == places.count { places.append(place) } else { places[index] = place }
        do throws(Bus1Error) {
            asks(true)
            defer { asks(false) }
            try peer.publish(place.node!, as: "c\(place.number)", to: access)
        } catch {
            guard isLoss(of: error) else { throw error }
            return bench_recorder_forget(recorder)
        }
        bench_recorder_end(recorder, 0)
        bench_check_store(bench_check_place(stage, UInt32(me), UInt32(index)), place.number)
    }

    /// Makes a node; to a secret one handles come in messages only.
    mutating func makeNode(isSecret: Bool) throws -> Place {
        nodesMade += 1
        // 13 bits count the nodes of a peer, which are enough for a run; 0 is no node.
        let number = UInt32(me) << 14 | (isSecret ? Self.secretBit : 0) | nodesMade
        let begin = bench_recorder_now()
        let place = Place(number, try peer.makeNode(tag: UInt64(number)))
        record(BENCH_RECORD_NODE, since: begin, number)
        ownNodes[place.id] = number
        return place
    }

    // MARK: Phases

    mutating func run() throws {
        var quiet = 0
        var seen: UInt32 = BENCH_CHECK_GATHER.rawValue
        while true {
            let phase = bench_check_load(&stage.pointee.phase)
            if phase != seen {
                seen = phase
                quiet = 0
                if phase == BENCH_CHECK_LET_GO.rawValue { try letGo() }
            }
            switch phase {
            case BENCH_CHECK_GATHER.rawValue:
                _ = try receive(until: .after(.milliseconds(1)))
            case BENCH_CHECK_ACT.rawValue where transactions < quota:
                try act()
            case BENCH_CHECK_ACT.rawValue, BENCH_CHECK_LET_GO.rawValue:
                mine.pointee.phase = phase
                _ = try receive(until: .after(.milliseconds(1)))
            case BENCH_CHECK_EMPTY.rawValue, BENCH_CHECK_SETTLE.rawValue:
                quiet = try receive(until: .after(.milliseconds(20))) ? 0 : quiet + 1
                if quiet >= 5 && (quiet >= 100 || !expectsNotices()) {
                    mine.pointee.phase = phase
                }
            default:
                report()
                record(BENCH_RECORD_DRAINED, since: bench_recorder_now())
                mine.pointee.phase = phase
                return
            }
        }
    }

    /// The owner of a node is gone to whom this peer holds a handle.
    private func expectsNotices() -> Bool {
        handles.contains { isDead($0.node >> 14) }
    }

    private func isDead(_ other: UInt32) -> Bool {
        bench_check_load(&bench_check_peer_at(stage, other).pointee.dead) != 0
    }

    private mutating func letGo() throws {
        if !privateHandles.isEmpty { try cross() }
        while !handles.isEmpty {
            let before = handles.count
            try dropSeveral(8)
            // Those that are left are of nodes that were released, and their notices on the way.
            guard handles.count < before else { break }
        }
    }

    private mutating func report() {
        for (index, rule) in peer.ruleCounts.enumerated() {
            bench_check_count(stage, UInt32(me), UInt32(index)).pointee = rule.count
        }
    }

    // MARK: Acting

    private mutating func act() throws {
        steps += 1
        if steps % 1024 == 0 { report() }
        for _ in 0..<roll(6) {
            guard try tryReceive() else { break }
            if noneLeft { try crossBack() }
        }
        if habits.pace_us > 0, roll(8) == 0 { usleep(UInt32(roll(habits.pace_us))) }
        // Whatever else there is to do: who asks the broker now waits for it.
        let isBrokerAway = bench_check_load(&stage.pointee.is_broker_away) != 0
        if isIdle || isBrokerAway && handles.isEmpty || habits.usesOneRing && me == 0 {
            _ = try receive(until: .after(.milliseconds(1)))
            return
        }
        if habits.usesOneRing { return handles.count < 8 ? try lookUp() : try sendOne() }
        switch isBrokerAway ? roll(930) : handles.count < 8 ? 995 : roll(1000) {
        case 0..<60 where habits.isLong: try sendLong()
        case 60..<80 where habits.isLong: try sendPatiently()
        case 0..<560: try sendOne()
        case 560..<930: try sendSeveral()
        case 930..<960: if habits.passes { try handOver() } else { try sendOne() }
        case 960..<970: _ = try receive(until: .after(.microseconds(roll(200))))
        case 970..<973: try drop(handles[roll(handles.count)])
        case 973..<975: try dropSeveral(2 + roll(6))
        case 975..<977: try holdOwn(places[roll(places.count)])
        case 977..<980: try holdOwn(secrets[roll(secrets.count)])
        case 980..<984 where habits.forges: try forge()
        case 985: try releaseNode()
        case 986..<992: try cross()
        case 994...: try lookUp()
        default: sched_yield()
        }
        if handles.count > 200 { try drop(handles[roll(handles.count)]) }
    }

    func nextTransaction() -> UInt64 { UInt64(me) << 40 | (transactions + 1) }

    /// Ends the open record as the call did; counts.
    mutating func sent(_ happened: Bool?) {
        if happened == true {
            bench_recorder_end(recorder, 0)
            transactions += 1
            mine.pointee.sent = transactions
            return
        }
        mine.pointee.full += 1
        if happened == false {
            // Its number is not used again: should it come after all, that is a violation.
            bench_recorder_end(recorder, BENCH_RECORD_FAILED.rawValue)
            transactions += 1
        } else {
            bench_recorder_forget(recorder)
            transactions += 1
            sched_yield()
        }
    }

    private mutating func sendOne() throws {
        let one = handles[roll(handles.count)]
        let parcel = Parcel(transaction: nextTransaction())
        bench_recorder_begin(
            recorder, BENCH_RECORD_SEND.rawValue, parcel.transaction, [one.node], 1)
        do throws(Bus1Error) {
            sent(try peer.trySend(parcel, to: one.id) == nil ? nil : true)
        } catch {
            try expect(error, [.nodeReleased, .noSuchHandle])
        }
    }

    private mutating func sendSeveral() throws {
        items.removeAll(keepingCapacity: true)
        var ids: [HandleID] = []
        for _ in 0..<2 + roll(3) {
            let one = handles[roll(handles.count)]
            guard !items.contains(one.node) else { continue }
            items.append(one.node)
            ids.append(one.id)
        }
        let parcel = Parcel(transaction: nextTransaction())
        bench_recorder_begin(
            recorder, BENCH_RECORD_SEND.rawValue, parcel.transaction, items, UInt32(items.count))
        do throws(Bus1Error) {
            let values = [parcel]
            try peer.send(values.span.bytes, to: ids, until: .now)
            sent(true)
        } catch {
            try expect(error, [.nodeReleased, .noSuchHandle, .timedOut])
        }
    }

    mutating func expect(_ error: Bus1Error, _ codes: [Bus1Error.Code]) throws {
        guard codes.contains(error.code) || isLoss(of: error) else { throw error }
        sent(error.code == .timedOut ? nil : false)
    }

    /// The broker is gone with its heir, as it may be.
    func isLoss(of error: Bus1Error) -> Bool {
        error.code == .severed && bench_check_load(&stage.pointee.may_bus_end) != 0
    }

    /// Whether the broker is asked for something, and waited for.
    func asks(_ itDoes: Bool) { bench_check_store(&mine.pointee.asks, itDoes ? 1 : 0) }

    // MARK: Handles

    mutating func hold(_ id: HandleID, _ node: UInt32) {
        indices[id] = handles.count
        handles.append(Held(id: id, node: node))
    }

    mutating func forget(_ id: HandleID) -> UInt32? {
        guard let index = indices.removeValue(forKey: id) else { return nil }
        let one = handles[index]
        handles.swapAt(index, handles.count - 1)
        handles.removeLast()
        if index < handles.count { indices[handles[index].id] = index }
        return one.node
    }

    mutating func drop(_ one: Held) throws {
        bench_recorder_begin(recorder, BENCH_RECORD_DROP.rawValue, 0, [one.node], 1)
        do throws(Bus1Error) {
            try peer.release(one.id)
            bench_recorder_end(recorder, 0)
        } catch {
            // Its owner is dead, and the notice of that is on its way.
            guard error.code == .noSuchHandle else { throw error }
            bench_recorder_forget(recorder)
            return
        }
        _ = forget(one.id)
    }

    mutating func holdOwn(_ place: Place) throws {
        if let id = try makeOwnHandle(place) { hold(id, place.number) }
    }

    /// nil: the first one needs the broker, which is gone.
    func makeOwnHandle(_ place: Place) throws -> HandleID? {
        let begin = bench_recorder_now()
        do throws(Bus1Error) {
            let handle = try peer.makeHandle(to: place.node!)
            record(BENCH_RECORD_HANDLE, since: begin, place.number)
            return handle.detach()
        } catch {
            guard isLoss(of: error) else { throw error }
            return nil
        }
    }

    private mutating func lookUp() throws {
        let count = habits.usesOneRing ? 1 : Int(bench_check_load(&stage.pointee.peer_count))
        let other = roll(count)
        let place = UInt32(roll(max(places.count, 1)))
        let number = bench_check_load(bench_check_place(stage, UInt32(other), place))
        guard number != 0, !isDead(UInt32(other)) else { return }
        // Who forges must know which grants are not its own: of some it takes one at most, for good.
        if habits.forges && isVictim(number >> 14) && victims[number >> 14] != nil { return }
        // Before, since who is killed in the middle may have been given a handle.
        bench_recorder_begin(recorder, BENCH_RECORD_LOOKUP.rawValue, 0, [number], 1)
        do throws(Bus1Error) {
            asks(true)
            defer { asks(false) }
            let handle = try peer.lookUp("c\(number)", until: .after(.milliseconds(20)))
            bench_recorder_end(recorder, 0)
            let id = handle.detach()
            hold(id, number)
            if habits.forges && isVictim(number >> 14) { victims[number >> 14] = id }
        } catch {
            // Nobody offers it any more.
            bench_recorder_forget(recorder)
            guard error.code == .timedOut || error.code == .nodeReleased || isLoss(of: error)
            else { throw error }
        }
    }

    private func isVictim(_ other: UInt32) -> Bool { other % 2 == 1 && other != me }

    /// Writes a message under a grant that is somebody else's: one whose number the owner chose,
    /// which none of this peer's is. Nobody sent it: whoever gets it was cheated.
    private mutating func forge() throws {
        guard let id = victims.values.randomElement(using: &dice), let handle = peer.adopt(id)
        else { return }
        let parcel = Parcel(transaction: UInt64(me) << 40 | 1 << 39 | steps)
        do throws(Bus1Error) {
            try peer.sendForged(parcel, grantsBeyond: 1 << 31 + UInt32(roll(16)), to: handle)
            mine.pointee.forged += 1
        } catch {
            // Full, or gone.
        }
        _ = handle.detach()
    }

    func record(_ kind: bench_record_kind, since begin: UInt64, _ node: UInt32? = nil) {
        if let node {
            bench_recorder_add(recorder, kind.rawValue, begin, 0, [node], 1)
        } else {
            bench_recorder_add(recorder, kind.rawValue, begin, 0, nil, 0)
        }
    }
}
