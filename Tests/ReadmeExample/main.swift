import Bus1Shm

struct Order: BitwiseCopyable { var id: UInt64, price: Int64 }
struct Fill: BitwiseCopyable { var id: UInt64, price: Int64 }

/// Owns a node. Whoever was given a handle to it may send.
func exchange() throws {
    let peer = try Peer()
    let node = try peer.makeNode()
    try peer.publish(node, as: "exchange")
    guard case .message(var message) = try peer.receive(until: .after(.seconds(60))) else { return }
    let order = try message.load(as: Order.self)
    print("order \(order.id) at \(order.price) from user \(message.sender.uid)")
    try message.takeReply()?.send(Fill(id: order.id, price: order.price - 1))
}

/// Another program, started before or after: looking up waits for a service that comes late.
func customer() throws {
    let peer = try Peer()
    let exchange = try peer.lookUp("exchange", until: .after(.seconds(60)))
    let fills = try peer.makeNode()
    try peer.send(Order(id: 7, price: 4200), to: exchange, replyTo: fills)  // No system call.
    guard case .message(let fill) = try peer.receive(until: .after(.seconds(60))) else { return }
    print("filled at \(try fill.load(as: Fill.self).price)")
}

try CommandLine.arguments.contains("exchange") ? exchange() : customer()
