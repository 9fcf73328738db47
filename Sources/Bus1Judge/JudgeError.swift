import Glibc

/// A failure in words, for the person at the terminal.
package struct JudgeError: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }

    /// Throws when a C function returned -errno; otherwise returns what it returned.
    @discardableResult
    package static func check<N: BinaryInteger>(_ result: N, _ operation: @autoclosure () -> String)
        throws
        -> N
    {
        guard result < 0 else { return result }
        let text = String(cString: strerror(-Int32(result)))
        throw JudgeError("\(operation()): \(text)")
    }
}
