"""What can go wrong, as exceptions."""

import ctypes
import errno

from . import _library as c


class Error(OSError):
    """Something that the library refused.

    `errno` says what kind of thing, `operation` what was attempted; `resource`, `used` and `limit`
    belong to a quota that refused, and are None otherwise.
    """

    def __init__(
        self, number, text, operation, system_error=0, resource=None, used=None, limit=None
    ):
        super().__init__(number, text)
        self.operation = operation
        self.system_error = system_error
        self.resource = resource
        self.used = used
        self.limit = limit

    def __str__(self):
        text = f"{self.operation}: {self.strerror}"
        if self.resource:
            text += f" ({self.resource}: {self.used} used of {self.limit})"
        return text


class NoSuchHandle(Error):
    """The peer has no handle or node of that name: never had, or it was released."""


class NodeReleased(Error):
    """The node behind the handle was released, or its owner is gone."""


class OverQuota(Error):
    """A quota refuses; `resource` says which. `Peer.wait_for_room` waits."""


class TimedOut(Error, TimeoutError):
    """The deadline passed first."""


class Closed(Error):
    """The peer has left the bus."""


class NameTaken(Error):
    """The name is published already."""


RESOURCES = (
    None,
    "peers",
    "nodes",
    "handles",
    "messages",
    "bytes",
    "descriptors",
    "rings",
    "names",
    "look-ups",
    "tickets",
    "lanes",
    "links",
)
_kinds = {
    errno.EBADRQC: NoSuchHandle,
    errno.EHOSTUNREACH: NodeReleased,
    errno.EDQUOT: OverQuota,
    errno.ETIMEDOUT: TimedOut,
    errno.ESHUTDOWN: Closed,
    errno.EEXIST: NameTaken,
}


def failure(result):
    """The exception for a negative result, with what the library noted about it."""
    number = -result
    text = c.library.bus1_strerror(result).decode()
    note = c.Failure(size=ctypes.sizeof(c.Failure))
    kind = _kinds.get(number, Error)
    if c.library.bus1_last_error(ctypes.byref(note)) != 0 or note.error != result:
        return kind(number, text, "bus1")
    resource = RESOURCES[note.resource] if note.resource < len(RESOURCES) else None
    has = resource is not None
    return kind(
        number,
        text,
        note.operation.decode(),
        note.system_error,
        resource,
        note.used if has else None,
        note.limit if has else None,
    )


def closed(operation):
    """The exception for what was closed before."""
    return Closed(errno.ESHUTDOWN, "the peer has left the bus", operation)


def check(result):
    """Raises what a negative result means."""
    if result < 0:
        raise failure(result)
