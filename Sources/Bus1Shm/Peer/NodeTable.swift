import CShmRing
import Glibc

/// What is known of a grant besides what the path of a message reads (`GrantEntry`). Under the lock of the nodes.
///
/// A grant stands in two lists at once: those of its node, and those of its holder. 0 ends a list.
struct GrantRecord {
    struct Marks: OptionSet {
        let rawValue: UInt32
        /// For one message.
        static let oneShot = Marks(rawValue: 1)
        /// Its key is in the table of those that are not bound yet.
        static let unbound = Marks(rawValue: 2)
        /// A message came under it behind its node's release.
        static let late = Marks(rawValue: 4)
    }

    var nextOfNode: UInt32 = 0
    var previousOfNode: UInt32 = 0
    var nextOfHolder: UInt32 = 0
    var previousOfHolder: UInt32 = 0
    /// The holder's link.
    var link: UInt32 = 0
    var marks: Marks = []
    var key = GrantKey(granter: 0, number: 0)
}

/// A node, from its making until it is released and the last holder of it is gone.
struct NodeRecord {
    enum State: Equatable {
        case alive
        /// Released at this place in the order.
        case released(UInt64)
    }

    let tag: UInt64
    var state = State.alive
    var firstGrant: UInt32 = 0
    /// Grants of it.
    var holders = 0
    /// Names and tickets under which the broker may still give it away: until then its release word stays its own.
    var pins = 0
    /// How often the last holder has gone: a notice of an earlier time is not delivered any more.
    var crossings: UInt64 = 0
    /// When its latest handle was given up, unless the last one's going has been told: that is due with the end of the
    /// last grant, also where that one was for a reply or is undone.
    var owed: UInt64?
}

/// Where a node is kept. All zeroes: there is none.
struct NodePlace {
    /// 0: there is none.
    var id: UInt64
    var record: NodeRecord
}

/// Nodes, by their release words: no two have one word at a time.
struct NodeList: @unchecked Sendable {
    // @unchecked: the places are under the lock of the list.
    private let places: UnsafeMutablePointer<NodePlace>
    private var end = 0
    private(set) var count = 0

    init(_ memory: GrantMemory) { places = memory.nodes }

    /// Those that are alive.
    var alive: [UInt64] {
        (0..<end).filter { places[$0].id != 0 && places[$0].record.state == .alive }
            .map { places[$0].id }
    }

    private static func index(_ id: UInt64) -> Int { Int(NodeID(rawValue: id).word) }

    /// Where its record is, as long as it is there.
    @inline(__always)
    func place(_ id: UInt64) -> UnsafeMutablePointer<NodeRecord>? {
        let index = Self.index(id)
        guard id != 0, index < end, places[index].id == id else { return nil }
        return (places + index).pointer(to: \.record)
    }

    subscript(id: UInt64) -> NodeRecord? { place(id)?.pointee }

    mutating func add(_ id: UInt64, tag: UInt64) {
        let index = Self.index(id)
        precondition(index < Int(SHMRING_RELEASE_WORDS), "a node has a release word")
        end = max(end, index + 1)
        precondition(places[index].id == 0, "two nodes have one release word")
        (places + index).initialize(to: NodePlace(id: id, record: NodeRecord(tag: tag)))
        count += 1
    }

    mutating func remove(_ id: UInt64) {
        guard place(id) != nil else { return }
        places[Self.index(id)].id = 0
        count -= 1
    }
}

/// How a grant ends.
enum GrantEnd {
    /// Its holder gave it up, or is gone.
    case givenUp
    /// It was for one message, which has come.
    case used
    /// Nobody ever saw it.
    case undone
}

/// The peer's nodes and who holds handles to them: the owner's list. Under one lock, since nodes are made and released on
/// any thread.
struct NodeTable: @unchecked Sendable {
    // @unchecked: the pointers of `memory` are fixed.

    /// A holder, by the index of its link.
    private struct Holder {
        /// As slots name it.
        var sender: UInt32
        var ring: UInt32
        let account: Account
        var firstGrant: UInt32 = 0
        /// Dead or severed: it gets nothing any more.
        var isGone = false
    }

    private struct UnboundKey: Hashable {
        let link: UInt32
        let key: GrantKey
    }

