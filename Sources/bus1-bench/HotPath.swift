import Bus1Shm

// The path of a message, as a user's code has it, in functions of their own: a test reads their
// instructions and finds no allocation, no retain and no exclusivity check among them
// (Tests/tools/check-hot-path).

/// A send, inlined here.
@inline(never)
func hotPathSend(_ peer: borrowing Peer, _ value: UInt64, _ handle: borrowing Handle)
    throws(Bus1Error) -> Bool
{
    try peer.trySend(value, to: handle) != nil
}

/// A receive, inlined here; nil: nothing was there, or a notice.
@inline(never)
func hotPathReceive(_ peer: borrowing Peer) throws(Bus1Error) -> UInt64? {
    guard case .message(let message)? = try peer.tryReceive() else { return nil }
    return try message.load(as: UInt64.self)
}
