"""Memory of the library's as views of Python, which never outlive it."""

import ctypes
import weakref


class Buffer(ctypes.Structure):
    """Py_buffer, as far as it is read here."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes = [ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int]
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = [ctypes.POINTER(Buffer)]
_release.restype = None


class Bytes:
    """Where the bytes of any bytes-like object lie, for the time of a `with`. Contiguous ones
    only.
    """

    def __init__(self, data):
        self._data = data

    def __enter__(self):
        self._buffer = Buffer()
        # 0: PyBUF_SIMPLE. Raises what a wrong object deserves.
        _get(self._data, ctypes.byref(self._buffer), 0)
        return self._buffer.buf, self._buffer.len

    def __exit__(self, *_):
        _release(ctypes.byref(self._buffer))


class Memory:
    """Some memory, and a view of it.

    Every view that is made of it - slices, NumPy arrays - keeps it; `at_end` is called when the
    last is gone.
    """

    def __init__(self, address, count, writable, at_end):
        # ctypes keeps a type for each length for ever: few lengths, and a view of the wanted part.
        length = 1 << max(0, count - 1).bit_length()
        place = (ctypes.c_char * length).from_address(address) if count else bytearray(0)
        view = memoryview(place).cast("B")[:count]
        self.view = view if writable else view.toreadonly()
        self._end = weakref.finalize(place, at_end) if count else None
        self._at_end = at_end
        if self._end:
            self._end.atexit = False

    def drop(self):
        """Lets go of the own view. True: nobody else has one, and the memory has ended."""
        if self.view is None:
            return True
        self.view = None
        if self._end is None:
            self._at_end()
            return True
        return not self._end.alive

    def detach(self):
        """As `drop`, but nothing is called at the end. False: others have views, and nothing has
        changed."""
        if self._end is None:
            self.view = None
            return True
        found = self._end.peek()
        if found is None:
            return True
        place, writable = found[0], not self.view.readonly
        count = len(self.view)
        self.view = None
        del found
        watch = weakref.ref(place)
        called, self._end = self._end.detach()[1], None
        del place
        if watch() is None:
            return True
        # Somebody looks at it: as it was.
        place = watch()
        view = memoryview(place).cast("B")[:count]
        self.view = view if writable else view.toreadonly()
        self._end = weakref.finalize(place, called)
        self._end.atexit = False
        return False
