public import CShmRing

// Channels of one type: a name says what is sent there, and whoever expects another type is refused when it looks the name
// up, and not by garbage in its first message.

/// A handle to a node that takes values of one type.
public struct TypedHandle<Value: BitwiseCopyable>: ~Copyable {
    /// The right itself.
    public let handle: Handle

    /// Whoever has a handle by another way than its name vouches for the type.
    public init(_ handle: consuming Handle, carrying type: Value.Type = Value.self) {
        self.handle = handle
    }

    /// The right alone.
    public consuming func untyped() -> Handle { handle }
}

extension Peer {
    /// Publishes a node, and which type it takes. Under a second name, too: `name#` and 16 digits, so `name` may have
    /// up to 238 bytes.
    ///
    /// - Throws: as ``publish(_:as:to:)``. When the name itself is taken, the second one stays published with the node.
    public func publish<T: BitwiseCopyable>(
        _ node: borrowing Node, as name: String, carrying type: T.Type,
        to access: Access = .sameUser
    ) throws(Bus1Error) {
        // The name comes last: whoever finds it and not the other knows that it carries something else.
        try publish(node, as: "\(name)#\(TypeFingerprint(of: type).text)", to: access)
        try publish(node, as: name, to: access)
    }

    /// A handle to a node that takes values of a type; waits for a service that comes late.
    ///
    /// - Throws: as ``lookUp(_:until:)``, and `mismatch` when the name is published and does not carry this type as it is
    ///   here (``TypeFingerprint``).
    public func lookUp<T: BitwiseCopyable>(
        _ name: String, carrying type: T.Type, until deadline: Deadline = .never
    ) throws(Bus1Error) -> TypedHandle<T> {
        TypedHandle(
            try lookUp(name, marked: TypeFingerprint(of: type).text, until: deadline))
    }

    /// A handle to a node that is published under a name and, before that, under the name and a mark.
    ///
    /// - Throws: `mismatch` when there is the name without the mark.
    package func lookUp(
        _ name: String, marked mark: String, until deadline: Deadline
    ) throws(Bus1Error) -> Handle {
        let marked = "\(name)#\(mark)"
        while true {
            let soon = Deadline.earlier(deadline, .after(.milliseconds(50)))
            if let handle = try lookUpIfThere(marked, until: soon) { return handle }
            if try lookUpIfThere(name, until: .now) != nil {
                // Published just between the two looks.
                if let handle = try lookUpIfThere(marked, until: .now) { return handle }
                throw Bus1Error(.mismatch, "look a typed name up")
            }
            guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "look a typed name up") }
        }
    }

    private func lookUpIfThere(_ name: String, until deadline: Deadline) throws(Bus1Error)
        -> Handle?
    {
        do throws(Bus1Error) {
            return try lookUp(name, until: deadline)
        } catch {
            guard error.code == .timedOut || error.code == .noSuchName else { throw error }
            return nil
        }
    }

    /// Sends a value of the handle's type. As ``trySend(_:to:)-(T,_)``.
    @inlinable @inline(__always)
    @discardableResult
    public func trySend<T>(_ value: T, to handle: borrowing TypedHandle<T>) throws(Bus1Error)
        -> Stamp?
    {
        try trySend(value, to: handle.handle)
    }

    /// Sends a value of the handle's type. Waits for room until the deadline.
    @inlinable @inline(__always)
    @discardableResult
    public func send<T>(
        _ value: T, to handle: borrowing TypedHandle<T>, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        try send(value, to: handle.handle, until: deadline)
    }
}

extension Message {
    /// The payload as values of one type, read in place.
    ///
    /// - Throws: `mismatch` when the payload is not a whole number of values, or does not lie as the type must.
    @inlinable
    @_lifetime(borrow self)
    public func values<T: BitwiseCopyable>(of type: T.Type = T.self) throws(Bus1Error) -> Span<T> {
        let bytes = UnsafeRawBufferPointer(
            start: cell.pointee.payload, count: Int(cell.pointee.byte_count))
        let start = UInt(bitPattern: bytes.baseAddress)
        guard bytes.count % MemoryLayout<T>.stride == 0,
            start % UInt(MemoryLayout<T>.alignment) == 0
        else { throw Bus1Error.wrongSize }
        return _overrideLifetime(Span(_bytes: RawSpan(_unsafeBytes: bytes)), borrowing: self)
    }
}
