import Glibc
import Testing

@testable import bus1_bench

/// What `bus1-bench soak` calls a leak.
struct SoakTests {
    @Test func whatAProcessHasInUseIsCounted() {
        let before = ProcessUse(of: getpid())
        #expect(before.descriptors > 2)
        #expect(before.reserved_bytes > before.bytes)
        #expect(before.threads >= 1)
        #expect(before.bytes > 1 << 20)
        // memfd_create(2), which Swift does not import.
        let create = unsafeBitCast(
            dlsym(nil, "memfd_create"),
            to: (@convention(c) (UnsafePointer<CChar>, UInt32) -> Int32).self)
        let file = create("soak-test", 0)
        #expect(ftruncate(file, 4096) == 0)
        let memory = mmap(nil, 4096, PROT_READ, MAP_SHARED, file, 0)
        #expect(ProcessUse(of: getpid()).mappings >= 1)
        munmap(memory, 4096)
        close(file)
    }

    @Test func aDescriptorMoreIsALeakAndSomeMemoryIsNone() {
        var before = ProcessUse(of: getpid())
        before.bytes = 0
        var after = before
        after.bytes = 1 << 19
        #expect(after.leaks(since: before, of: "broker").isEmpty)
        after.descriptors += 1
        #expect(after.leaks(since: before, of: "broker") == ["1 descriptors of the broker"])
        after.bytes = 2 << 20
        #expect(after.leaks(since: before, of: "broker").count == 2)
    }

    @Test(arguments: [["--minutes", "0"], ["--processes", "7"], ["--users", "17"]])
    func whatMakesNoSenseIsRefused(arguments: [String]) {
        #expect(throws: (any Error).self) { _ = try SoakCommand.parse(arguments) }
    }
}
