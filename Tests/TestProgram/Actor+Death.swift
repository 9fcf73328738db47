#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    extension Actor {
        func die(_ words: [String]) throws -> Never { fatalError() }
        func callInForkedChild() throws -> String { "" }
        func misbehave(_ verb: String, _ words: [String]) throws -> String { "unknown" }
    }
#endif
