"""The second process of the tests: a service, by the name of its behaviour."""

import asyncio
import sys

import bus1
import bus1.aio


def echo():
    """Answers each request with its bytes in capitals, until it is asked to end."""
    with bus1.Peer() as peer, peer.node() as node:
        node.publish("echo")
        while True:
            with peer.receive(timeout=60) as request:
                if isinstance(request, bus1.Notice):
                    continue
                text = bytes(request.payload)
                if text == b"end":
                    return
                if request.wants_reply and text != b"drop":
                    request.reply(text.upper())


def frames(count):
    """Sends frames of shared memory to whoever is called viewer."""
    import numpy

    with bus1.Peer() as peer, peer.look_up("viewer", timeout=60) as viewer:
        for number in range(count):
            with peer.loan(1 << 20) as slice:
                numpy.frombuffer(slice.memory, numpy.uint8)[:] = number
                slice.send(viewer, timeout=60)


def introduce():
    """Looks up a meeting place, leaves a handle to an own node there, and waits for a word on
    it.
    """
    with bus1.Peer() as peer, peer.node(tag=7) as node:
        with peer.look_up("meeting", timeout=60) as meeting, node.handle() as handle:
            with peer.transaction() as transaction:
                transaction.send(meeting, b"call me", passing=[handle])
        with peer.receive(timeout=60) as message:
            assert message.tag == 7 and bytes(message.payload) == b"hello", message


def inherited():
    """Says so to the handle that whoever spawned it has set aside."""
    with bus1.Peer.inherited() as peer, peer.take_inherited() as handle:
        handle.send(b"inherited")


async def many(count):
    """Sends numbers to whoever is called counter, as fast as there is room."""
    async with bus1.aio.Peer() as peer:
        counter = await peer.look_up("counter")
        for number in range(count):
            await counter.send(number.to_bytes(8, "little"))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    numbers = [int(word) for word in rest]
    if what == "many":
        asyncio.run(many(*numbers))
    else:
        {"echo": echo, "frames": frames, "introduce": introduce, "inherited": inherited}[what](
            *numbers
        )
