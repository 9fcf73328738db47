// swift-tools-version: 6.2
import PackageDescription

// Optional libraries are chosen through the environment, which SwiftPM has in its cache key; a probe
// of the file system here would go stale. The Makefile sets these when the headers are installed.
let hasLibrary = { (name: String) in Context.environment["BUS1_WITH_\(name)"] == "1" }
let withUring = hasLibrary("URING")
let withNuma = hasLibrary("NUMA")
// Rivals for bus1-bench: define and library.
let rivals = [("ZEROMQ", "zmq"), ("NNG", "nng"), ("ICEORYX", "iceoryx_binding_c")]
    .filter { hasLibrary($0.0) }
let iceoryxHeaders = "/usr/include/iceoryx/v2.0.3"
let withBoost = hasLibrary("BOOST")

// A special build, for tools/check-switches: rules of the order that can be broken on purpose.
let withSwitches = Context.environment["BUS1_SWITCHES"] == "1"

// A special build, for tools/fuzz: the Swift parsers under libFuzzer.
let withFuzz = Context.environment["BUS1_FUZZ"] == "1"

let strictC: [CSetting] =
    (withSwitches ? [.define("SHMRING_SWITCHES")] : []) + [
        .treatAllWarnings(as: .error),
        .enableWarning("all"), .enableWarning("extra"), .enableWarning("conversion"),
        .enableWarning("strict-prototypes"), .enableWarning("missing-prototypes"),
        .define("_GNU_SOURCE"),
    ]
let strictSwift: [SwiftSetting] =
    (withSwitches ? [.unsafeFlags(["-Xcc", "-DSHMRING_SWITCHES"])] : []) + [
        .swiftLanguageMode(.v6),
        .treatAllWarnings(as: .error),
        .enableExperimentalFeature("Lifetimes"),
        .enableUpcomingFeature("InternalImportsByDefault"),
        .enableUpcomingFeature("ExistentialAny"),
    ]

