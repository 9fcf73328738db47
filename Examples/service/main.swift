// A service with calls: it finds the smallest factor of a number. The caller waits until a deadline, the service
// sees when nobody waits any more, and a service that dies is not waited for.
//
//     swift run example-service serve
//     swift run example-service 1000036000099           # another process: 1000003 x 1000033
//     swift run example-service 1000000000000000003 0.1  # it has a tenth of a second for that
import Bus1Shm
import Glibc

struct Question: BitwiseCopyable { var number: UInt64 }
struct Answer: BitwiseCopyable { var factor: UInt64 }

/// The smallest factor; nil when nobody wants to know any more.
func smallestFactor(of number: UInt64, whileWanted reply: borrowing Reply) -> UInt64? {
    var factor: UInt64 = 2
    while factor <= number / factor {
        if number % factor == 0 { return factor }
        factor += 1
        // A load from shared memory: cheap, but not free.
        if factor % 4096 == 0, !reply.isWanted { return nil }
    }
    return number
}

func serve() throws {
    let peer = try Peer()
    let node = try peer.makeNode()
    try peer.publish(node, as: "factors")
    while true {
        guard case .message(var message) = try peer.receive() else { continue }
        // A question that is none is dropped, and with it the right to reply: the caller is told.
        guard let question = try? message.load(as: Question.self), question.number > 1,
            let reply = message.takeReply()
        else { continue }
        guard let factor = smallestFactor(of: question.number, whileWanted: reply) else {
            print("nobody waits for \(question.number) any more")
            continue
        }
        do { try reply.send(Answer(factor: factor)) } catch {
            print("too late for \(question.number): \(error)")
        }
    }
}

func ask(_ number: UInt64, patience: Duration) throws {
    let peer = try Peer()
    let service = try peer.lookUp("factors", until: .after(.seconds(10)))
    do throws(Bus1Error) {
        let answer: Answer = try peer.call(
            Question(number: number), on: service, until: .after(patience))
        print(
            answer.factor == number
                ? "\(number) is prime" : "\(number) = \(answer.factor) x \(number / answer.factor)")
    } catch {
        switch error.code {
        case .timedOut: print("no answer within \(patience)")
        case .replyLost: print("the service does not answer that, or has died")
        default: throw error
        }
    }
}

let arguments = CommandLine.arguments
if arguments.count >= 2, let number = UInt64(arguments[1]) {
    try ask(number, patience: .seconds(arguments.count > 2 ? Double(arguments[2]) ?? 10 : 10))
} else if arguments.count == 2, arguments[1] == "serve" {
    try serve()
} else {
    fatalError("example-service serve | NUMBER [SECONDS]")
}
