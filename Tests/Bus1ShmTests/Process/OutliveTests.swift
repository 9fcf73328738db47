import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

extension ProcessTests {
    /// A peer lives through many others, and keeps nothing of them.
    @Suite(.serialized, .timeLimit(.minutes(3)))
    struct OutliveTests {
        @Test(arguments: ["", "lane"])
        func aPeerThatOutlivesThousandsHasNoMoreThanBefore(ways: String) throws {
            try withCrew { crew in
                _ = try crew.join()
                let resident = try crew.join("lanes=2")
                let said = try resident.must("outlive 2000 \(ways)", within: .seconds(150))
                let words = said.split(separator: " ").map(String.init)
                let (descriptors, mappings, kib) = (Int(words[0])!, Int(words[1])!, Int(words[2])!)
                // A lane keeps what it has of the latest ones until it makes a way to somebody new.
                let kept = ways == "lane" ? 8 : 0
                #expect(descriptors <= kept, "\(said)")
                #expect(mappings <= kept, "\(said)")
                // Tables by sender index grow for a while, up to 200 KiB. The address sanitizer gives nothing back.
                let isSanitized = dlsym(nil, "__asan_init") != nil
                // A lane keeps memory for payloads, as much as it once had under way.
                #expect(kib < (ways == "lane" ? 16 << 10 : 512) || isSanitized, "\(said)")
                // Places of links are used again.
                #expect(Int(words[4])! < 16, "\(said)")
                #expect(words[6] == "0", "\(said)")
                if ways == "lane" { #expect(Int(words[8])! > 0, "\(said)") }
            }
        }
    }
}