let package = Package(
    name: "bus1",
    products: [
        .library(name: "Bus1Shm", targets: ["Bus1Shm"]),
        .library(name: "Bus1Topics", targets: ["Bus1Topics"]),
        .library(name: "Bus1Codable", targets: ["Bus1Codable"]),
        .library(name: "Bus1Supervision", targets: ["Bus1Supervision"]),
        .library(name: "Bus1C", type: .static, targets: ["Bus1C"]),
        .executable(name: "bus1", targets: ["bus1"]),
        .executable(name: "bus1-bench", targets: ["bus1-bench"]),
        // Preloaded by bus1-bench into what it measures, to count allocations from outside.
        .library(name: "bench-malloc-count", type: .dynamic, targets: ["CBenchMallocCount"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        // Bytes, order and sleep. Never says peer, node or handle.
        .target(
            name: "CShmRing",
            cSettings: strictC + (withNuma ? [.define("SHMRING_WITH_NUMA")] : []),
            linkerSettings: withNuma ? [.linkedLibrary("numa")] : []),
        // What the broker and the peers ask of the kernel: sockets, descriptors, processes, events.
        .target(
            name: "CBus1System",
            cSettings: strictC + (withUring ? [.define("BUS1_WITH_URING")] : []),
            linkerSettings: withUring ? [.linkedLibrary("uring")] : []),
        // Authority: peers, nodes, handles, transactions, the broker.
        .target(
            name: "Bus1Shm", dependencies: ["CShmRing", "CBus1System"], swiftSettings: strictSwift),
        // One publisher, many subscribers.
        .target(name: "Bus1Topics", dependencies: ["Bus1Shm"], swiftSettings: strictSwift),
        // Values that are encoded.
        .target(name: "Bus1Codable", dependencies: ["Bus1Shm"], swiftSettings: strictSwift),
        // Programs that are started again.
        .target(name: "Bus1Supervision", dependencies: ["Bus1Shm"], swiftSettings: strictSwift),
        // The interface for C: the header, and in Swift what it declares. tools/build-library links both into libbus1.
        .target(name: "CBus1", cSettings: strictC),
        .target(
            name: "Bus1C", dependencies: ["Bus1Shm", "CBus1", "CShmRing"],
            swiftSettings: strictSwift),
        // Whether what peers saw fits one order: for the tool, and for what measures.
        .target(name: "Bus1Judge", dependencies: ["CBench"], swiftSettings: strictSwift),
        // The tool.
        .executableTarget(
            name: "bus1",
            dependencies: [
                "Bus1Shm", "Bus1Judge",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strictSwift),
        // The rivals and the yardsticks, each at its best.
        .target(name: "CBench", dependencies: ["CShmRing"], cSettings: strictC),
        .target(name: "CBenchMallocCount", cSettings: strictC),
        .target(
            name: "CBenchRivals", dependencies: ["CBench"],
            cSettings: strictC + rivals.map { .define("BUS1_WITH_\($0.0)") }
                + (hasLibrary("ICEORYX") ? [.unsafeFlags(["-isystem", iceoryxHeaders])] : []),
            linkerSettings: rivals.map { .linkedLibrary($0.1) }),
        .executableTarget(
            name: "bus1-bench",
            dependencies: [
                "Bus1Shm", "Bus1C", "Bus1Judge", "CBus1", "CBench", "CBenchRivals", "CShmRing",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ] + (withBoost ? ["CBenchBoost"] : []),
            swiftSettings: strictSwift + (withBoost ? [.define("BUS1_WITH_BOOST")] : [])),
        // Sandboxes for tests.
        .target(name: "CBus1TestSupport", path: "Tests/CSupport", cSettings: strictC),
        // What the tests of unrelated processes share: a peer without a data path, and its remote control.
        .target(
            name: "Bus1TestSupport", dependencies: ["Bus1Shm", "CShmRing", "CBus1System"],
            path: "Tests/Support", swiftSettings: strictSwift),
        .executableTarget(
            name: "bus1-test-peer", dependencies: ["Bus1TestSupport"], path: "Tests/TestPeer",
            swiftSettings: strictSwift),
        // The example of README.md, which a test compares with it and runs.
        .executableTarget(
            name: "readme-example", dependencies: ["Bus1Shm"], path: "Tests/ReadmeExample",
            swiftSettings: strictSwift),
        // A whole peer in a process of its own, which can also die or misbehave on purpose.
        .executableTarget(
            name: "bus1-test-program",
            dependencies: [
                "Bus1Shm", "CShmRing", "CBus1System", "Bus1TestSupport", "CBus1TestSupport",
            ],
            path: "Tests/TestProgram", swiftSettings: strictSwift),
        .testTarget(
            name: "Bus1ShmTests",
            dependencies: [
                "Bus1Shm", "CShmRing", "CBus1System", "bus1-bench", "Bus1TestSupport",
                "CBus1TestSupport",
                "bus1-test-peer", "bus1-test-program", "readme-example", "Bus1Topics",
                "Bus1Codable", "Bus1Supervision",
            ],
            swiftSettings: strictSwift),
        .testTarget(
            name: "Bus1BenchTests", dependencies: ["bus1-bench", "Bus1Judge"],
            exclude: ["histories"],
            swiftSettings: strictSwift),
    ]
        // One program each, of several processes; its first lines say how it is started.
        + ["chat", "camera", "workers", "service", "record"].map { name in
            .executableTarget(
                name: "example-\(name)", dependencies: ["Bus1Shm", "Bus1Topics"],
                path: "Examples/\(name)", swiftSettings: strictSwift)
        }
        // C++, and so only where it is wanted.
        + (withBoost
            ? [.target(name: "CBenchBoost", dependencies: ["CBenchRivals", "CBench"])] : [])
        + (withFuzz
            ? [
                .executableTarget(
                    name: "bus1-fuzz", dependencies: ["Bus1Shm", "CShmRing", "CBus1System"],
                    path: "Tests/Fuzz/Swift", swiftSettings: strictSwift)
            ] : []),
    cxxLanguageStandard: .cxx17
)
