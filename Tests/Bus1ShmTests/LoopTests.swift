import CBus1System
import Glibc
import Testing

@testable import Bus1Shm

/// Both loops report the same, so each test runs on both. Where io_uring is not compiled in or not
/// permitted, both are epoll.
@Suite(.timeLimit(.minutes(1)))
struct LoopTests {
    @Test(arguments: [true, false])
    func aPacketComesWithItsDescriptorsAndTheEndComesAsLengthZero(uring: Bool) throws {
        let loop = try Loop(uring: uring)
        let (near, far) = try pair()
        #expect(bus1_sys_loop_receive(loop.loop, near.rawValue, 7) == 0)
        #expect(bus1_sys_socket_send(far.rawValue, "abc", 3, [0, 1], 2) == 0)
        let event = try #require(loop.next())
        #expect(
            event.token == 7 && event.kind == BUS1_SYS_EVENT_PACKET.rawValue && event.result == 3)
        #expect(event.fd_count == 2 && !event.control_truncated)
        #expect(fcntl(event.fds.0, F_GETFD) & FD_CLOEXEC != 0)
        #expect(fcntl(event.fds.1, F_GETFD) & FD_CLOEXEC != 0)
        close(event.fds.0)
        close(event.fds.1)
        #expect(event.bytes[0] == UInt8(ascii: "a") && event.bytes[2] == UInt8(ascii: "c"))
        #expect(bus1_sys_socket_send(far.rawValue, "de", 2, nil, 0) == 0)
        #expect(loop.next()?.result == 2, "the wish stands until it is taken back")
        shutdown(far.rawValue, Int32(SHUT_RDWR))
        #expect(loop.next()?.result == 0)
        #expect(loop.next(0) == nil)
    }

    @Test(arguments: [true, false])
    func aPacketTooLongIsAnErrorAndBringsNoDescriptors(uring: Bool) throws {
        let loop = try Loop(uring: uring)
        let (near, far) = try pair()
        #expect(bus1_sys_loop_receive(loop.loop, near.rawValue, 7) == 0)
        // A pipe tells whether anybody still holds its writing end: unlike a count of descriptors,
        // in spite of tests that run beside this one.
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        defer { close(ends[0]) }
        let long = [UInt8](repeating: 1, count: Int(BUS1_SYS_PACKET_BYTES_MAX) + 1)
        #expect(bus1_sys_socket_send(far.rawValue, long, long.count, [ends[1]], 1) == 0)
        close(ends[1])
        let event = try #require(loop.next())
        #expect(event.result == -EMSGSIZE && event.fd_count == 0)
        #expect(bus1_sys_wait_readable(ends[0], 10_000) == 1, "its end has come")
    }

    @Test(arguments: [true, false])
    func whatIsForgottenIsNotReported(uring: Bool) throws {
        let loop = try Loop(uring: uring)
        let (near, far) = try pair()
        let (other, otherFar) = try pair()
        #expect(bus1_sys_loop_receive(loop.loop, near.rawValue, 1) == 0)
        #expect(bus1_sys_loop_receive(loop.loop, other.rawValue, 2) == 0)
        #expect(loop.next(0) == nil)
        #expect(bus1_sys_socket_send(far.rawValue, "a", 1, nil, 0) == 0)
        #expect(bus1_sys_socket_send(otherFar.rawValue, "b", 1, nil, 0) == 0)
        let first = try #require(loop.next())
        let forgotten: (Int32, UInt64) = first.token == 1 ? (other.rawValue, 2) : (near.rawValue, 1)
        bus1_sys_loop_forget(loop.loop, forgotten.0, forgotten.1)
        #expect(loop.next(20) == nil)
    }

    @Test(arguments: [true, false])
    func readinessIsReportedOnceForReadingAndForWriting(uring: Bool) throws {
        let loop = try Loop(uring: uring)
        let (near, far) = try pair()
        #expect(bus1_sys_loop_receive(loop.loop, near.rawValue, 1) == 0)
        #expect(bus1_sys_loop_ready(loop.loop, near.rawValue, true, 2) == 0)
        let writable = try #require(loop.next())
        #expect(writable.token == 2 && writable.kind == BUS1_SYS_EVENT_READY.rawValue)
        #expect(loop.next(0) == nil)
        #expect(bus1_sys_socket_send(far.rawValue, "a", 1, nil, 0) == 0)
        #expect(loop.next()?.token == 1)
        var event: Int32 = -1
        #expect(bus1_sys_event_create(&event) == 0)
        let counter = Descriptor(owning: event)
        #expect(bus1_sys_loop_ready(loop.loop, counter.rawValue, false, 3) == 0)
        #expect(loop.next(0) == nil)
        bus1_sys_event_signal(counter.rawValue)
        #expect(loop.next()?.token == 3)
        #expect(loop.next(0) == nil)
    }

    @Test(arguments: [true, false])
    func manyConnectionsAreAcceptedEachOnce(uring: Bool) throws {
        try withBus { bus in
            let loop = try Loop(uring: uring)
            let directory = try BusAddress(bus).openDirectory()
            var listener: Int32 = -1
            #expect(bus1_sys_socket_listen(directory.rawValue, "bus", &listener) == 0)
            defer { close(listener) }
            #expect(bus1_sys_loop_accept(loop.loop, listener, 9) == 0)
            var ends: [Int32] = []
            for _ in 0..<20 {
                var end: Int32 = -1
                #expect(bus1_sys_socket_connect(directory.rawValue, "bus", &end) == 0)
                ends.append(end)
            }
            for _ in 0..<20 {
                let event = try #require(loop.next())
                #expect(
                    event.token == 9 && event.kind == BUS1_SYS_EVENT_ACCEPTED.rawValue
                        && event.result > 2)
                ends.append(event.result)
            }
            #expect(loop.next(0) == nil)
            for end in ends { close(end) }
            bus1_sys_loop_forget(loop.loop, listener, 9)
        }
    }

    /// A loop and its owner.
    private final class Loop {
        let loop: OpaquePointer

        init(uring: Bool) throws {
            var made: OpaquePointer?
            let result = bus1_sys_loop_create(uring, &made)
            guard result == 0, let made else { throw Bus1Error(result: result, "make a loop") }
            loop = made
            if !uring { #expect(String(cString: bus1_sys_loop_name(made)) == "epoll") }
        }

        deinit { bus1_sys_loop_destroy(loop) }

        /// The next event; nil when there is none for that long.
        func next(_ timeout_ms: Int32 = 10_000) -> bus1_sys_event? {
            var event = bus1_sys_event()
            return bus1_sys_loop_next(loop, &event, timeout_ms) == 1 ? event : nil
        }
    }

    private func pair() throws -> (SharedDescriptor, SharedDescriptor) {
        var ends: [Int32] = [-1, -1]
        try #require(bus1_sys_socket_pair(&ends) == 0)
        return (
            SharedDescriptor(Descriptor(owning: ends[0])),
            SharedDescriptor(Descriptor(owning: ends[1]))
        )
    }
}