    let memory: GrantMemory
    private let chores: Chores
    /// For those who wait until there are fewer nodes.
    var bell: UnsafeMutablePointer<shmring_bell>?
    private(set) var nodes: NodeList
    /// What they are published as.
    private var names: [UInt64: [String]] = [:]
    private var holders: [Holder] = []
    private var unbound: [UnboundKey: UInt32] = [:]
    private var freeGrants: [UInt32] = []
    private var nextGrant: UInt32 = 1
    private(set) var grantCount = 0
    /// How many holders the broker has told of.
    var newcomers: UInt64 = 0
    /// Notices that were not told since there was a new holder.
    private(set) var withdrawals: UInt64 = 0
    /// In the own outbox.
    private let words: UnsafeMutablePointer<UInt64>
    /// Release words that no node has and nobody can still read for an earlier one.
    private var freeWords: [UInt32] = []
    private var nextWord: UInt32 = 0
    /// Nodes by the numbers of grants that tickets bring.
    private var setAside: [UInt32: UInt64] = [:]
    /// Of released nodes, to be taken back by the peer's own domain, which has the connection.
    private var unpublished: [(node: UInt64, name: String)] = []
    /// Notices that are due since a grant was undone, or beside another one.
    private var late: [QueuedNotice] = []

    init(memory: GrantMemory, words: UnsafeMutablePointer<UInt64>, _ chores: Chores) {
        self.memory = memory
        nodes = NodeList(memory)
        self.chores = chores
        self.words = words
    }

    // MARK: Nodes

    /// A node with a release word of its own. nil: no word is free, or there is no memory for it.
    mutating func makeNode(count: UInt64, tag: UInt64) -> NodeID? {
        guard let word = takeWord() else { return nil }
        let id = NodeID(count: count, word: word)
        nodes.add(id.rawValue, tag: tag)
        return id
    }

    private mutating func takeWord() -> UInt32? {
        if let word = freeWords.popLast() { return word }
        guard nextWord < UInt32(SHMRING_RELEASE_WORDS) else { return nil }
        // No memory must be an error here, not a signal when the word is written.
        let perPage = UInt32(SHMRING_PAGE_BYTES) / 8
        if nextWord % perPage == 0 {
            let page = words + Int(nextWord)
            guard madvise(page, Int(SHMRING_PAGE_BYTES), memoryPopulateWrite) == 0 else {
                return nil
            }
        }
        defer { nextWord += 1 }
        return nextWord
    }

    func releaseWord(of node: NodeID) -> UnsafeMutablePointer<UInt64> { words + Int(node.word) }

    func isAlive(_ node: UInt64) -> Bool { nodes.place(node)?.pointee.state == .alive }

    mutating func addName(_ name: String, to node: UInt64) {
        guard let place = nodes.place(node) else { return }
        names[node, default: []].append(name)
        place.pointee.pins += 1
    }

    /// The node was released at that stamp. Its grants stay: what was sent before is still delivered.
    mutating func released(_ node: UInt64, at stamp: UInt64) {
        guard let place = nodes.place(node), place.pointee.state == .alive else { return }
        place.pointee.state = .released(stamp)
        if let names = names.removeValue(forKey: node) {
            unpublished += names.map { (node, $0) }
            chores.set(.names)
        }
        forgetIfUnheld(node)
    }

    /// Makes every message to the node be looked at: before its release gets a stamp.
    func markGrants(of node: UInt64) {
        forEachGrant(of: node) { index, _ in
            let route = memory.entries[Int(index)].route | PeerHot.slowly
            shmring_store_release(routeWord(index), route)
        }
    }

    /// The holders' links, each at least once.
    func forEachHolder(of node: UInt64, _ body: (UInt32) -> Void) {
        forEachGrant(of: node) { _, record in body(record.link) }
    }

    private func forEachGrant(of node: UInt64, _ body: (UInt32, GrantRecord) -> Void) {
        var index = nodes[node]?.firstGrant ?? 0
        while index != 0 {
            let record = memory.records[Int(index)]
            body(index, record)
            index = record.nextOfNode
        }
    }

