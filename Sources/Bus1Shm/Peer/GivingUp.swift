import CShmRing

// Placeholders until the common lane lands (/work/issue3.md): whoever lands them
// removes this file's part.

extension PeerCore {
    // holders: through the common lane, so that the owner is told.
    func releaseHandle(_ id: HandleID) { _ = handles.remove(id) }
    // holders: a right in a message that went nowhere; its owner is to be told.
    func giveUp(_ record: ControlRecord, to link: Link) {}
    // holders: a handle just received whose node has been released since its message.
    func watchIfReleased(_ id: HandleID) {}
    // holders: runs `body` with the common lane, under its lock.
    func withCommonLane<R>(
        _ body: (LaneState) throws(Bus1Error) -> R
    ) throws(Bus1Error) -> R { try body(laneState) }
    // holders: waits for room behind this handle, on the common lane's producer, outside its lock.
    func waitForRoom(_ id: HandleID, until deadline: Deadline) throws(Bus1Error) {
        shmring_pause()
    }
}

extension LaneState {
    // lead, when the common lane is there.
    func commitWithReleases(
        _ transaction: inout Transaction, _ batch: inout Batch
    ) throws(Bus1Error) { throw Bus1Error(.mismatch, "release in a transaction") }
}
