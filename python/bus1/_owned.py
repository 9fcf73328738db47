"""Nodes and handles."""

import ctypes
import errno

from . import _library as c
from ._errors import check
from ._memory import Bytes
from ._waiting import Deadline


class _Owned:
    """A node or a handle: released at the end of a `with`, by `release`, or with its last
    reference.
    """

    def __init__(self, peer, id):
        self.peer = peer
        self.id = id
        self._is_held = True

    def release(self):
        """Gives it up now. Works once; later calls do nothing."""
        if not self._is_held:
            return
        self._is_held = False
        if self.peer.is_open:
            # What the other side released first is gone already.
            c.library.bus1_release(self.peer._pointer("release"), 1, c.array([self.id]))

    def detach(self):
        """The peer keeps it from now on; its identifier is left."""
        self._is_held = False
        return self.id

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def __del__(self):
        if getattr(self, "_is_held", False):
            self.release()

    def __repr__(self):
        return f"<bus1.{type(self).__name__} {self.id:#x}>"


class Handle(_Owned):
    """The right to send to one node."""

    def send(self, data, timeout=None):
        """Sends a copy of some bytes-like object. Waits for room."""
        deadline = Deadline(timeout)
        with Bytes(data) as (address, count):
            pointer = self.peer._pointer("send")
            result = c.library.bus1_try_send(pointer, self.id, address, count)
            if result == -errno.EAGAIN:
                result = deadline.repeat(
                    lambda soon: c.library.bus1_send(
                        self.peer._pointer("send"), self.id, address, count, soon
                    )
                )
        check(result)

    def try_send(self, data):
        """The same; never waits. False: there is no room."""
        with Bytes(data) as (address, count):
            result = c.library.bus1_try_send(self.peer._pointer("send"), self.id, address, count)
        if result == -errno.EAGAIN:
            return False
        check(result)
        return True

    def give(self, other):
        """A copy of the handle for another peer of this process, or the same."""
        id = ctypes.c_uint64()
        check(
            c.library.bus1_give(
                self.peer._pointer("give"),
                1,
                c.array([self.id]),
                other._pointer("give"),
                ctypes.byref(id),
            )
        )
        return Handle(other, id.value)

    @property
    def owner(self):
        """(uid, pid) of who owns the node, as the kernel vouched."""
        uid, pid = ctypes.c_uint32(), ctypes.c_int32()
        check(
            c.library.bus1_owner(
                self.peer._pointer("ask"), self.id, ctypes.byref(uid), ctypes.byref(pid)
            )
        )
        return uid.value, pid.value


class Node(_Owned):
    """The receiving end of a channel. Its messages come with `tag`."""

    def __init__(self, peer, id, tag):
        super().__init__(peer, id)
        self.tag = tag

    def handle(self):
        """A handle of the own peer, to be passed on."""
        id = ctypes.c_uint64()
        check(c.library.bus1_handle_make(self.peer._pointer("make"), self.id, ctypes.byref(id)))
        return Handle(self.peer, id.value)

    def publish(self, name, users=None):
        """Publishes the node under a name: for processes of the same user, for a list of users
        as well, or, with users="anyone", for all.
        """
        access, some = (2, []) if users == "anyone" else (0, []) if users is None else (1, users)
        check(
            c.library.bus1_publish(
                self.peer._pointer("publish"),
                self.id,
                name.encode(),
                access,
                len(some),
                c.array(some, ctypes.c_uint32),
            )
        )