    /// The names to be taken back, once.
    mutating func takeUnpublished() -> [(node: UInt64, name: String)] {
        defer { unpublished = [] }
        chores.set(.names, false)
        return unpublished
    }

    /// A number for a grant that a ticket brings. The broker may give the node away until that is known to have been
    /// shown, or taken back. nil: there is no such node, or no number.
    mutating func setAside(_ node: UInt64) -> UInt32? {
        guard let place = nodes.place(node), let number = takeNumber() else { return nil }
        place.pointee.pins += 1
        // Whoever is going to show it counts already: nobody is told that all handles are gone meanwhile.
        place.pointee.holders += 1
        setAside[number] = node
        return number
    }

    /// The ticket was shown.
    mutating func isShown(_ number: UInt32) {
        if let node = setAside.removeValue(forKey: number) { endSetAside(node) }
    }

    /// It was taken back.
    mutating func takeBack(_ number: UInt32) {
        guard let node = setAside.removeValue(forKey: number) else { return }
        endSetAside(node)
        giveNumber(number)
    }

    /// A ticket counts as a holder no longer. It may have been the last.
    private mutating func endSetAside(_ node: UInt64) {
        if let place = nodes.place(node) {
            place.pointee.holders -= 1
            if place.pointee.holders == 0, place.pointee.state == .alive,
                let owed = place.pointee.owed
            {
                late.append(crossing(of: node, &place.pointee, at: owed))
                chores.set(.lateNotices)
            }
        }
        unpin(node)
    }

    /// The broker gives the node away under one name less.
    mutating func unpin(_ node: UInt64) {
        guard let place = nodes.place(node) else { return }
        place.pointee.pins -= 1
        forgetIfUnheld(node)
    }

    private mutating func forgetIfUnheld(_ node: UInt64) {
        guard let place = nodes.place(node), place.pointee.state != .alive,
            place.pointee.holders == 0, place.pointee.pins == 0
        else { return }
        nodes.remove(node)
        if let bell { shmring_bell_ring(bell) }
        let word = NodeID(rawValue: node).word
        // Nobody reads it for this node any more.
        shmring_store_release(words + Int(word), 0)
        freeWords.append(word)
    }

    // MARK: Holders

    /// Links have the places of the peer's list. One that is used again has no grants.
    mutating func addHolder(_ link: Int, sender: UInt32, ring: UInt32, account: Account) {
        let holder = Holder(sender: sender, ring: ring, account: account)
        if link == holders.count { holders.append(holder) } else { holders[link] = holder }
    }

    func isGone(link: UInt32) -> Bool { holders[Int(link)].isGone }

    /// A holder that is gone will choose no numbers any more. Only the receiving thread.
    func forgetNumbers(sender: UInt32, ring: UInt32) {
        memory.forgetNumbers(ofRing: ring, sender: sender)
    }

    /// A ring has left its place, and the last one has taken it.
    mutating func moveRing(from old: UInt32, to new: UInt32) {
        memory.move(fromRing: old, toRing: new)
        guard old != new else { return }
        for link in holders.indices where holders[link].ring == old && !holders[link].isGone {
            holders[link].ring = new
            var index = holders[link].firstGrant
            while index != 0 {
                let route = memory.entries[Int(index)].route
                let moved = PeerHot.route(
                    UInt32(truncatingIfNeeded: route), sender: holders[link].sender, ring: new)
                shmring_store_release(routeWord(index), moved | route & PeerHot.slowly)
                index = memory.records[Int(index)].nextOfHolder
            }
        }
    }

    /// Ends all grants of a holder, for good. What is to be told for it.
    mutating func removeHolder(link: UInt32, at stamp: UInt64) -> [QueuedNotice] {
        guard Int(link) < holders.count, !holders[Int(link)].isGone else { return [] }
        holders[Int(link)].isGone = true
        var notices: [QueuedNotice] = []
        while holders[Int(link)].firstGrant != 0 {
            let grant = holders[Int(link)].firstGrant
            if let notice = end(grant, .givenUp, at: stamp) { notices.append(notice) }
        }
        return notices
    }

    // MARK: Grants

    /// The next free number, of a grant that is yet to be shown.
    mutating func takeNumber() -> UInt32? {
        if let number = freeGrants.popLast() { return number }
        guard nextGrant < PeerHot.grantsMax else { return nil }
        defer { nextGrant += 1 }
        return nextGrant
    }

