extension PeerCore {
    /// Runs a request that may make an introduction, which waits until this peer, too, receives from a further ring of its
    /// own: who waits for an answer stands between two deliveries as well. Only on the peer's own thread.
    func takingRings<R>(_ request: () throws(Bus1Error) -> R) throws(Bus1Error) -> R {
        let outer = connection.takeRing
        connection.takeRing = { [unowned self] (offer: consuming RingOffer) throws(Bus1Error) in
            try addRing(offer)
        }
        defer { connection.takeRing = outer }
        return try request()
    }
}
