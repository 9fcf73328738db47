import CBus1System
import CShmRing
import Glibc

/// How long an answer to something the broker can answer at once may take, where the caller set no
/// bound of its own.
private let cancelPatience = Duration.seconds(1)

extension ControlConnection {
    /// Says hello and waits for the welcome.
    func hello(_ bus: Bus, _ options: ControlOptions, until deadline: Deadline) throws(Bus1Error)
        -> Welcome
    {
        let body = HelloBody(
            versionMin: controlVersionMin, version: controlVersion,
            layoutMin: SHMRING_LAYOUT_VERSION_MIN,
            layout: SHMRING_LAYOUT_VERSION, lanes: options.lanes, slots: options.slots,
            slotBytes: options.slotBytes,
            isolation: bus.isolation.rawValue, ticket: options.ticket)
        let answer = try ask(.hello, body, "join the bus", until: deadline)
        guard let welcome = Welcome(answer) else { throw sever("join the bus") }
        return welcome
    }

    /// Sends a request and waits for its answer. What comes unasked meanwhile is kept.
    func ask<Body: BitwiseCopyable>(
        _ kind: ControlKind, _ body: Body, tail: [UInt8] = [], roles: ControlRoles = [],
        descriptors: [SharedDescriptor] = [],
        _ operation: StaticString, until deadline: Deadline
    ) throws(Bus1Error) -> ControlMessage {
        let request = try send(
            kind, body, tail: tail, roles: roles, descriptors: descriptors, operation,
            until: deadline)
        if kind == .lookUp { shmring_fault_at(SHMRING_FAULT_INTRODUCE_ASKED) }
        do {
            return try answer(to: request, kind, operation, until: deadline)
        } catch {
            guard error.code == .timedOut, kind == .lookUp else { throw error }
        }
        // The look-up may be answered at this very moment, and a right that is given must not be
        // lost.
        let patience = Deadline.after(cancelPatience)
        _ = try send(.cancel, CancelBody(request: request), operation, until: patience)
        do {
            return try answer(to: request, kind, operation, until: patience)
        } catch {
            guard error.code == .cancelled else { throw error }
            throw Bus1Error(.timedOut, operation)
        }
    }

    /// Sends something that is not answered.
    func tell<Body: BitwiseCopyable>(
        _ kind: ControlKind, _ body: Body, _ operation: StaticString,
        until deadline: Deadline = .after(cancelPatience)
    ) throws(Bus1Error) {
        _ = try send(kind, body, operation, until: deadline)
    }

    /// Sends something whose answer is not waited for, if there is room for it now. Its number.
    func begin<Body: BitwiseCopyable>(
        _ kind: ControlKind, _ body: Body, _ operation: StaticString
    ) throws(Bus1Error) -> UInt32 {
        try send(kind, body, operation, until: .now)
    }

    private func send<Body: BitwiseCopyable>(
        _ kind: ControlKind, _ body: Body, tail: [UInt8] = [], roles: ControlRoles = [],
        descriptors: [SharedDescriptor] = [],
        _ operation: StaticString, until deadline: Deadline
    ) throws(Bus1Error) -> UInt32 {
        let message = ControlMessage(
            kind, request: lastRequest + 1, body, tail: tail, roles: roles,
            descriptors: descriptors)
        try checkUsable(operation)
        try put(message, operation, until: deadline)
        lastRequest += 1
        // An abort is asked for again as long as it is wanted.
        if kind != .abortAsk { unanswered.append(message) }
        return lastRequest
    }

    private func put(
        _ message: ControlMessage, _ operation: StaticString, until deadline: Deadline
    ) throws(Bus1Error) {
        while true {
            let result = bus1_sys_socket_send(
                socket.rawValue, message.bytes, message.bytes.count, message.borrowedDescriptors,
                Int32(message.borrowedDescriptors.count))
            switch -result {
            case 0:
                return
            case EAGAIN:
                // The broker's buffer is full: it is busy, or stopped.
                guard !deadline.hasPassed else { throw Bus1Error(.timedOut, operation) }
                var wanted = pollfd(fd: socket.rawValue, events: Int16(POLLOUT), revents: 0)
                poll(&wanted, 1, deadline.pollTimeout_ms)
            case EPIPE, ECONNRESET:
                // What the broker said before it went may tell why.
                while let last = try receive(operation) {
                    if last.kind.isUnasked { try keep(last) }
                }
                throw Bus1Error(.severed, operation)
            default:
                throw Bus1Error(.system, operation, errno: -result)
            }
        }
    }

    func answer(
        to request: UInt32, _ kind: ControlKind, _ operation: StaticString, until deadline: Deadline
    ) throws(Bus1Error) -> ControlMessage {
        asked.append(request)
        defer { asked.removeLast() }
        while true {
            if let early = earlyAnswers.removeValue(forKey: request) {
                return try check(early, kind, operation)
            }
            guard let message = try receive(operation) else {
                guard !deadline.hasPassed else { throw Bus1Error(.timedOut, operation) }
                _ = bus1_sys_wait_readable(socket.rawValue, deadline.pollTimeout_ms)
                continue
            }
            if message.kind.isUnasked {
                try keep(message)
                continue
            }
            let answered = message.header.request
            if answered == request { return try check(message, kind, operation) }
            // Or an answer that somebody gave up waiting for.
            keepIfWanted(message)
        }
    }

