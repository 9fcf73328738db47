"""bus1 for asyncio.

async with bus1.aio.Peer() as peer:
    async for message in peer:
        with message:
            ...
"""

import asyncio

from . import _owned, _peer
from ._errors import TimedOut

__all__ = ["Peer"]


class Handle(_owned.Handle):
    """The right to send to one node; `await handle.send(...)` waits for room."""

    async def send(self, data):
        """Sends a copy of some bytes-like object."""
        pause = 0.0
        while not self.try_send(data):
            # The receiver says to nobody that there is room: a moment, then longer ones.
            await asyncio.sleep(pause)
            pause = min(0.01, pause * 2 or 0.0001)


class Peer(_peer.Peer):
    """A peer that is received from by tasks of one event loop. What the other one has is here,
    too.
    """

    def _adopt(self, id):
        return Handle(self, id)

    async def look_up(self, name):
        """A handle to the node that is published under a name. Waits for a service that comes
        late.
        """
        pause = 0.001
        while True:
            try:
                return Handle(self, super().look_up(name, timeout=0).detach())
            except TimedOut:
                await asyncio.sleep(pause)
                pause = min(0.1, pause * 2)

    async def receive(self):
        """The next message or notice, in the order of the bus."""
        while True:
            received = self.try_receive()
            if received is not None:
                return received
            await self._readable()

    async def _readable(self):
        loop = asyncio.get_running_loop()
        fd, future = self.fileno(), loop.create_future()
        if not hasattr(self, "_waiting"):
            self._waiting = []
        self._waiting.append(future)

        def wake():
            loop.remove_reader(fd)
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                if not one.done():
                    one.set_result(None)

        loop.add_reader(fd, wake)
        try:
            await future
        finally:
            # Cancelled: nobody is called for the last one.
            if future in self._waiting:
                self._waiting.remove(future)
                if not self._waiting:
                    loop.remove_reader(fd)

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await self.receive()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.close()
