// The Swift parsers under libFuzzer: one program, whose target the environment names (BUS1_FUZZ_TARGET). A target is a
// function of a script, as in Tests/Fuzz/fuzz.h: whatever others write, nothing traps.

#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm

    @_silgen_name("LLVMFuzzerRunDriver")
    private func runFuzzer(
        _ argc: UnsafeMutablePointer<Int32>,
        _ argv: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
        _ target: @convention(c) (UnsafePointer<UInt8>?, Int) -> Int32
    ) -> Int32

    /// libFuzzer's own main refers to it by this name.
    @_cdecl("LLVMFuzzerTestOneInput")
    func fuzzOne(_ data: UnsafePointer<UInt8>?, _ size: Int) -> Int32 {
        Fuzz.one(data, size, Fuzz.target)
    }

    @main
    struct Fuzz {
        static let target: @Sendable (inout Script) throws -> Void = {
            switch getenv("BUS1_FUZZ_TARGET").map({ String(cString: $0) }) {
            case "control": return fuzzControl
            case "broker": return fuzzBroker
            case "link": return fuzzLink
            case "journal": return fuzzJournal
            case "peer": return fuzzPeer
            default:
                print("BUS1_FUZZ_TARGET is one of control, broker, journal, link, peer")
                exit(2)
            }
        }()

        static func main() {
            var argc = CommandLine.argc
            var argv = CommandLine.unsafeArgv
            exit(runFuzzer(&argc, &argv, { fuzzOne($0, $1) }))
        }

        static func one(
            _ data: UnsafePointer<UInt8>?, _ size: Int, _ body: (inout Script) throws -> Void
        ) -> Int32 {
            var script = Script(Array(UnsafeBufferPointer(start: data, count: size)))
            try? body(&script)
            return 0
        }
    }

    /// The input. Past its end everything is 0.
    struct Script {
        private let bytes: [UInt8]
        private var at = 0

        init(_ bytes: [UInt8]) { self.bytes = bytes }

        var isOver: Bool { at >= bytes.count }

        mutating func byte() -> UInt8 {
            guard at < bytes.count else { return 0 }
            defer { at += 1 }
            return bytes[at]
        }

        mutating func take(_ count: Int) -> [UInt8] {
            let end = min(bytes.count, at + count)
            defer { at = end }
            return Array(bytes[at..<end])
        }

        mutating func number() -> UInt64 {
            take(8).enumerated().reduce(0) { $0 | UInt64($1.element) << (8 * UInt64($1.offset)) }
        }

        /// Small, near `base`, near an end, or anything.
        mutating func word(near base: UInt64 = 0) -> UInt64 {
            let how = byte()
            let small = UInt64(how >> 3)
            switch how & 7 {
            case 0, 1: return small
            case 2: return base &+ small
            case 3: return base &- small
            case 4: return .max - small
            case 5: return 1 << (UInt64(how >> 2) & 63)
            case 6: return UInt64(byte()) << 8 | small
            default: return number()
            }
        }
    }

    /// What somebody may send by way of descriptors: a new one each time.
    enum Sample {
        private static let originals: [Int32] = {
            var made: [Int32] = [open("/dev/null", O_RDWR | O_CLOEXEC)]
            var descriptor: Int32 = -1
            if shmring_ring_create(7, 64, 64, &descriptor) == 0 { made.append(descriptor) }
            if shmring_outbox_create(3, 1, &descriptor) == 0 {
                _ = shmring_segment_seal(descriptor, true)
                made.append(descriptor)
            }
            if shmring_board_create(4, &descriptor) == 0 { made.append(descriptor) }
            if shmring_bus_page_create(&descriptor) == 0 { made.append(descriptor) }
            if shmring_claims_create(3, 1, &descriptor) == 0 { made.append(descriptor) }
            if shmring_segment_create("sample", 8192, true, &descriptor) == 0 {
                _ = shmring_segment_seal(descriptor, true)
                made.append(descriptor)
            }
            var ends: [Int32] = [-1, -1]
            if bus1_sys_socket_pair(&ends) == 0 { made += ends }
            return made
        }()

        static func descriptor(_ which: UInt8) -> Int32 {
            fcntl(originals[Int(which) % originals.count], F_DUPFD_CLOEXEC, 3)
        }
    }

    func bytes<Value: BitwiseCopyable>(of value: Value) -> [UInt8] {
        withUnsafeBytes(of: value) { Array($0) }
    }
#endif
