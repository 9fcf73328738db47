import CShmRing
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// Payloads in memory that nobody can change any more.
@Suite(.timeLimit(.minutes(1)))
struct SealedPayloadTests {
    static let sizes = [0, 1, 4095, 4096, 4097, 1_000_000]

    @Test(arguments: sizes) func aSealedPayloadIsReadInPlace(size: Int) throws {
        let pair = try DescriptorPair()
        var payload = try SealedPayload(byteCount: size)
        var bytes = payload.bytes
        bytes.withUnsafeMutableBytes { bytes in
            for i in bytes.indices { bytes[i] = UInt8(truncatingIfNeeded: i &* 7) }
        }
        try pair.sender.send(payload, to: pair.handle)
        var message = try pair.message()
        #expect(message.isPayloadOpen && message.byteCount == size)
        #expect(message.descriptorCount == 0)
        try message.openPayload()
        let isWhole = message.payload.withUnsafeBytes { bytes in
            bytes.indices.allSatisfy { bytes[$0] == UInt8(truncatingIfNeeded: $0 &* 7) }
        }
        #expect(isWhole)
        if size > 0 { #expect(message.attachments?.sealed?.view?.base != nil) }
    }

    @Test func whatWasFilledInAndSentCantBeChangedByItsSender() throws {
        var payload = try SealedPayload(byteCount: 4096)
        var bytes = payload.bytes
        bytes.withUnsafeMutableBytes { $0[0] = 1 }
        let memory = try payload.seal()
        let raw = memory.descriptor.rawValue
        var byte: UInt8 = 2
        #expect(pwrite(raw, &byte, 1, 0) == -1 && errno == EPERM)
        #expect(ftruncate(raw, 0) == -1 && errno == EPERM)
        #expect(mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, raw, 0) == MAP_FAILED)
        #expect(pread(raw, &byte, 1, 0) == 1 && byte == 1)
    }

    @Test func descriptorsBesideASealedPayloadAreTakenApart() throws {
        let pair = try DescriptorPair()
        let witness = Witness()
        var payload = try SealedPayload(byteCount: 100)
        var bytes = payload.bytes
        bytes.withUnsafeMutableBytes { $0[99] = 9 }
        try pair.sender.send(payload, to: pair.handle, descriptors: [witness.writing])
        witness.letGo()
        var message = try pair.message()
        #expect(message.descriptorCount == 1 && message.byteCount == 100)
        #expect(message.payload.withUnsafeBytes { $0[99] } == 9)
        let taken = try #require(try message.takeDescriptor())
        #expect(witness.isThis(taken))
        close(taken)
        #expect(witness.isLeftAlone)
        #expect(message.payload.withUnsafeBytes { $0[99] } == 9)
    }

    @Test func oneSealedMemfdGoesToSeveral() throws {
        let pair = try DescriptorPair()
        let other = try pair.receiver.makeNode()
        let id = try pair.receiver.give(other, to: pair.sender)
        var made = try SealedPayload(byteCount: 5000)
        var bytes = made.bytes
        bytes.withUnsafeMutableBytes { $0[4999] = 3 }
        let memory = try made.seal()
        var one = pair.sender.transaction()
        for target in [pair.handle.id, id] {
            let payload = try SealedPayload(
                sealed: memory.descriptor.rawValue, byteCount: 5000)
            try one.send(payload, to: target)
        }
        try one.commit()
        for _ in 0..<2 {
            let message = try pair.message()
            #expect(message.payload.withUnsafeBytes { $0[4999] } == 3)
        }
    }

    enum Fault: CaseIterable {
        case unsealed, futureWrite, notAgainstShrinking, short, sparse, hiddenHole, pipe,
            regularFile
        case device, lies, none
    }

    /// A memfd whose first bytes are filled in, sealed like that.
    private func memory(_ byteCount: Int, fill: Int, beyond: Int = 0, seals: Int32) -> Int32 {
        let raw = Self.createMemory("test", 3)  // MFD_CLOEXEC | MFD_ALLOW_SEALING
        precondition(ftruncate(raw, byteCount) == 0)
        let content = [UInt8](repeating: 1, count: fill)
        precondition(pwrite(raw, content, fill, 0) == fill)
        // FALLOC_FL_KEEP_SIZE: blocks that nobody sees.
        if beyond > 0 { precondition(Self.allocate(raw, 1, byteCount, beyond) == 0) }
        precondition(fcntl(raw, 1033, seals) == 0)  // F_ADD_SEALS
        return raw
    }

    /// Glibc's module lacks these.
    private static let createMemory = function(
        "memfd_create", as: (@convention(c) (UnsafePointer<CChar>, UInt32) -> Int32).self)
    private static let allocate = function(
        "fallocate64", as: (@convention(c) (Int32, Int32, Int, Int) -> Int32).self)

    private static func function<T>(_ name: String, as type: T.Type) -> T {
        unsafeBitCast(dlsym(nil, name), to: type)
    }

    /// A descriptor with some fault.
    private func faulty(_ fault: Fault) -> Int32 {
        let (seal, shrink, grow, write, futureWrite): (Int32, Int32, Int32, Int32, Int32) =
            (1, 2, 4, 8, 16)
        let all = seal | write | shrink | grow
        switch fault {
        case .unsealed: return memory(8192, fill: 8192, seals: shrink | grow)
        case .futureWrite:
            return memory(8192, fill: 8192, seals: shrink | grow | futureWrite | seal)
        case .notAgainstShrinking: return memory(8192, fill: 8192, seals: write | grow | seal)
        case .short, .lies, .none: return memory(4096, fill: 4096, seals: all)
        case .sparse: return memory(1 << 30, fill: 4096, seals: all)
        case .hiddenHole: return memory(1 << 20, fill: 4096, beyond: 1 << 20, seals: all)
        case .pipe:
            var ends: [Int32] = [-1, -1]
            precondition(pipe(&ends) == 0)
            close(ends[1])
            return ends[0]
        case .regularFile: return open("/proc/self/exe", O_RDONLY | O_CLOEXEC)
        case .device: return open("/dev/zero", O_RDWR | O_CLOEXEC)
        }
    }

    private func statedLength(_ fault: Fault) -> Int {
        switch fault {
        case .none: 4096
        case .lies: Int.max
        case .sparse: 1 << 30
        case .hiddenHole: 1 << 20
        case .pipe, .regularFile, .device: 10
        default: 8192
        }
    }

    @Test(arguments: Fault.allCases)
    func aFaultyPayloadIsRefusedAndTheRestOfItsMessageIsReadable(fault: Fault) throws {
        let pair = try DescriptorPair()
        let witness = Witness()
        let descriptor = Descriptor(owning: faulty(fault))
        let byteCount = statedLength(fault)
        if fault != .none {
            let error = failure {
                _ = try SealedPayload(sealed: descriptor.rawValue, byteCount: byteCount)
            }
            #expect(error?.code == .mismatch)
        }
        // As a sender that does not ask.
        let memory = SealedMemory(descriptor, nil, mappedBytes: 0)
        var one = pair.sender.transaction()
        one.messages.append(
            OutgoingMessage(
                handle: pair.handle.id, payload: .sealed(memory, byteCount: byteCount),
                descriptors: [witness.writing]))
        try one.commit()
        witness.letGo()
        var message = try pair.message()
        #expect(message.isPayloadOpen == (fault == .none))
        if fault != .none {
            #expect(message.byteCount == 0)
            for _ in 0..<2 {
                #expect(failure { try message.openPayload() }?.code == .mismatch)
            }
        }
        let taken = try #require(try message.takeDescriptor())
        #expect(witness.isThis(taken))
        close(taken)
        drop(message)
        #expect(witness.isLeftAlone)
        try pair.sender.send(UInt64(4), to: pair.handle)
        #expect(try pair.message().load(as: UInt64.self) == 4)
    }

    @Test func aPayloadForWhichThereIsNoDescriptorIsOpenedLater() async {
        await #expect(processExitsWith: .success) {
            let pair = try DescriptorPair()
            var payload = try SealedPayload(byteCount: 300_000)
            var bytes = payload.bytes
            bytes.withUnsafeMutableBytes { $0[299_999] = 4 }
            try pair.sender.send(payload, to: pair.handle)
            allowDescriptors(300)
            var blockers: [Int32] = []
            while case let one = dup(0), one >= 0 { blockers.append(one) }
            var message = try pair.message()
            #expect(!message.isPayloadOpen && message.byteCount == 0)
            #expect(failure { try message.openPayload() }?.errno == EMFILE)
            // Room for one descriptor: first the link's socket, then the payload's.
            close(blockers.removeLast())
            #expect(failure { try message.openPayload() }?.errno == EMFILE)
            #expect(try pair.receiver.tryReceive() == nil)
            #expect(failure { try message.openPayload() }?.errno == EMFILE)
            close(blockers.removeLast())
            try message.openPayload()
            #expect(message.isPayloadOpen && message.byteCount == 300_000)
            #expect(message.payload.withUnsafeBytes { $0[299_999] } == 4)
            // It is mapped; the descriptor is not kept.
            #expect(dup(0) >= 0)
        }
    }
}
