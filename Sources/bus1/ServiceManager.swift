import Glibc

/// What a service manager and its services say to each other, in their own words: sd_notify(3).
enum ServiceManager {
    /// Tells who started this process how it stands. Nothing when nobody wants to know; what
    /// cannot be told is not worth an end.
    static func tell(_ state: String) {
        guard let name = getenv("NOTIFY_SOCKET"), var address = Address(String(cString: name))
        else { return }
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let text = Array(state.utf8)
        withUnsafePointer(to: &address.raw) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address_ in
                _ = sendto(
                    descriptor, text, text.count, Int32(MSG_NOSIGNAL), address_,
                    address.length)
            }
        }
    }

    /// The listening socket that was handed in, and the path to which it is bound. nil: none was.
    ///
    /// Of several it is the one named bus1 (FileDescriptorName=).
    static func takeSocket() throws(ToolError) -> (descriptor: Int32, path: String)? {
        defer { for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsetenv(name) } }
        func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }
        guard variable("LISTEN_PID") == "\(getpid())",
            let count = variable("LISTEN_FDS").flatMap({ Int32($0) }), count > 0
        else { return nil }
        let names = (variable("LISTEN_FDNAMES") ?? "").split(
            separator: ":", omittingEmptySubsequences: false)
        guard let place = count == 1 ? 0 : names.firstIndex(of: "bus1"), place < Int(count) else {
            throw ToolError("of the \(count) sockets that were handed in none is named bus1")
        }
        let descriptor = 3 + Int32(place)
        guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0, let path = path(of: descriptor) else {
            throw ToolError("what was handed in is no socket with a path")
        }
        return (descriptor, path)
    }

    private static func path(of descriptor: Int32) -> String? {
        var address = sockaddr_un()
        var length = socklen_t(MemoryLayout<sockaddr_un>.size)
        let result = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                getsockname(descriptor, $0, &length)
            }
        }
        guard result == 0, address.sun_family == sa_family_t(AF_UNIX) else { return nil }
        let bytes = withUnsafeBytes(of: address.sun_path) { Array($0.prefix { $0 != 0 }) }
        return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
    }

    /// Of a socket: a path, or behind an @ a name that is none.
    private struct Address {
        var raw = sockaddr_un()
        let length: socklen_t

        init?(_ name: String) {
            var bytes = Array(name.utf8)
            guard let first = bytes.first, first == UInt8(ascii: "/") || first == UInt8(ascii: "@"),
                bytes.count < MemoryLayout.size(ofValue: raw.sun_path)
            else { return nil }
            if first == UInt8(ascii: "@") { bytes[0] = 0 }
            raw.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &raw.sun_path) { $0.copyBytes(from: bytes) }
            length = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count)
        }
    }
}
