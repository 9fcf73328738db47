import CBus1
import Glibc
@_spi(Raw) import Bus1Shm

// Calls of the C interface return 0 or a negative errno, and note what else is known of a failure.

/// What a call returns for an error of the library. Noted for `bus1_last_error`.
@inline(never)
func failure(_ error: Bus1Error) -> Int32 {
    var note = bus1_error()
    note.error = -number(of: error)
    note.system_error = error.errno
    note.operation = text(error.operation)
    if let refusal = error.refusal {
        note.resource = refusal.resource.rawValue
        note.used = UInt64(clamping: refusal.used)
        note.limit = UInt64(clamping: refusal.limit)
    }
    if let account = error.refusal?.account ?? error.breach?.account {
        note.uid = account.uid
        note.pid = account.pid
    }
    bus1_internal_note(&note)
    return note.error
}

/// What a call returns for a mistake of the caller's.
@inline(never)
func failure(_ number: Int32, _ operation: StaticString) -> Int32 {
    var note = bus1_error()
    note.error = -number
    note.operation = text(operation)
    bus1_internal_note(&note)
    return -number
}

/// String literals live for ever, and end with 0.
private func text(_ string: StaticString) -> UnsafePointer<CChar> {
    UnsafeRawPointer(string.utf8Start).assumingMemoryBound(to: CChar.self)
}

private func number(of error: Bus1Error) -> Int32 {
    switch error.code {
    case .noSuchHandle: EBADRQC
    case .nodeReleased: EHOSTUNREACH
    case .duplicateDestination: ENOTUNIQ
    case .tooLarge: EMSGSIZE
    case .overQuota: EDQUOT
    case .timedOut: ETIMEDOUT
    case .cancelled: ECANCELED
    case .shutDown: ESHUTDOWN
    case .severed: ECONNRESET
    case .denied: EACCES
    case .mismatch: EPROTO
    case .system: error.errno != 0 ? error.errno : EIO
    case .noSuchName: ENOENT
    case .nameTaken: EEXIST
    case .forked: EOWNERDEAD
    // Of calls, which this interface does not have.
    case .replyLost: EPIPE
    }
}

/// The result of a call whose work may throw.
@inline(__always)
func result(_ body: () throws(Bus1Error) -> Void) -> Int32 {
    do throws(Bus1Error) {
        try body()
        return 0
    } catch {
        return failure(error)
    }
}
