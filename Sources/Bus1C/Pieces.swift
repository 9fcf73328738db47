import CBus1
import Glibc
@_spi(Raw) import Bus1Shm

/// So many handles come with a message at most.
let attachedMax: UInt64 = 253
/// So many destinations has a transaction at most.
let destinationsMax = 256

/// The pieces of memory of a `bus1_message`: a payload to be sent, or room to receive one.
struct Pieces {
    private let vectors: UnsafeBufferPointer<iovec>
    /// Of all of them together.
    let byteCount: UInt64

    private static let countMax: UInt64 = 1024

    /// Reads them, once. EFAULT, EMSGSIZE.
    static func read(_ message: bus1_message) -> Result<Pieces, PeerTable.TableError> {
        guard message.n_data_vecs <= countMax else { return .failure(.init(errno: EMSGSIZE)) }
        let start = UnsafePointer<iovec>(bitPattern: UInt(message.ptr_data_vecs))
        guard start != nil || message.n_data_vecs == 0 else {
            return .failure(.init(errno: EFAULT))
        }
        let vectors = UnsafeBufferPointer(start: start, count: Int(message.n_data_vecs))
        var sum: UInt64 = 0
        for vector in vectors {
            let length = UInt64(bitPattern: Int64(vector.iov_len))
            let (next, overflow) = sum.addingReportingOverflow(length)
            guard !overflow, next <= UInt64(Int.max) else {
                return .failure(.init(errno: EMSGSIZE))
            }
            guard vector.iov_base != nil || vector.iov_len == 0 else {
                return .failure(.init(errno: EFAULT))
            }
            sum = next
        }
        return .success(Pieces(vectors: vectors, byteCount: sum))
    }

    /// The transfers of a message.
    static func transfers(_ message: bus1_message) -> UnsafeMutableBufferPointer<bus1_transfer> {
        let start = UnsafeMutablePointer<bus1_transfer>(
            bitPattern: UInt(message.ptr_transfers))
        return UnsafeMutableBufferPointer(
            start: start, count: start == nil ? 0 : Int(clamping: message.n_transfers))
    }

    /// Calls with the first bytes in one piece. There are so many.
    func gathered<R>(
        _ count: Int, _ body: (UnsafeRawBufferPointer) throws(Bus1Error) -> R
    ) throws(Bus1Error) -> R {
        if let first = vectors.first, first.iov_len >= count {
            return try body(UnsafeRawBufferPointer(start: first.iov_base, count: count))
        }
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 16)
        defer { copy.deallocate() }
        var filled = 0
        for vector in vectors where filled < count {
            let some = min(count - filled, vector.iov_len)
            if some > 0 {
                (copy.baseAddress! + filled).copyMemory(from: vector.iov_base, byteCount: some)
            }
            filled += some
        }
        return try body(UnsafeRawBufferPointer(copy))
    }

    /// Copies a payload into them, for which they have room.
    func scatter(_ payload: UnsafeRawBufferPointer) {
        var done = 0
        for vector in vectors where done < payload.count {
            let some = min(payload.count - done, vector.iov_len)
            if some > 0 {
                vector.iov_base.copyMemory(from: payload.baseAddress! + done, byteCount: some)
            }
            done += some
        }
    }
}
