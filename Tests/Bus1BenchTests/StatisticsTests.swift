import Testing

@testable import bus1_bench

@Suite struct StatisticsTests {
    @Test func theMedianOfAnOddCountIsTheMiddleValue() {
        #expect(Statistics.median([5, 1, 3]) == 3)
    }

    @Test func theMedianOfAnEvenCountIsTheMeanOfTheMiddleTwo() {
        #expect(Statistics.median([4, 1, 3, 2]) == 2.5)
    }

    @Test func theMedianOfNothingIsNotANumber() {
        #expect(Statistics.median([]).isNaN)
    }

    @Test func oneOutlierDoesNotMoveTheMedianOfRatios() {
        let ratios = Statistics.ratios([2, 4, 6, 800], [1, 2, 3, 4])
        #expect(ratios == [2, 2, 2, 200])
        #expect(Statistics.median(ratios) == 2)
    }

    @Test func theIntervalOfEqualValuesIsThatValue() {
        #expect(Statistics.medianInterval([7, 7, 7, 7, 7]) == 7...7)
    }

    @Test func theIntervalHoldsTheMedianAndStaysWithinTheValues() throws {
        let values = (0..<11).map { 100 + Double($0 * $0) }
        let interval = try #require(Statistics.medianInterval(values))
        #expect(interval.contains(Statistics.median(values)))
        #expect(interval.lowerBound >= 100 && interval.upperBound <= 200)
    }

    @Test func theSameSeedGivesTheSameInterval() {
        let values = [3.0, 9, 4, 1, 5, 8, 2, 7, 6, 10, 11]
        let first = Statistics.medianInterval(values, seed: 42)
        #expect(first == Statistics.medianInterval(values, seed: 42))
    }

    @Test func aWiderConfidenceGivesAWiderInterval() throws {
        let values = (0..<21).map { Double(($0 * 7919) % 101) }
        let narrow = try #require(Statistics.medianInterval(values, confidence: 0.5))
        let wide = try #require(Statistics.medianInterval(values, confidence: 0.99))
        #expect(wide.lowerBound <= narrow.lowerBound && wide.upperBound >= narrow.upperBound)
    }

    @Test func noValuesHaveNoInterval() {
        #expect(Statistics.medianInterval([]) == nil)
    }

    /// A nominal 95 % interval must hold the true median of a known distribution about that often.
    @Test func theIntervalHoldsTheTrueMedianAboutAsOftenAsItSays() throws {
        var generator = SplitMix64(state: 7)
        var held = 0
        let trials = 300
        for trial in 0..<trials {
            let values = (0..<25).map { _ in Double.random(in: 0..<1, using: &generator) }
            let interval = try #require(
                Statistics.medianInterval(values, rounds: 400, seed: UInt64(trial)))
            if interval.contains(0.5) { held += 1 }
        }
        #expect(held > trials * 88 / 100 && held < trials)
    }

    @Test func percentilesComeFromTicksInNanoseconds() {
        let ticks = (1...1000).map { UInt64($0 * 2) }
        let latency = ticks.withUnsafeBufferPointer { Latency(ticks: $0, ticksPerNs: 2) }
        #expect(latency.min == 1)
        #expect(abs(latency.p50 - 500) <= 1)
        #expect(abs(latency.p99 - 990) <= 1)
        #expect(abs(latency.mean - 500.5) < 0.01)
        #expect(abs(latency.max - 1000) <= 1)
    }
}

@Suite struct PlacementTests {
    private func run(_ before: Double?, _ after: Double?) -> Run {
        Run(figure: 1, before: before, after: after)
    }

    @Test func canariesTellNearFromFar() {
        #expect(Placement(canaryNs: 70) == .near && Placement(canaryNs: 160) == .near)
        #expect(Placement(canaryNs: 400) == .far && Placement(canaryNs: 650) == .far)
        #expect(Placement(canaryNs: 250) == .unknown && Placement(canaryNs: nil) == .single)
    }

    @Test func aRunWhoseCanariesDisagreeIsKeptWithTheReasonAndNotCounted() {
        let run = run(100, 500)
        #expect(!run.kept && run.placement == .mixed)
        #expect(run.reason?.contains("near before, far after") == true)
    }

    @Test func nearAndFarAreNeverMixed() {
        var runs = [[run(100, 100), run(500, 500), run(110, 110)]]
        #expect(Run.settle(&runs) == .near)
        #expect(runs[0].map(\.kept) == [true, false, true])
        #expect(runs[0][1].reason?.hasPrefix("far") == true)
    }

    @Test func withoutARunThatCountsThereIsNoPlacement() {
        var runs = [[run(250, 250)]]
        #expect(Run.settle(&runs) == nil)
    }
}

@Suite struct TextTests {
    @Test func bytesAreReadAsPeopleWriteThem() {
        #expect(ByteCount.parse("64") == 64)
        #expect(ByteCount.parse("64K") == 65536)
        #expect(ByteCount.parse("1MiB") == 1 << 20)
        #expect(ByteCount.parse("1 GiB") == 1 << 30)
        #expect(ByteCount.parse("x") == nil)
        #expect(ByteCount.parse("99999999999999999999") == nil)
        #expect(ByteCount.parse("9999999999GiB") == nil)
    }

    @Test func numbersHaveThreeSignificantDigits() {
        #expect(Report.number(123.4) == "123")
        #expect(Report.number(12.34) == "12.3")
        #expect(Report.number(1.234) == "1.23")
        #expect(Report.number(0.1234) == "0.123")
        #expect(Report.number(0) == "0")
        #expect(Report.number(-1.5) == "-1.50")
        #expect(Report.number(nil) == "-")
    }

    @Test func whatPerfAndStraceSayIsUnderstood() {
        let perf = "# started\n\n1234,,raw_syscalls:sys_enter,100,100.00,,\n"
        #expect(Outside.parse(perf) == 1234)
        let strace = """
            % time     seconds  usecs/call     calls    errors syscall
            ------ ----------- ----------- --------- --------- ----------------
            100.00    0.000100           1       100           read
            ------ ----------- ----------- --------- --------- ----------------
            100.00    0.000100           1       100         3 total
            """
        #expect(Outside.parse(strace) == 100)
        #expect(Outside.parse("<not counted>,,raw_syscalls:sys_enter,0,0,,") == nil)
    }
}
