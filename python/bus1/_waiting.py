"""Waiting in short pieces, so that signals and other threads come to their turn."""

import errno
import time

from . import _library as c

SLICE_OF_TIME = 0.05
"""Seconds that the library may wait at a time with the interpreter's lock held."""


class Deadline:
    """The moment until which a call may wait. None: for ever."""

    def __init__(self, timeout):
        self._end = None if timeout is None else time.monotonic() + timeout

    @property
    def left(self):
        """Seconds, or None."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def soon(self):
        """The library's deadline for one short wait."""
        left = self.left
        wait = SLICE_OF_TIME if left is None else min(SLICE_OF_TIME, left)
        return c.library.bus1_after(int(wait * 1e9))

    def repeat(self, call):
        """Calls until it does not time out, or the deadline has passed; signals are seen
        between.
        """
        while True:
            result = call(self.soon)
            if result != -errno.ETIMEDOUT or self.left == 0.0:
                return result
            time.sleep(0)
