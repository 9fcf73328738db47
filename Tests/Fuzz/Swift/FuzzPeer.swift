// A whole peer, and another of its trust domain that joined as everybody does and then writes into slots, words and the
// link's socket what it likes: attachments, control records, slice references, descriptors.

#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm

    /// One bus for all inputs, kept by a peer that does nothing; new peers for each.
    private struct Ground: ~Copyable {
        let bus: Bus
        let keeper: Peer

        init() throws {
            let bus = Bus(path: try Self.makeDirectory() + "/bus")
            let keeper = try Peer(on: bus)
            self.bus = bus
            self.keeper = keeper
        }

        private static func makeDirectory() throws -> String {
            var template = Array("/tmp/bus1-fuzz-XXXXXX".utf8CString)
            guard let made = mkdtemp(&template) else {
                throw Bus1Error(.system, "make a directory", errno: errno)
            }
            return String(cString: made)
        }
    }
    nonisolated(unsafe) private let ground: Ground = {
        do { return try Ground() } catch { fatalError("no bus: \(error)") }
    }()

    private struct Liar {
        let core: PeerCore
        let link: Link
        let producer: UnsafeMutablePointer<shmring_producer>
        let grant: UInt32
        let victim: PeerID
    }

    @Sendable func fuzzPeer(_ script: inout Script) throws {
        var options = Peer.Options()
        options.slots = 64
        options.slotBytes = 256
        options.lanes = 1
        let receiver = try Peer(on: ground.bus, options)
        let sender = try Peer(on: ground.bus, options)
        let node = try receiver.makeNode()
        let id = try receiver.give(node, to: sender)
        let entry = try sender.core.usableEntry(id)
        guard let link = sender.core.link(at: Int(entry.pointee.link)) else { return }
        let liar = Liar(
            core: sender.core, link: link, producer: entry.pointee.producer,
            grant: entry.pointee.grant, victim: receiver.core.ownPeer)
        for _ in 0..<32 where !script.isOver {
            let what = script.byte()
            switch what & 7 {
            case 0...3: liar.put(what, &script)
            case 4: try liar.tell(what, &script)
            case 5: liar.scribble(what, &script)
            case 6:
                _ = try? sender.trySend(UInt64(what), to: id)
            default: try receive(receiver, what)
            }
        }
        try receive(receiver, 0)
    }

    /// Reads every byte.
    private func sum(_ message: borrowing Message) -> Int {
        message.payload.withUnsafeBytes { $0.reduce(0) { $0 + Int($1) } }
    }

    private func receive(_ peer: borrowing Peer, _ what: UInt8) throws {
        for _ in 0..<64 {
            guard let delivery = try peer.tryReceive() else { return }
            guard case .message(var message) = delivery else { continue }
            if sum(message) == 0, what == 255 { continue }
            for index in 0..<message.handleCount {
                _ = message.isInvalid(index)
                _ = message.ownNode(index)
                if let handle = message.takeHandle(index), what & 8 != 0 {
                    _ = try? peer.trySend(UInt64(1), to: handle)
                }
            }
            if message.wantsReply, what & 16 != 0 { _ = message.takeReply() }
            if !message.isPayloadOpen { try? message.openPayload() }
            for index in 0..<message.descriptorCount {
                if let taken = (try? message.takeDescriptor(index)).flatMap({ $0 }) { close(taken) }
            }
        }
    }

    extension Liar {
        /// A peer's number: known ones mostly.
        private func peer(_ script: inout Script) -> UInt32 {
            let how = script.byte()
            switch how & 3 {
            case 0: return core.ownPeer.rawValue
            case 1: return victim.rawValue
            case 2: return UInt32(how >> 2)
            default: return UInt32(truncatingIfNeeded: script.word())
            }
        }

        private func small(_ script: inout Script) -> UInt32 {
            UInt32(truncatingIfNeeded: script.word(near: UInt64(grant)))
        }

        func put(_ what: UInt8, _ script: inout Script) {
            var body: [UInt8] = []
            var bits: UInt64 = 1
            var number = grant
            switch what & 3 {
            case 0:
                bits |= shmring_header_attached()
                body = attachments(&script)
            case 1:
                number = ReservedGrant.control
                for _ in 0..<Int(what >> 6) + 1 { body += bytes(of: record(&script)) }
            case 2:
                bits |= shmring_header_slice()
                body = bytes(of: reference(&script))
            default:
                number = what & 64 != 0 ? .max - UInt32(script.byte() % 4) : small(&script)
                bits = UInt64(script.byte())
                body = script.take(Int(script.byte()))
            }
            body += script.take(Int(what >> 3 & 7))
            body = Array(body.prefix(Int(producer.pointee.body_bytes)))
            var position: UInt64 = 0
            let word = producer.pointee.claim_word!
            let claimed = shmring_producer_claim(
                producer, word, producer.pointee.unicast_room, &position)
            guard claimed == 0 else { return }
            let slot = shmring_producer_slot(producer, position)!
            let place = UnsafeMutableRawPointer(slot) + Int(SHMRING_SLOT_HEADER_BYTES)
            body.withUnsafeBytes {
                if let base = $0.baseAddress { place.copyMemory(from: base, byteCount: $0.count) }
            }
            let length = what == 255 ? UInt64(script.byte()) << 4 : UInt64(body.count)
            let route =
                UInt64(number) << 32 | UInt64(producer.pointee.sender) << 16 | length
            shmring_slot_publish(slot, position, bits, shmring_clock_now(core.clock), route)
            shmring_producer_finish(producer, word)
        }

        private func attachments(_ script: inout Script) -> [UInt8] {
            let how = script.byte()
            let count = UInt16(how & 7), descriptors = UInt16(how >> 3 & 3)
            var body = bytes(
                of: AttachmentHeader(
                    handleCount: how & 0x80 != 0
                        ? UInt16(truncatingIfNeeded: script.word()) : count,
                    descriptorCount: descriptors,
                    marks: AttachmentHeader.Marks(rawValue: UInt32(how >> 5 & 3))))
            if how & 0x40 != 0 { body[4] = script.byte() }
            if descriptors > 0 {
                body += bytes(of: Attempt(lane: 0, count: UInt64(script.byte() % 8)).rawValue)
            }
            for _ in 0..<count {
                body += bytes(
                    of: AttachedHandle(
                        owner: peer(&script), number: small(&script),
                        word: UInt32(truncatingIfNeeded: script.word(near: 65535)),
                        rawKind: script.byte() % 5))
            }
            if how == 0xff { body += bytes(of: reference(&script)) }
            return body
        }

        private func record(_ script: inout Script) -> ControlRecord {
            var record = ControlRecord(
                .handOver, number: small(&script), first: peer(&script), second: small(&script))
            let kind = script.byte()
            record.rawKind = UInt32(kind % 8)
            if kind & 0x80 != 0 { record.number |= PeerHot.chosenByHolder }
            return record
        }

        private func reference(_ script: inout Script) -> shmring_slice_ref {
            shmring_slice_ref(
                segment: 1 << 20 | UInt32(script.byte() % 4),
                lend_index: UInt32(truncatingIfNeeded: script.word(near: 480)),
                lend: script.word(near: 1), offset: script.word(near: 8192),
                byte_count: script.word(near: 8192))
        }

        /// A packet on the link's socket, and the message that says so.
        func tell(_ what: UInt8, _ script: inout Script) throws {
            let socket = try core.linkSocket(of: link)
            let descriptors = (0..<Int(what >> 3 & 3)).map { _ in
                Sample.descriptor(script.byte())
            }
            defer { for one in descriptors { close(one) } }
            var raw: [UInt8]
            switch what >> 5 & 3 {
            case 0:
                let attempt = Attempt(lane: 0, count: UInt64(script.byte() % 8))
                raw = bytes(of: LinkPacket(attempt: attempt, count: descriptors.count))
            case 1:
                raw = bytes(
                    of: LinkPacket(
                        kind: .segment, segment: 1 << 20 | UInt32(script.byte() % 4),
                        byteCount: script.word(near: 8192)))
            case 2:
                raw = bytes(
                    of: LinkPacket(kind: .retired, segment: 1 << 20 | UInt32(script.byte() % 4)))
            default: raw = script.take(Int(script.byte() % 24))
            }
            _ = bus1_sys_socket_send(
                socket.descriptor.rawValue, &raw, raw.count, descriptors, Int32(descriptors.count))
            var nothing: UInt8 = 0
            var stamp: UInt64 = 0
            _ = shmring_producer_send(
                producer, core.clock, ReservedGrant.readSocket, 0, &nothing, 0, &stamp)
        }

        /// Words of the outbox and the ring. What would be waited for is left to the target inbox.
        func scribble(_ what: UInt8, _ script: inout Script) {
            let outbox = UnsafeMutableRawPointer(core.outbox).assumingMemoryBound(to: UInt64.self)
            let value = script.word(near: shmring_clock_now(core.clock)) & ~(1 << 63)
            let lanes = UInt32(2)
            switch what >> 3 & 7 {
            case 0:
                let word = Int(shmring_outbox_release_offset(lanes)) / 8 + Int(script.byte())
                shmring_store_release(outbox + word, value)
                shmring_producer_flag(producer, RingFlag.releases)
            case 1:
                let word = Int(shmring_outbox_drop_offset(lanes)) / 8 + Int(script.byte() & 15)
                shmring_store_release(outbox + word, value)
                let counter = MemoryLayout<shmring_outbox>.offset(of: \.drops)! / 8
                shmring_store_release(outbox + counter, UInt64(script.byte() % 16))
                shmring_producer_flag(producer, RingFlag.drops)
            case 2: shmring_producer_flag(producer, script.word())
            case 3:
                let board = link.boardOut
                shmring_store_relaxed(board.pointer(to: \.drops_seen)!, value)
            default:
                let control = producer.pointee.control!
                shmring_store_relaxed(control.pointer(to: \.credit_limit.0)!, value)
            }
        }
    }
#endif
