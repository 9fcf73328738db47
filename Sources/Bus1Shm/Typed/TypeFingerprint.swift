@_spi(Reflection) import Swift

/// What a type looks like in memory, as a number: two programs that were compiled apart compare it before they exchange
/// values of that type.
///
/// It is made of the type's name without its module, its size, stride and alignment, and the names, offsets and types of its
/// stored properties, down to the standard library's. An enumeration counts by its name and size: the order of its
/// cases does not show.
public struct TypeFingerprint: Hashable, Sendable {
    /// 64 bits of FNV-1a over the description.
    public let rawValue: UInt64

    /// Looks at a type. Some microseconds for each stored property: once for each connection, not for each message.
    public init<T>(of type: T.Type) {
        var hash = FNV1a()
        Self.add(type, to: &hash)
        rawValue = hash.value
    }

    /// As it stands in a name: 16 digits.
    var text: String {
        let digits = String(rawValue, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    private static func add(_ type: Any.Type, to hash: inout FNV1a) {
        func layout<U>(_ type: U.Type) -> [Int] {
            [MemoryLayout<U>.size, MemoryLayout<U>.stride, MemoryLayout<U>.alignment]
        }
        hash.add(_typeName(type, qualified: false))
        for number in _openExistential(type, do: layout) { hash.add(UInt64(number)) }
        // What the standard library's types are made of is its own affair.
        if _typeName(type, qualified: true).hasPrefix("Swift."), !(type is any Aggregate.Type) {
            return
        }
        _ = _forEachField(of: type) { name, offset, fieldType, _ in
            hash.add(String(cString: name))
            hash.add(UInt64(offset))
            add(fieldType, to: &hash)
            return true
        }
    }
}

/// Types of the standard library that hold others, to be looked into.
private protocol Aggregate {}
extension Optional: Aggregate {}
extension InlineArray: Aggregate where Element: Copyable {}

/// Fowler, Noll, Vo: the 64-bit variant 1a.
private struct FNV1a {
    private(set) var value: UInt64 = 0xcbf2_9ce4_8422_2325

    private mutating func add(_ byte: UInt8) { value = (value ^ UInt64(byte)) &* 0x100_0000_01b3 }

    mutating func add(_ number: UInt64) {
        for shift in stride(from: UInt64(0), to: 64, by: 8) {
            add(UInt8(truncatingIfNeeded: number >> shift))
        }
    }

    /// With its length, so that two texts in a row are not another two.
    mutating func add(_ text: String) {
        add(UInt64(text.utf8.count))
        for byte in text.utf8 { add(byte) }
    }
}
