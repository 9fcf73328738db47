"""Messages and releases at one instant."""

import contextlib
import ctypes

from . import _errors, _library as c
from ._memory import Bytes
from ._waiting import Deadline


class Transaction:
    """Messages to any nodes and releases of any handles and nodes, that happen at one instant or
    not at all. Payloads are copied when they are added.

        with peer.transaction() as t:
            t.send(one, b"to both")
            t.send(other, b"or to none", passing=[handle])
            t.release(node)

    A `with` commits at its end, unless an exception passes through it.
    """

    def __init__(self, peer):
        self._peer = peer
        self._messages = []
        self._released = []
        self.stamp = None

    def send(self, handle, data, passing=(), descriptors=(), reply_to=None):
        """Adds a message: bytes, or a slice, which is moved; handles and open files of which the
        receiver gets copies; a node to which one reply is asked for.
        """
        payload = data if hasattr(data, "_give_up") else bytes(data)
        self._messages.append(
            (
                handle.id,
                payload,
                [one.id for one in passing],
                list(descriptors),
                0 if reply_to is None else reply_to.id,
            )
        )

    def release(self, *owned):
        """Adds the release of handles and nodes."""
        self._released += owned

    def commit(self, timeout=None):
        """Makes it happen; waits for room. The stamp, which is the instant."""
        return self._commit(timeout, 0)[0]

    def commit_each(self):
        """The same, but a destination that refuses does not stop the others. The stamp, and for
        each destination left out its place and why. Never waits.
        """
        return self._commit(0, c.CONTINUE)

    def _commit(self, timeout, flags):
        pointer = self._peer._pointer("commit a transaction")
        slices = [m[1] for m in self._messages if not isinstance(m[1], bytes)]
        released = c.array(one.id for one in self._released)
        with contextlib.ExitStack() as stack:
            messages = (c.Outgoing * len(self._messages))()
            keep = []
            for out, (handle, payload, passing, fds, reply) in zip(messages, self._messages):
                out.handle, out.reply_node = handle, reply
                lists = c.array(passing), c.array(fds, ctypes.c_int)
                keep.append(lists)
                out.passing, out.n_passing = lists[0], len(passing)
                out.fds, out.n_fds = lists[1], len(fds)
                if isinstance(payload, bytes):
                    out.data, out.n_data = stack.enter_context(Bytes(payload))
            for out, message in zip(messages, self._messages):
                if not isinstance(message[1], bytes):
                    out.slice = message[1]._give_up()
            wishes = c.TransactionWishes(
                size=ctypes.sizeof(c.TransactionWishes),
                flags=flags,
                message_size=ctypes.sizeof(c.Outgoing),
                n_messages=len(messages),
                messages=messages,
                n_releases=len(released),
                releases=released,
            )

            def attempt(until):
                wishes.deadline = until
                return c.library.bus1_transact(pointer, ctypes.byref(wishes))

            if slices:
                # They are gone after the first attempt.
                wait = c.NEVER if timeout is None else c.library.bus1_after(int(timeout * 1e9))
                result = attempt(wait)
            else:
                result = Deadline(timeout).repeat(attempt)
        _errors.check(result)
        for one in self._released:
            one.detach()
        self._messages, self._released = [], []
        self.stamp = wishes.stamp
        refused = [
            (place, _errors.failure(out.error)) for place, out in enumerate(messages) if out.error
        ]
        return self.stamp, refused

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.commit()