    private func check(_ answer: ControlMessage, _ kind: ControlKind, _ operation: StaticString)
        throws(Bus1Error) -> ControlMessage
    {
        guard answer.kind == kind else { throw sever(operation) }
        guard answer.header.status != 0 else { return answer }
        guard let error = Bus1Error(refusal: answer, operation) else { throw sever(operation) }
        throw error
    }

    /// A request was answered. Those that are only told are known to have been read when a later one
    /// was answered.
    private func noLongerUnanswered(_ request: UInt32) {
        unanswered.removeAll {
            $0.header.request == request || $0.kind.isTold && $0.header.request < request
        }
    }

    /// The next packet for this peer, if one is there. Never waits.
    func receive(_ operation: StaticString) throws(Bus1Error) -> ControlMessage? {
        while let message = try receiveAny(operation) {
            let sequence = message.header.sequence
            if sequence != 0 {
                // A successor does not know which messages of the former broker were sent.
                guard sequence > lastSequence else { continue }
                lastSequence = sequence
            }
            switch message.kind {
            case .inherit: inherit(message)
            case .succeeded: try askAgain(operation)
            case let kind:
                if !kind.isUnasked { noLongerUnanswered(message.header.request) }
                if kind == .bury, let asked = burials.removeValue(forKey: message.header.request) {
                    if let answer = message.wholeBody(BuryAnswerBody.self) {
                        buried.append((asked.ring, asked.position, BuryAnswer(answer)))
                    }
                    continue
                }
                return message
            }
        }
        return nil
    }

    /// The broker wants this process to be its heir.
    private func inherit(_ message: ControlMessage) {
        guard standsBy, let dismissal = message.take(.event), let journal = message.take(.socket)
        else { return }
        HeirThread.start(journal: journal, dismissal: dismissal)
    }

    /// Another process has taken the broker's place. It knows what the former one had carried out and
    /// answers that once; the rest it has not heard of.
    private func askAgain(_ operation: StaticString) throws(Bus1Error) {
        let marker = ControlMessage(.again, request: max(1, lastRequest), EmptyBody())
        for message in [marker] + unanswered {
            try put(message, operation, until: .after(cancelPatience))
            if message === marker { shmring_fault_at(SHMRING_FAULT_AGAIN_SAID) }
        }
        shmring_fault_at(SHMRING_FAULT_AGAIN_REPEATED)
    }

    private func receiveAny(_ operation: StaticString) throws(Bus1Error) -> ControlMessage? {
        try checkUsable(operation)
        var descriptors = [Int32](repeating: -1, count: controlDescriptorsMax)
        var descriptorCount: Int32 = 0
        var received = 0
        var resets = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: controlMessageBytesMax) { buffer, count in
            // A broker that ended with requests unread: the kernel says that once, before what it had said to this peer.
            repeat {
                received = bus1_sys_socket_receive(
                    socket.rawValue, buffer.baseAddress, buffer.count, &descriptors,
                    &descriptorCount)
                resets += received == -Int(ECONNRESET) ? 1 : 2
            } while resets == 1
            count = max(0, received)
        }
        switch -Int32(received) {
        case EAGAIN: return nil
        // A shortage of this side, which says nothing of the broker.
        case let shortage where [EMFILE, ENOMEM, ENOBUFS].contains(shortage):
            throw Bus1Error(.system, operation, errno: shortage)
        case 0, ECONNRESET:
            hasEnded = true
            throw Bus1Error(.severed, operation)
        case let error where error > 0: throw sever(operation)
        default: break
        }
        let mine = Array(descriptors.prefix(Int(descriptorCount)))
        guard let message = ControlMessage(received: bytes, descriptors: mine) else {
            throw sever(operation)
        }
        if message.kind == .severed {
            // The code is all that is kept; the one who meets it first learns the details.
            let error = Bus1Error(refusal: message, operation) ?? Bus1Error(.severed, operation)
            severedBecause = error.code
            throw error
        }
        return message
    }

    /// The broker said what no honest one says.
    func sever(_ operation: StaticString) -> Bus1Error {
        severedBecause = .severed
        hasEnded = true
        shutdown(socket.rawValue, Int32(SHUT_RDWR))
        return Bus1Error(.severed, operation)
    }

    private func checkUsable(_ operation: StaticString) throws(Bus1Error) {
        if shmring_forked() { throw Bus1Error(.forked, operation) }
        if let severedBecause { throw Bus1Error(severedBecause, operation) }
    }

    static func nameBytes(_ name: String, _ operation: StaticString) throws(Bus1Error) -> [UInt8] {
        let bytes = Array(name.utf8)
        guard !bytes.isEmpty else { throw Bus1Error(.mismatch, operation) }
        guard bytes.count <= controlNameBytesMax else { throw Bus1Error(.tooLarge, operation) }
        return bytes
    }
}
