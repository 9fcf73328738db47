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
