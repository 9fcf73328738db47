import CBench
import CShmRing
import Glibc

extension FaultSweep {
    /// As after a suspension, or a machine restored elsewhere: everybody stands still, and goes on with a counter that reads
    /// less; half of what it read at first, then some seconds less each time, which is more than the broker lets pass
    /// between two looks. The histories are judged by the counter as it is.
    mutating func jump(_ count: Int) throws {
        // The broker is in this process.
        let own = run.faults(of: Int(BENCH_CHECK_PEERS))
        shmring_fault_attach(own)
        defer { shmring_fault_attach(nil) }
        // Until the broker has measured the counter's rate.
        usleep(1_200_000)
        var skew = 0 &- bench_recorder_now() / 2
        let step: UInt64 = 6 << 32
        for _ in 1...count {
            guard bench_interrupted() == 0 else { throw Interrupted() }
            usleep(UInt32(20_000 + roll(60_000)))
            for member in run.members { Glibc.kill(member.pid, SIGSTOP) }
            for member in run.members {
                var status: Int32 = 0
                guard waitpid(member.pid, &status, WUNTRACED) == member.pid, status & 0xff == 0x7f
                else { throw BenchError("process \(member.pid) does not stop") }
            }
            own.pointee.skew = skew
            for member in run.members { run.faults(of: member.peer).pointee.skew = skew }
            for member in run.members.shuffled(using: &dice) { Glibc.kill(member.pid, SIGCONT) }
            stopped += 1
            // A machine that has just been started has no more time to go back to.
            guard bench_recorder_now() &+ skew > 2 * step else { break }
            skew &-= step
        }
    }
}
