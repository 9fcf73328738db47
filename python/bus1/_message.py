"""What a peer receives."""

import ctypes
import enum

from . import _errors, _library as c
from ._memory import Bytes, Memory


class Kind(enum.IntEnum):
    """What a notice tells."""

    NODE_RELEASED = c.NODE_RELEASE
    """The handle's node is gone: `id` is the handle's, which can't be used any more."""
    NO_HANDLES = c.HANDLE_RELEASE
    """The last handle to the own node `id` is gone."""
    REPLY_LOST = c.REPLY_LOST
    """A reply that was to come to the own node `id` will not."""


class Notice:
    """News from the bus itself. Nothing is to be given back; `with` is allowed, so that whoever
    receives need not ask first.
    """

    def __init__(self, raw):
        self.kind = Kind(raw.kind)
        self.id = raw.id
        self.stamp = raw.stamp
        self.more_follow = bool(raw.flags & c.MORE)

    def give_back(self):
        """Does nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __repr__(self):
        return f"<bus1.Notice {self.kind.name} {self.id:#x}>"


class Message:
    """A message. Its payload is a read-only view of where it lies.

    It ends by `give_back`, by the end of a `with`, or with its last reference - but not before
    the last view of the payload: a NumPy array that was made of it, say, stays valid as long as
    it lives.
    """

    def __init__(self, peer, raw):
        self._peer = peer
        self._raw = raw
        self.node = raw.id
        self.tag = raw.tag
        self.uid = raw.uid
        self.pid = raw.pid
        self.stamp = raw.stamp
        self.sequence = raw.sequence
        self.more_follow = bool(raw.flags & c.MORE)
        self.handle_count = raw.n_handles
        self.descriptor_count = raw.n_fds

        def end():
            c.library.bus1_give_back(ctypes.byref(raw))

        self._memory = Memory(raw.data, raw.n_data, writable=False, at_end=end)

    @property
    def payload(self):
        """The payload, as a read-only memoryview."""
        return self._live().view

    @property
    def wants_reply(self):
        """True while `reply` answers it."""
        return self._memory.view is not None and bool(self._raw.flags & c.WANTS_REPLY)

    def take_handle(self, index=0):
        """Takes a handle out. None: its node was released before the message was sent."""
        self._live()
        id = ctypes.c_uint64()
        result = c.library.bus1_take_handle(ctypes.byref(self._raw), index, ctypes.byref(id))
        if result < 0:
            error = _errors.failure(result)
            if isinstance(error, _errors.NodeReleased):
                return None
            raise error
        return self._peer._adopt(id.value)

    def take_descriptor(self, index=0):
        """Takes an open file out: a number, which the caller closes."""
        self._live()
        fd = ctypes.c_int()
        _errors.check(c.library.bus1_take_fd(ctypes.byref(self._raw), index, ctypes.byref(fd)))
        return fd.value

    def reply(self, data):
        """Sends the one reply that the message asks for."""
        self._live()
        with Bytes(data) as (address, count):
            _errors.check(
                c.library.bus1_reply(
                    ctypes.byref(self._raw), address, count, c.library.bus1_after(10**9)
                )
            )

    def forward(self):
        """Makes the payload a slice again, to be sent on without a copy; the message ends. Works
        for payloads that came in a slice of the own trust domain.

        Raises BufferError while anybody else has a view of the payload.
        """
        memory = self._live()
        if not memory.detach():
            raise BufferError("the payload is still looked at")
        slice = ctypes.c_void_p()
        count = self._raw.n_data
        result = c.library.bus1_forward(
            self._peer._pointer("forward"), ctypes.byref(self._raw), ctypes.byref(slice)
        )
        if result < 0:
            error = _errors.failure(result)
            c.library.bus1_give_back(ctypes.byref(self._raw))
            raise error
        return self._peer._slice(slice, None, count)

    def give_back(self):
        """Ends the message. Handles and files that were not taken are given up."""
        self._memory.drop()

    def _live(self):
        if self._memory.view is None:
            raise ValueError("the message was given back")
        return self._memory

    def __len__(self):
        return len(self.payload)

    def __bytes__(self):
        return bytes(self.payload)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.give_back()

    def __repr__(self):
        return f"<bus1.Message of {self._raw.n_data} bytes from uid {self.uid}, pid {self.pid}>"


def delivery(peer, raw):
    """A message or a notice."""
    return Message(peer, raw) if raw.kind == c.MESSAGE else Notice(raw)
