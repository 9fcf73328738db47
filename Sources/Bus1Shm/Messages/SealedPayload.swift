import CBus1System
import CShmRing
import Glibc

/// Memory that is filled in once, sent, and can't be changed by anybody from then on: who receives it
/// reads it in place, also as a stranger, without a copy.
///
/// It costs some system calls on both sides, and a descriptor until it is read: worth it for a payload
/// of some hundred kilobytes to another trust domain, or one that many receive. Dropping it unsent
/// gives the memory back.
public struct SealedPayload: ~Copyable, Sendable {
    /// Bytes that will be sent.
    public let byteCount: Int
    private let memory: SealedMemory

    /// Memory of so many bytes, zero at first.
    ///
    /// - Throws: `system` when there is no memory or no descriptor left.
    public init(byteCount: Int) throws(Bus1Error) {
        precondition(byteCount >= 0, "a payload has no negative size")
        let operation: StaticString = "make a sealed payload"
        var raw: Int32 = -1
        let mapped = UInt64(max(1, byteCount))
        var result = shmring_segment_create("bus1-sealed", mapped, true, &raw)
        guard result == 0 else { throw Bus1Error(result: result, operation) }
        let descriptor = Descriptor(owning: raw)
        var base: UnsafeMutableRawPointer?
        result = bus1_sys_sealed_prepare(raw, mapped, &base)
        guard result == 0 else { throw Bus1Error(.system, operation, errno: -result) }
        memory = SealedMemory(descriptor, base, mappedBytes: mapped)
        self.byteCount = byteCount
    }

    /// The first bytes of a memfd that has been filled in and sealed (F_SEAL_WRITE and F_SEAL_SHRINK).
    /// The descriptor stays the caller's.
    ///
    /// - Throws: `mismatch` when it is no memfd, is not sealed, is shorter or has holes; `system`.
    public init(sealed descriptor: Int32, byteCount: Int) throws(Bus1Error) {
        precondition(byteCount >= 0, "a payload has no negative size")
        let result = bus1_sys_sealed_check(descriptor, UInt64(byteCount))
        guard result == 0 else { throw Bus1Error.sealedPayload(result) }
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw Bus1Error(.system, "make a sealed payload", errno: errno) }
        memory = SealedMemory(Descriptor(owning: copy), nil, mappedBytes: 0)
        self.byteCount = byteCount
    }

    /// The memory, to be filled in. Empty if somebody else has sealed it.
    public var bytes: MutableRawSpan {
        @_lifetime(&self)
        mutating get {
            let buffer = UnsafeMutableRawBufferPointer(
                start: memory.base, count: memory.base == nil ? 0 : byteCount)
            return _overrideLifetime(MutableRawSpan(_unsafeBytes: buffer), mutating: &self)
        }
    }

    /// Nobody writes it from now on.
    consuming func seal() throws(Bus1Error) -> SealedMemory {
        try memory.seal()
        return memory
    }
}

/// A memfd, to be filled in, then sealed.
final class SealedMemory: @unchecked Sendable {
    // @unchecked: filled in and sealed by the one owner of a `SealedPayload`; nobody changes it afterwards.
    let descriptor: Descriptor
    /// nil: it is sealed.
    private(set) var base: UnsafeMutableRawPointer?
    private let mappedBytes: UInt64

    init(
        _ descriptor: consuming Descriptor, _ base: UnsafeMutableRawPointer?, mappedBytes: UInt64
    ) {
        self.descriptor = descriptor
        self.base = base
        self.mappedBytes = mappedBytes
    }

    func seal() throws(Bus1Error) {
        guard let base else { return }
        guard !shmring_forked() else { throw Bus1Error(.forked, "seal a payload") }
        self.base = nil
        let result = bus1_sys_sealed_seal(descriptor.rawValue, base, mappedBytes)
        guard result == 0 else { throw Bus1Error(.system, "seal a payload", errno: -result) }
    }

    deinit {
        // In a forked child there is nothing at this address.
        if !shmring_forked() { bus1_sys_sealed_unmap(base, mappedBytes) }
    }
}

/// Sealed memory that was received, mapped to be read.
final class SealedView: @unchecked Sendable {
    // @unchecked: nobody can write the memory.
    let base: UnsafeRawPointer?
    let byteCount: Int

    /// Checks the descriptor, which anybody may have sent, and maps it.
    init(_ descriptor: borrowing Descriptor, byteCount: UInt64) throws(Bus1Error) {
        guard byteCount <= UInt64(Int.max) else {
            throw Bus1Error.sealedPayload(Int32(BUS1_SYS_SEALED_SHORT.rawValue))
        }
        var base: UnsafeRawPointer?
        let result = bus1_sys_sealed_map(descriptor.rawValue, byteCount, &base)
        guard result == 0 else { throw Bus1Error.sealedPayload(result) }
        self.base = base
        self.byteCount = Int(byteCount)
    }

    deinit { bus1_sys_sealed_unmap(base, UInt64(byteCount)) }
}

extension Bus1Error {
    static func sealedPayload(_ result: Int32) -> Bus1Error {
        switch result {
        case Int32(BUS1_SYS_SEALED_NO_MEMORY_FILE.rawValue):
            Bus1Error(.mismatch, "open a sealed payload that is no memfd")
        case Int32(BUS1_SYS_SEALED_WRITABLE.rawValue):
            Bus1Error(.mismatch, "open a payload that is not sealed against writing")
        case Int32(BUS1_SYS_SEALED_SHORT.rawValue):
            Bus1Error(.mismatch, "open a sealed payload that is shorter than its message says")
        case Int32(BUS1_SYS_SEALED_SPARSE.rawValue):
            Bus1Error(.mismatch, "open a sealed payload that has holes")
        default: Bus1Error(.system, "open a sealed payload", errno: -result)
        }
    }
}
