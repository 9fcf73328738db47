"""bus1 in user space: capability-based IPC through shared memory.

A *peer* is a participant: one queue, its nodes, its handles. A *node* is the receiving end of a
channel. A *handle* is the right to send to one node: made by its owner, passed on in messages,
never guessed.

    import bus1

    with bus1.Peer() as peer, peer.node() as node:
        node.publish("greeter")
        with peer.receive() as message:
            print(bytes(message.payload))

    with bus1.Peer() as peer, peer.look_up("greeter") as greeter:
        greeter.send(b"hello")

`bus1.aio.Peer` is the same for asyncio. The C library is found through $BUS1_LIBRARY, in this
folder, or where the system has it.
"""

from ._errors import Closed, Error, NameTaken, NodeReleased, NoSuchHandle, OverQuota, TimedOut
from ._message import Kind, Message, Notice
from ._owned import Handle, Node
from ._peer import Peer
from ._slice import Slice
from ._transaction import Transaction

__all__ = [
    "Closed",
    "Error",
    "Handle",
    "Kind",
    "Message",
    "NameTaken",
    "NoSuchHandle",
    "Node",
    "NodeReleased",
    "Notice",
    "OverQuota",
    "Peer",
    "Slice",
    "TimedOut",
    "Transaction",
]
