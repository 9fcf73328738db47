// A supervised pool of workers: each is a process that holds one handle and nothing else. A worker that dies is
// noticed in the order of messages, its job is done by another, and a new one takes its place.
//
//     swift run example-workers            # 4 workers for 40 jobs; some jobs kill their worker the first time
import Bus1Shm
import Glibc

/// What a worker is asked to do; 0 ends it.
struct Job: BitwiseCopyable {
    var number: UInt64
    var attempt: UInt64
}

/// What a worker says when it is idle: what its last job gave.
struct Report: BitwiseCopyable { var result: UInt64 }

/// A child process: its one handle is the right to report here and ask for more.
func work() throws {
    let peer = try Peer.inherited()
    guard let desk = peer.takeInherited() else { return }
    var report = Report(result: 0)
    while true {
        let job: Job = try peer.call(report, on: desk, until: .never)
        guard job.number > 0 else { return }
        // An accident, as it happens in practice.
        if job.number % 10 == 7, job.attempt == 1 { kill(getpid(), SIGKILL) }
        report = Report(result: job.number * job.number)
    }
}

final class Worker {
    let child: Child
    var job: Job?

    init(_ child: consuming Child) { self.child = child }
}

struct Pool: ~Copyable {
    let peer: Peer
    /// Each worker has a node of its own: the tag says whose message it is, the notice who is gone.
    var workers: [NodeID: Worker] = [:]
    var waiting: [Job]
    var sum: UInt64 = 0
    var restarts = 0

    init(jobs: Int) throws {
        peer = try Peer()
        waiting = (1...jobs).reversed().map { Job(number: UInt64($0), attempt: 1) }
    }

    mutating func start() throws {
        let node = try peer.makeNode()
        let desk = try peer.makeHandle(to: node)
        let child = try peer.spawn("/proc/self/exe", ["work"], giving: [desk.id])
        // The worker's is the only handle from here on: when it dies, the last one is gone.
        workers[node.detach()] = Worker(child)
    }

    /// Takes a report in, and hands out the next job.
    mutating func serve(_ message: inout Message) throws {
        guard let worker = workers[message.node], let report = try? message.load(as: Report.self),
            let reply = message.takeReply()
        else { return }
        if worker.job != nil { sum += report.result }
        worker.job = waiting.popLast()
        do throws(Bus1Error) {
            try reply.send(worker.job ?? Job(number: 0, attempt: 0))
        } catch {
            // It died just now: the notice is on its way, and the job goes back then.
            guard error.code == .nodeReleased else { throw error }
        }
    }

    /// The last handle to a worker's node is gone, and so is the worker.
    mutating func bury(_ node: NodeID) throws {
        guard let worker = workers.removeValue(forKey: node) else { return }
        let status = worker.child.wait() ?? 0
        try peer.release([], nodes: [node])
        guard var job = worker.job else { return }
        print("job \(job.number) killed its worker by signal \(status & 0x7f): another one tries")
        job.attempt += 1
        waiting.append(job)
        restarts += 1
        try start()
    }

    mutating func run(workers count: Int) throws {
        for _ in 0..<count { try start() }
        while !workers.isEmpty {
            switch try peer.receive() {
            case .message(var message): try serve(&message)
            case .notice(let notice):
                if case .noHandles(let node) = notice.kind { try bury(node) }
            }
        }
    }
}

if CommandLine.arguments.contains("work") {
    try work()
} else {
    var pool = try Pool(jobs: 40)
    try pool.run(workers: 4)
    print("the sum of the squares is \(pool.sum), with \(pool.restarts) workers replaced")
}