    mutating func giveNumber(_ number: UInt32) { freeGrants.append(number) }

    /// A holder more. False: the holder is gone, nothing is known of the node, or the key is taken.
    ///
    /// - Parameter name: what the holder's messages call it; `ReservedGrant.unbound` and a key, or the number itself.
    mutating func add(
        _ number: UInt32, node: UInt64, link: UInt32, name: UInt32, key: GrantKey? = nil,
        marks: GrantRecord.Marks = []
    ) -> Bool {
        guard let place = nodes.place(node), Int(link) < holders.count, !holders[Int(link)].isGone
        else { return false }
        var record = GrantRecord()
        record.link = link
        record.marks = marks
        record.nextOfNode = place.pointee.firstGrant
        record.nextOfHolder = holders[Int(link)].firstGrant
        if let key {
            let place = UnboundKey(link: link, key: key)
            guard unbound[place] == nil else { return false }
            unbound[place] = number
            record.key = key
            record.marks.insert(.unbound)
        }
        memory.records[Int(number)] = record
        if record.nextOfNode != 0 { memory.records[Int(record.nextOfNode)].previousOfNode = number }
        if record.nextOfHolder != 0 {
            memory.records[Int(record.nextOfHolder)].previousOfHolder = number
        }
        place.pointee.firstGrant = number
        place.pointee.holders += 1
        holders[Int(link)].firstGrant = number
        grantCount += 1
        show(number, node: node, tag: place.pointee.tag, name: name)
        return true
    }

    /// Lets messages use it.
    private func show(_ number: UInt32, node: UInt64, tag: UInt64, name: UInt32) {
        let record = memory.records[Int(number)]
        let holder = holders[Int(record.link)]
        memory.entries[Int(number)] = GrantEntry(
            route: 0, node: node, tag: tag, account: holder.account)
        var route = PeerHot.route(name, sender: holder.sender, ring: holder.ring)
        if !record.marks.isEmpty || !isAlive(node) { route |= PeerHot.slowly }
        // SYNC H3 release, pairs with H2 in PeerHot.grant: node and tag come before the route.
        shmring_store_release(routeWord(number), route)
    }

    /// What a key leads to.
    func unboundGrant(_ key: GrantKey, link: UInt32) -> UInt32? {
        unbound[UnboundKey(link: link, key: key)]
    }

    /// The owner's number of what the link's peer calls by this one. `ring`: the place of the link's.
    func grant(named name: UInt32, sender: UInt32, ring: UInt32, link: UInt32) -> UInt32? {
        if name & PeerHot.chosenByHolder != 0 {
            if let bound = memory.owned(name, sender: sender, ring: ring) { return bound }
            // What the broker made is used under the broker's number as long as nobody binds it.
            return unboundGrant(GrantKey(granter: 0, number: name), link: link)
        }
        return ownGrant(name, link: link)
    }

    /// The same, of a number that the owner chose.
    func ownGrant(_ number: UInt32, link: UInt32) -> UInt32? {
        guard number != 0, number < PeerHot.grantsMax,
            UInt32(truncatingIfNeeded: memory.entries[Int(number)].route) == number,
            memory.records[Int(number)].link == link
        else { return nil }
        return number
    }

    /// The holder's messages call it by this name from now on.
    mutating func bind(_ number: UInt32, to name: UInt32) {
        let record = memory.records[Int(number)]
        unbound[UnboundKey(link: record.link, key: record.key)] = nil
        memory.records[Int(number)].marks.remove(.unbound)
        let entry = memory.entries[Int(number)]
        show(number, node: entry.node, tag: entry.tag, name: name)
    }

    func node(of number: UInt32) -> UInt64 { memory.entries[Int(number)].node }

    func key(of number: UInt32) -> GrantKey { memory.records[Int(number)].key }

    func marks(of number: UInt32) -> GrantRecord.Marks { memory.records[Int(number)].marks }

    /// Whether a message under this grant with this effective stamp is still delivered. `goesFirst`: it comes before its
    /// node's release if both have one stamp.
    func accepts(_ number: UInt32, at stamp: UInt64, goesFirst: Bool) -> Bool {
        guard case .released(let released)? = nodes.place(node(of: number))?.pointee.state else {
            return true
        }
        return stamp < released || stamp == released && goesFirst
    }

