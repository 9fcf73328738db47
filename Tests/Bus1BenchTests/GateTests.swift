import Testing

@testable import bus1_bench

@Suite struct GateTests {
    private func row(_ bound: Bound, nearOnly: Bool = false) -> GateRow {
        GateRow("a row", bound, "x", nearOnly: nearOnly) { _ in .missing("") }
    }

    @Test func aRowHoldsWhenTheWorseEndOfItsIntervalHolds() {
        let values = [1.9, 1.9, 1.9, 1.9, 1.9]
        #expect(row(.atMost(2)).judge(.values(values, tries: 5, .near)).word == "holds")
        #expect(row(.atLeast(2)).judge(.values(values, tries: 5, .near)).word == "falls short")
    }

    @Test func aMedianWithinTheTargetIsNotEnoughWhenTheIntervalCrossesIt() {
        let values = [1.5, 1.6, 1.9, 2.8, 2.9]
        #expect(row(.atMost(2)).judge(.values(values, tries: 5, .near)).word == "falls short")
    }

    @Test func moreThanHalfThrownAwayIsNotMeasured() {
        let verdict = row(.atMost(2)).judge(.values([1, 1, 1, 1, 1], tries: 11, .near))
        #expect(verdict == .notMeasured("6 of 11 runs thrown away"))
        #expect(row(.atMost(2)).judge(.values([1], tries: 2, .near)).word == "holds")
    }

    @Test func aTargetForNearCoresIsNotMeasuredOnFarOnes() {
        let finding = Finding.values([1, 1, 1], tries: 3, .far)
        #expect(row(.atMost(2), nearOnly: true).judge(finding) == .notMeasured("far"))
        #expect(row(.atMost(2)).judge(finding).word == "holds")
    }

    @Test func aCountMustMeetItsBoundExactly() {
        #expect(row(.atMost(0)).judge(.count(0)).word == "holds")
        #expect(row(.atMost(0)).judge(.count(0.01)).word == "falls short")
    }

    @Test func whatIsMissingIsNotMeasuredAndSaysWhy() {
        #expect(row(.atMost(0)).judge(.missing("no bus1")) == .notMeasured("no bus1"))
    }

    @Test func everyRowHasATargetAndATitle() {
        #expect(!gateRows.isEmpty)
        #expect(gateRows.allSatisfy { !$0.title.isEmpty && !$0.bound.text.isEmpty })
    }
}
