"""Peers."""

import ctypes
import errno
import os
import select

from . import _errors, _library as c
from ._errors import check
from ._memory import Bytes
from ._message import delivery
from ._owned import Handle, Node
from ._slice import Slice
from ._transaction import Transaction
from ._waiting import Deadline


class Peer:
    """A participant of the bus: one queue, its nodes, its handles.

    path: of the broker's socket; None is $BUS1_PATH, else the user's default bus. `options` are
    the fields of struct bus1_options in bus1.h. Threads may share a peer: the interpreter lets
    in one at a time.
    """

    def __init__(self, path=None, **options):
        self._open(
            lambda wishes, out: c.library.bus1_open(path and os.fsencode(path), wishes, out),
            options,
        )

    def _open(self, call, options):
        self._place = None
        self._fd = None
        wishes = c.Options(size=ctypes.sizeof(c.Options), **options)
        place = ctypes.c_void_p()
        check(call(ctypes.byref(wishes), ctypes.byref(place)))
        self._place = place

    @classmethod
    def inherited(cls, **options):
        """The peer for which whoever spawned this process set handles aside: see
        `take_inherited`.
        """
        peer = cls.__new__(cls)
        peer._open(c.library.bus1_open_inherited, options)
        return peer

    def take_inherited(self, index=0):
        """The handle that stood at this place of the list given to `spawn`."""
        id = ctypes.c_uint64()
        check(c.library.bus1_take_inherited(self._pointer("take"), index, ctypes.byref(id)))
        return self._adopt(id.value)

    @property
    def is_open(self):
        """False once it was closed."""
        return self._place is not None

    def close(self):
        """Leaves the bus: nodes are released, handles gone, the queue dropped. What was received
        stays readable.
        """
        place, self._place = self._place, None
        if place is not None:
            c.library.bus1_close(place)

    def _pointer(self, operation):
        if self._place is None:
            raise _errors.closed(operation)
        return self._place

    def _adopt(self, id):
        return Handle(self, id)

    def _slice(self, slice, data, count):
        return Slice(self, slice, data, count)

    # Nodes and handles

    def node(self, tag=0):
        """Makes a node. The tag returns in each of its messages."""
        id = ctypes.c_uint64()
        check(c.library.bus1_node_make(self._pointer("make a node"), tag, ctypes.byref(id)))
        return Node(self, id.value, tag)

    def look_up(self, name, timeout=None):
        """A handle to the node that is published under a name. Waits for a service that comes
        late.
        """
        id = ctypes.c_uint64()
        check(
            Deadline(timeout).repeat(
                lambda soon: c.library.bus1_look_up(
                    self._pointer("look a name up"), name.encode(), soon, ctypes.byref(id)
                )
            )
        )
        return Handle(self, id.value)

    def release(self, *owned):
        """Releases nodes and handles at one instant, or none of them."""
        ids = c.array(one.id for one in owned)
        check(c.library.bus1_release(self._pointer("release"), len(ids), ids))
        for one in owned:
            one.detach()

    def spawn(self, path, arguments=(), giving=()):
        """Starts a program and sets handles aside for its `Peer.inherited()`. (pid, pidfd): the
        caller reaps the one and closes the other.
        """
        words = [os.fsencode(word) for word in (path, *arguments)]
        argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
        pid, fd = ctypes.c_int32(), ctypes.c_int()
        ids = c.array(handle.id for handle in giving)
        check(
            c.library.bus1_spawn(
                self._pointer("spawn"),
                words[0],
                argv,
                len(ids),
                ids,
                ctypes.byref(pid),
                ctypes.byref(fd),
            )
        )
        return pid.value, fd.value

    # Sending

    def loan(self, count, timeout=0):
        """Shared memory to be filled in and sent without a copy."""
        slice, data = ctypes.c_void_p(), ctypes.c_void_p()
        check(
            Deadline(timeout).repeat(
                lambda soon: c.library.bus1_loan(
                    self._pointer("loan a slice"),
                    count,
                    soon if timeout else c.NOW,
                    ctypes.byref(slice),
                    ctypes.byref(data),
                )
            )
        )
        return Slice(self, slice, data.value, count)

    def transaction(self):
        """Messages and releases that happen at one instant or not at all."""
        return Transaction(self)

    # Receiving

    def fileno(self):
        """A descriptor that is readable when `try_receive` may find something. The peer's own."""
        if self._fd is None:
            fd = ctypes.c_int()
            check(c.library.bus1_descriptor(self._pointer("ask"), ctypes.byref(fd)))
            self._fd = fd.value
        return self._fd

    def try_receive(self):
        """The next message or notice, in the order of the bus; None when there is none."""
        raw = c.Received(size=ctypes.sizeof(c.Received))
        result = c.library.bus1_try_receive(self._pointer("receive"), ctypes.byref(raw))
        if result == -errno.EAGAIN:
            return None
        check(result)
        return delivery(self, raw)

    def receive(self, timeout=None):
        """The same; waits. TimedOut."""
        deadline = Deadline(timeout)
        while True:
            received = self.try_receive()
            if received is not None:
                return received
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            left = deadline.left
            # A doorbell may be late: look again now and then.
            wait = 1.0 if left is None else min(1.0, left)
            if not poll.poll(wait * 1000) and deadline.left == 0.0:
                received = self.try_receive()
                if received is not None:
                    return received
                raise _errors.TimedOut(errno.ETIMEDOUT, "timed out", "receive")

    # What may be used

    def used(self, resource):
        """How much of a resource, "handles" for example, is used."""
        return self._query(resource)[0]

    def limit(self, resource):
        """How much of it may be."""
        return self._query(resource)[1]

    def _query(self, resource):
        used, limit = ctypes.c_uint64(), ctypes.c_uint64()
        check(
            c.library.bus1_query(
                self._pointer("ask"),
                _errors.RESOURCES.index(resource),
                ctypes.byref(used),
                ctypes.byref(limit),
            )
        )
        return used.value, limit.value

    def set_limit(self, resource, limit):
        """From now on no more than that may be used."""
        check(
            c.library.bus1_set_limit(
                self._pointer("set a limit"), _errors.RESOURCES.index(resource), limit
            )
        )

    def wait_for_room(self, resource, timeout=None):
        """Waits until some of a resource may be used that was refused before."""
        number = _errors.RESOURCES.index(resource)
        check(
            Deadline(timeout).repeat(
                lambda soon: c.library.bus1_wait_for_room(self._pointer("wait"), number, soon)
            )
        )

    # The seed

    def set_seed(self, data, passing=()):
        """Keeps one message for this peer itself: a copy of some bytes, and copies of handles."""
        ids = c.array(handle.id for handle in passing)
        with Bytes(data) as (address, count):
            check(
                c.library.bus1_set_seed(
                    self._pointer("set the seed"), address, count, len(ids), ids
                )
            )

    def seed(self):
        """Reads it, as a message; it stays. None: there is none."""
        raw = c.Received(size=ctypes.sizeof(c.Received))
        result = c.library.bus1_seed(self._pointer("read the seed"), ctypes.byref(raw))
        if result == -errno.EAGAIN:
            return None
        check(result)
        return delivery(self, raw)

    def reset(self, keep_seed=True):
        """Releases all nodes and handles, and drops what waits to be received."""
        check(c.library.bus1_reset(self._pointer("reset"), keep_seed))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_place", None) is not None:
            self.close()
