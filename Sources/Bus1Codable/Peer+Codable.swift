public import Bus1Shm
import Foundation

// Values that are encoded, for what is rare or changes its form: as JSON, which any program can read. Nothing of this is on the path of
// those who send `BitwiseCopyable` values.

extension Peer {
    /// Publishes a node that takes encoded values of a type. Who looks the name up says which type it means.
    ///
    /// A type is known by its name here, not by its properties: those may be added as far as its `Codable` allows.
    ///
    /// - Throws: as `Peer.publish`.
    public func publish<T: Codable>(
        _ node: borrowing Node, as name: String, encoding type: T.Type,
        to access: Access = .sameUser
    ) throws(Bus1Error) {
        try publish(node, as: "\(name)#\(T.self)", to: access)
        try publish(node, as: name, to: access)
    }

    /// A handle to a node that takes encoded values of a type; waits for a service that comes late.
    ///
    /// - Throws: as `Peer.lookUp`, and `mismatch` when the name is published for something else.
    public func lookUp<T: Codable>(
        _ name: String, encoding type: T.Type, until deadline: Deadline = .never
    ) throws(Bus1Error) -> CodableHandle<T> {
        try CodableHandle(lookUp(name, marked: "\(T.self)", until: deadline))
    }

    /// Encodes a value and sends it. Waits for room until the deadline. Allocates.
    ///
    /// - Throws: as `Peer.send`; `mismatch` when the value can't be encoded.
    @discardableResult
    public func send<T: Codable>(
        _ value: T, to handle: borrowing CodableHandle<T>, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        let data: Data
        do { data = try JSONEncoder().encode(value) } catch {
            throw Bus1Error(.mismatch, "encode a value")
        }
        return try send(data.bytes, to: handle.handle, until: deadline)
    }
}

/// A handle to a node that takes encoded values of one type.
public struct CodableHandle<Value: Codable>: ~Copyable {
    /// The right itself.
    public let handle: Handle

    /// Whoever has a handle by another way than its name vouches for the type.
    public init(_ handle: consuming Handle, encoding type: Value.Type = Value.self) {
        self.handle = handle
    }
}

extension Message {
    /// The value that was encoded into the payload.
    ///
    /// - Throws: `mismatch` when it is none of this type.
    public func decode<T: Codable>(_ type: T.Type = T.self) throws(Bus1Error) -> T {
        let data = payload.withUnsafeBytes { Data($0) }
        do { return try JSONDecoder().decode(type, from: data) } catch {
            throw Bus1Error(.mismatch, "decode a value")
        }
    }
}
