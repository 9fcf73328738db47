import Glibc

/// A file descriptor and its one owner. Dropping it closes it.
struct Descriptor: ~Copyable {
    /// Valid as long as the owner lives; never negative.
    let rawValue: Int32

    /// Takes over an open descriptor.
    init(owning rawValue: Int32) {
        precondition(rawValue >= 0, "a descriptor is not negative")
        self.rawValue = rawValue
    }

    /// Gives the descriptor up without closing it.
    consuming func take() -> Int32 {
        let rawValue = rawValue
        discard self
        return rawValue
    }

    deinit { close(rawValue) }
}

/// A descriptor that several hold; the last one closes it.
final class SharedDescriptor: Sendable {
    let rawValue: Int32

    /// Takes over an open descriptor.
    init(_ descriptor: consuming Descriptor) {
        rawValue = descriptor.take()
    }

    /// Another descriptor of the same thing, with an owner of its own.
    func duplicate() throws(Bus1Error) -> Descriptor {
        let copy = fcntl(rawValue, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw Bus1Error(.system, "duplicate a descriptor", errno: errno) }
        return Descriptor(owning: copy)
    }

    deinit { close(rawValue) }
}
