#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    extension Actor {
        /// Forks; the child calls everything there is and says what each said: name=code.
        func callInForkedChild() throws -> String {
            let lane = try box.peer.lane()
            let slice = try box.peer.loan(100)
            let handle = handles[0]
            // One that names its entry directly.
            guard let held = box.peer.adopt(handle) else { throw Bus1Error(.noSuchHandle, "adopt") }
            let bytes: [UInt8] = [1, 2, 3]
            var ends: [Int32] = [0, 0]
            guard pipe(&ends) == 0 else { throw Bus1Error(.system, "make a pipe", errno: errno) }
            let child = forkChild()
            if child == 0 {
                alarm(20)
                var said: [String] = []
                func attempt(_ name: String, _ body: () throws -> Void) {
                    do {
                        try body()
                        said.append("\(name)=done")
                    } catch {
                        said.append(
                            "\(name)=\((error as? Bus1Error).map { "\($0.code)" } ?? "\(error)")")
                    }
                    // Line by line: what crashes is the one after the last.
                    let line = said.removeLast() + " "
                    _ = line.withCString { write(ends[1], $0, strlen($0)) }
                }
                attempt("trySend") { _ = try box.peer.trySend(UInt64(1), to: handle) }
                attempt("send") { _ = try box.peer.send(UInt64(1), to: held) }
                attempt("send.bytes") { _ = try box.peer.send(bytes.span.bytes, to: held) }
                attempt("lane.send") { _ = try lane.send(UInt64(1), to: held) }
                attempt("multicast") { try box.peer.send(bytes.span.bytes, to: [handle]) }
                attempt("tryReceive") { _ = try box.peer.tryReceive() }
                attempt("receive") { _ = try box.peer.receive(until: .after(.milliseconds(10))) }
                attempt("loan") { _ = try box.peer.loan(10) }
                attempt("lane.loan") { _ = try lane.loan(10) }
                attempt("lane.multicast") { try lane.send(bytes.span.bytes, to: [handle]) }
                attempt("lane") { _ = try box.peer.lane() }
                attempt("makeNode") { _ = try box.peer.makeNode() }
                attempt("makeHandle") { _ = try box.peer.makeHandle(to: nodes[0].node) }
                attempt("publish") { try box.peer.publish(nodes[0].node, as: "x") }
                attempt("lookUp") { _ = try box.peer.lookUp("x", until: .after(.milliseconds(10))) }
                attempt("spawn") { _ = try box.peer.spawn("/bin/true", [], giving: [handle]) }
                attempt("descriptor") { _ = try box.peer.descriptor() }
                attempt("new") { _ = try Peer(on: Bus(path: "/tmp/nowhere/bus")) }
                nodes = []
                box = nil
                attempt("dropped") {}
                _exit(0)
            }
            close(ends[1])
            var answer: [UInt8] = []
            var byte: UInt8 = 0
            while read(ends[0], &byte, 1) == 1 { answer.append(byte) }
            close(ends[0])
            var status: Int32 = 0
            _ = bus1_sys_child_reap(child, &status)
            _ = slice.byteCount
            _ = held.detach()
            return "\(status) " + String(decoding: answer, as: UTF8.self)
        }
    }
#endif