    /// A message came too late under it; whether none did before.
    func isFirstTooLate(_ number: UInt32) -> Bool {
        memory.records[Int(number)].marks.update(with: .late) == nil
    }

    /// Ends a grant; what is to be told for it.
    mutating func end(_ number: UInt32, _ how: GrantEnd, at stamp: UInt64) -> QueuedNotice? {
        let record = memory.records[Int(number)]
        let entry = memory.entries[Int(number)]
        shmring_store_release(routeWord(number), 0)
        unlink(number, record, node: entry.node)
        if record.marks.contains(.unbound) {
            unbound[UnboundKey(link: record.link, key: record.key)] = nil
        }
        let name = UInt32(truncatingIfNeeded: entry.route)
        if name & PeerHot.chosenByHolder != 0, name < ReservedGrant.first {
            let holder = holders[Int(record.link)]
            let numbers = memory.bound[Int(holder.ring)]?[Int(holder.sender)]
            numbers?[Int(name & ~PeerHot.chosenByHolder)] = 0
        }
        freeGrants.append(number)
        grantCount -= 1
        guard let place = nodes.place(entry.node) else { return nil }
        place.pointee.holders -= 1
        var notice: QueuedNotice?
        if place.pointee.state == .alive {
            let isReply = record.marks.contains(.oneShot)
            if isReply, how == .givenUp {
                notice = QueuedNotice(.replyLost(NodeID(rawValue: entry.node)), stamp)
            } else if !isReply, how != .undone {
                place.pointee.owed = stamp
            }
            if place.pointee.holders == 0, let owed = place.pointee.owed {
                let last = crossing(
                    of: entry.node, &place.pointee, at: how == .undone ? owed : stamp)
                if how != .undone, notice == nil {
                    notice = last
                } else {
                    late.append(last)
                    chores.set(.lateNotices)
                }
            }
        }
        forgetIfUnheld(entry.node)
        return notice
    }

    private func crossing(of id: UInt64, _ node: inout NodeRecord, at stamp: UInt64)
        -> QueuedNotice
    {
        node.crossings += 1
        node.owed = nil
        return QueuedNotice(.noHandles(NodeID(rawValue: id)), stamp, crossing: node.crossings)
    }

    private mutating func unlink(_ number: UInt32, _ record: GrantRecord, node: UInt64) {
        if record.previousOfNode == 0 {
            nodes.place(node)?.pointee.firstGrant = record.nextOfNode
        } else {
            memory.records[Int(record.previousOfNode)].nextOfNode = record.nextOfNode
        }
        if record.nextOfNode != 0 {
            memory.records[Int(record.nextOfNode)].previousOfNode = record.previousOfNode
        }
        if record.previousOfHolder == 0 {
            holders[Int(record.link)].firstGrant = record.nextOfHolder
        } else {
            memory.records[Int(record.previousOfHolder)].nextOfHolder = record.nextOfHolder
        }
        if record.nextOfHolder != 0 {
            memory.records[Int(record.nextOfHolder)].previousOfHolder = record.previousOfHolder
        }
    }

    private func routeWord(_ number: UInt32) -> UnsafeMutablePointer<UInt64> {
        (memory.entries + Int(number)).pointer(to: \.route)!
    }

    // MARK: Notices

    /// Whether a notice still says what is so. One that does not is withdrawn with this call.
    mutating func confirms(_ notice: QueuedNotice) -> Bool {
        guard case .noHandles(let id) = notice.kind else { return true }
        guard let place = nodes.place(id.rawValue), place.pointee.state == .alive,
            place.pointee.crossings == notice.crossing
        else { return false }
        if place.pointee.holders == 0 || shmring_broken_withdrawal() { return true }
        withdrawals += 1
        place.pointee.owed = notice.stamp
        return false
    }

    mutating func takeLate() -> [QueuedNotice] {
        defer { late = [] }
        chores.set(.lateNotices, false)
        return late
    }
}

/// MADV_POPULATE_WRITE, which older headers lack.
let memoryPopulateWrite: Int32 = 23
