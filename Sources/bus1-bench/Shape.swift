import CBench

/// What a run is about: the workload and its size, the same for every transport compared.
struct Shape: Codable, Hashable, Sendable {
    enum Workload: String, Codable, CaseIterable, Sendable {
        case pingPong = "ping-pong"
        case stream
        case large
        case multicast
        case manySenders = "many-senders"
        case idlePeers = "idle-peers"
        case firstMessage = "first-message"
    }

    /// How a receiver waits. The rivals know `spin` (non-blocking calls, again and again) and `park`
    /// (blocking calls); `best` leaves the choice to a short trial.
    enum Mode: String, Codable, CaseIterable, Sendable {
        case best, spin, park, adaptive, eventfd
    }

    var workload: Workload
    var payloadBytes: Int
    var senders = 1
    var receivers = 1
    var mode = Mode.best
    /// Messages handed over at once; 1: one by one.
    var batch = 1
    /// Slots of a ring, or of a hand-off; 0: the transport's default.
    var slots = 0
    /// Bytes of a slot of the plain ring: 64 or 128.
    var slotBytes = 64
    /// Peers that were introduced to the receiver and say nothing.
    var idlePeers = 0
    /// Senders after the first are another user. Only as root.
    var otherUser = false
    /// Time between intended starts of a paced ping-pong; 0: as fast as it goes.
    var intervalNs = 0

    var metric: Metric {
        switch workload {
        case .pingPong, .idlePeers: Metric(name: "round trip", unit: "ns", lowerIsBetter: true)
        case .stream, .manySenders: Metric(name: "messages", unit: "M/s", lowerIsBetter: false)
        case .multicast: Metric(name: "deliveries", unit: "M/s", lowerIsBetter: false)
        case .large: Metric(name: "throughput", unit: "GB/s", lowerIsBetter: false)
        case .firstMessage: Metric(name: "first message", unit: "us", lowerIsBetter: true)
        }
    }

    var isRoundTrip: Bool { workload == .pingPong || workload == .idlePeers }

    /// In words, for tables.
    var title: String {
        var words = "\(workload.rawValue) \(ByteCount(payloadBytes))"
        if batch > 1 { words += " by \(batch)" }
        if senders > 1 { words += ", \(senders) senders" }
        if receivers > 1 { words += ", \(receivers) receivers" }
        if idlePeers > 0 { words += ", \(idlePeers) idle" }
        if intervalNs > 0 { words += ", every \(Report.duration(Double(intervalNs)))" }
        return words
    }
}

struct Metric: Hashable, Sendable {
    let name: String
    let unit: String
    let lowerIsBetter: Bool
}

/// Bytes as people say them.
struct ByteCount: CustomStringConvertible {
    let bytes: Int

    init(_ bytes: Int) { self.bytes = bytes }

    var description: String {
        for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        where bytes >= size && bytes % size == 0 {
            return "\(bytes / size) \(unit)"
        }
        return "\(bytes) B"
    }

    /// Reads "64", "64K", "64KiB", "1MiB", "1 GiB".
    static func parse(_ text: String) -> Int? {
        let digits = text.prefix { $0.isNumber }
        let unit = text.dropFirst(digits.count).filter { $0 != " " }.lowercased()
        let scales = [
            "": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30,
            "gib": 1 << 30,
        ]
        guard let number = Int(digits), let scale = scales[unit] else { return nil }
        let (bytes, overflow) = number.multipliedReportingOverflow(by: scale)
        return overflow ? nil : bytes
    }
}
