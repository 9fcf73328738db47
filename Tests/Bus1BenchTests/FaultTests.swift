import ArgumentParser
import CShmRing
import Testing

@testable import bus1_bench

/// What `bus1-bench faults` says and counts. The sweep itself needs a special build: tools/check-faults.
@Suite struct FaultTests {
    private static let sender = SHMRING_FAULT_SENDER.rawValue
    private static let receiver = SHMRING_FAULT_RECEIVER.rawValue

    private func table(pairs: Bool = true) -> FaultTable {
        FaultTable(
            [
                (1, Self.sender), (2, Self.sender | Self.receiver),
                (3, SHMRING_FAULT_BROKER.rawValue),
            ],
            of: [Self.sender, Self.receiver], pairs: pairs)
    }

    @Test func aPointHasACellForEachRoleThatIsSwept() {
        let cells = table().cells
        #expect(cells.map(\.point) == [1, 2, 2])
        #expect(cells.map(\.role.rawValue) == [Self.sender, Self.sender, Self.receiver])
    }

    @Test func aZeroIsNamedUntilItIsHit() {
        var table = table()
        #expect(table.zeros.count == 5)
        for cell in table.cells.indices { table.hit(cell, inPair: false) }
        #expect(table.zeros.count == 2)
        table.hit(0, inPair: true)
        table.hit(2, inPair: true)
        #expect(table.zeros.isEmpty)
        #expect(table.hits == 5)
    }

    @Test func theNeediestCellIsTheOneHitLeast() {
        var table = table(pairs: false)
        var dice = SplitMix64(state: 1)
        table.hit(0, inPair: false)
        table.hit(1, inPair: false)
        #expect(table.neediest(&dice) == 2)
        #expect(table.neediest(&dice) { $0.point != 2 } == 0)
        // What was often tried in vain comes later than what was hit.
        for _ in 0..<6 { table.missed(2) }
        #expect(table.neediest(&dice) != 2)
    }

    @Test func aPairIsWantedOnceAPointWasHitAlone() {
        var table = table()
        #expect(!table.wantsPair(1))
        table.hit(1, inPair: false)
        #expect(table.wantsPair(1))
        table.hit(1, inPair: true)
        #expect(!table.wantsPair(1))
    }

    @Test func argumentsOutOfRangeAreRefused() {
        #expect(throws: (any Error).self) { try FaultsCommand.parse(["--kills", "0"]) }
        #expect(throws: (any Error).self) { try FaultsCommand.parse(["--processes", "2"]) }
        #expect(throws: (any Error).self) { try FaultsCommand.parse(["--slots", "8"]) }
        #expect(throws: (any Error).self) {
            try FaultsCommand.parse(["--kills", "0", "--stops", "0"])
        }
        #expect(throws: Never.self) {
            try FaultsCommand.parse(["--kills", "10000", "--seed", "7"])
        }
        #expect(throws: Never.self) { try FaultsCommand.parse(["--stops", "100"]) }
    }

    @Test func aBuildWithoutFaultPointsSaysSo() throws {
        let (status, output) = try shell(try Outside.directory() + "/bus1-bench faults 2>&1")
        #expect(status == 69)
        #expect(output.contains("this build has no fault points"), "\(output)")
    }
}
