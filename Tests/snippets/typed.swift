// Surrounds README's "Typed, encoded, published", for tools/check-snippets.
import Bus1Shm
import Bus1Topics

struct Order: BitwiseCopyable { var id: UInt64, price: Int64 }
struct Price: BitwiseCopyable { var cents: Int64 }

func typed(peer: borrowing Peer, node: borrowing Node, other: borrowing Peer) throws {
    // SNIPPET
}
