// A link's socket: packets and descriptors of a hostile sender, and everything that messages may ask of them.

#if DEBUG
    import CBus1System
    import Glibc

    @testable import Bus1Shm

    @Sendable func fuzzLink(_ script: inout Script) throws {
        var pair: [Int32] = [-1, -1]
        guard bus1_sys_socket_pair(&pair) == 0 else { return }
        let sender = Descriptor(owning: pair[0])
        let end = Descriptor(owning: pair[1])
        var queue = LinkQueue()
        for _ in 0..<48 where !script.isOver {
            let what = script.byte()
            let attempt = Attempt(lane: UInt32(what >> 6), count: UInt64(script.byte() % 8))
            switch what & 15 {
            case 0...5: send(sender.rawValue, attempt, what, &script)
            case 6: _ = queue.expect(attempt, lanes: UInt32(script.byte() % 5))
            case 7:
                queue.abandon(
                    [attempt, Attempt(rawValue: script.word())], at: end.rawValue)
            case 8: queue.forget(attempt, at: end.rawValue)
            case 9, 10:
                let count = Int(script.byte() % 4)
                let taken = (try? queue.take(attempt, count: count, at: end.rawValue)) ?? []
                if !taken.isEmpty { precondition(taken.count == count) }
                for one in taken { close(one) }
            case 11:
                if let one = try? queue.copyFirst(attempt, at: end.rawValue) { close(one) }
            case 12, 13:
                if let news = queue.nextNews(at: end.rawValue), news.descriptor >= 0 {
                    close(news.descriptor)
                }
            case 14 where what >> 6 == 3: queue.finish(at: end.rawValue)
            case 15 where what >> 6 == 3: shutdown(sender.rawValue, Int32(SHUT_RDWR))
            default: _ = queue.isOver
            }
        }
        queue.finish(at: end.rawValue)
    }

    private func send(
        _ socket: Int32, _ attempt: Attempt, _ what: UInt8, _ script: inout Script
    ) {
        let descriptors = (0..<Int(what >> 4 & 3)).map { _ in Sample.descriptor(script.byte()) }
        defer { for one in descriptors { close(one) } }
        var raw: [UInt8]
        switch what & 15 {
        case 0, 1: raw = bytes(of: LinkPacket(attempt: attempt, count: descriptors.count))
        case 2:
            raw = bytes(
                of: LinkPacket(
                    kind: .segment, segment: UInt32(attempt.lane) << 20, byteCount: script.word()))
        case 3: raw = bytes(of: LinkPacket(kind: .retired, segment: UInt32(script.byte())))
        default: raw = script.take(Int(script.byte() % 40))
        }
        _ = bus1_sys_socket_send(
            socket, &raw, raw.count, descriptors, Int32(descriptors.count))
    }
#endif
