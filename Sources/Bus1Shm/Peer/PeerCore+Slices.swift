import CShmRing

extension PeerCore {
    var linkGrant: UInt32 { .max }
    var hasIdlePools: Bool { false }
    func readLinkSocket(sender: UInt32, ring: UInt32) {}
    func dropSlice(of cell: UnsafeMutablePointer<shmring_cell>) {}
    func resolveSlice(of cell: UnsafeMutablePointer<shmring_cell>) throws(Bus1Error) -> Bool { false }
    func forgetSlices(of link: Link) {}
    func takeLinkSocket(_ peer: PeerID, _ socket: consuming Descriptor) {}
    func trimPools() {}
}
extension Peer {
    @usableFromInline
    func sendLong(_ bytes: UnsafeRawPointer?, _ count: Int, _ entry: UnsafeMutablePointer<HandleEntry>) throws(Bus1Error) -> Stamp? {
        throw Bus1Error(.tooLarge, "send")
    }
}
enum Inheritance {
    static func read() throws(Bus1Error) -> (Bus, Ticket) { throw Bus1Error(.denied, "join") }
}
