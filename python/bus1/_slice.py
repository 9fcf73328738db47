"""Memory on loan."""

from . import _library as c
from ._errors import check
from ._memory import Memory


class Slice:
    """Shared memory on loan, to be filled in place and sent without a copy.

    `memory` is a writable memoryview, which NumPy takes as it is: numpy.frombuffer(slice.memory,
    ...). While anybody else has a view of it, it can't be sent: BufferError.
    """

    def __init__(self, peer, slice, data, count):
        self._peer = peer
        self._slice = slice
        self._count = count
        # A forwarded payload has none: nothing of it can be changed.
        self._memory = data and Memory(data, count, True, lambda: c.library.bus1_slice_end(slice))

    @property
    def memory(self):
        """The memory. Undefined at first."""
        if self._slice is None:
            raise ValueError("the slice was sent or given back")
        return self._memory.view if self._memory else None

    def __len__(self):
        return self._count

    def shorten(self, count):
        """Sends fewer bytes than were loaned."""
        check(c.library.bus1_slice_shorten(self._taken(), count))
        self._count = count

    def send(self, handle, timeout=None):
        """Sends it without a copy. It is gone in any case, but for BufferError."""
        wait = c.NEVER if timeout is None else c.library.bus1_after(int(timeout * 1e9))
        slice = self._give_up()
        check(
            c.library.bus1_slice_send(self._peer._pointer("send a slice"), slice, handle.id, wait)
        )

    def end(self):
        """Gives it back unsent."""
        if self._slice is None:
            return
        slice, self._slice = self._slice, None
        if self._memory:
            self._memory.drop()
        else:
            c.library.bus1_slice_end(slice)

    def _taken(self):
        if self._slice is None:
            raise ValueError("the slice was sent or given back")
        return self._slice

    def _give_up(self):
        slice = self._taken()
        if self._memory and not self._memory.detach():
            raise BufferError("a view of the slice's memory is still there")
        self._slice = None
        return slice

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def __del__(self):
        if getattr(self, "_slice", None) is not None and not self._memory:
            self.end()
