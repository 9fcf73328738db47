/// Every transport that this build knows. A new one is a line here.
let transports: [any Transport] = [
    Bus1Transport(),
    Bus1TaskTransport(),
    Bus1CTransport(),
    WireTransport(name: "pipe", kind: .pipe),
    WireTransport(name: "stream", kind: .stream),
    WireTransport(name: "seqpacket", kind: .seqpacket),
    WireTransport(name: "mq", kind: .queue),
    WireTransport(name: "tcp", kind: .tcp),
    RivalTransport(name: "zeromq", package: "libzmq3-dev", variable: "BUS1_WITH_ZEROMQ"),
    RivalTransport(name: "nng", package: "libnng-dev", variable: "BUS1_WITH_NNG"),
    RivalTransport(
        name: "iceoryx", package: "iceoryx libiceoryx-binding-c-dev",
        variable: "BUS1_WITH_ICEORYX"),
    RivalTransport(name: "boost-spsc", package: "libboost-dev", variable: "BUS1_WITH_BOOST"),
    SpscTransport(),
    HandoffTransport(),
    FutexTransport(),
    MemoryReadTransport(),
    RingTransport(language: .c),
    RingTransport(language: .swift),
]

func transport(named name: String) throws -> any Transport {
    guard let found = transports.first(where: { $0.name == name }) else {
        let names = transports.map(\.name).joined(separator: ", ")
        throw BenchError("no transport is called \(name); there are \(names)")
    }
    return found
}
