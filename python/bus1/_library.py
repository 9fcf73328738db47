"""libbus1.so, by ctypes: where it is found, and bus1.h as Python has it.

All calls are made with the interpreter's lock held (PyDLL): each is short, so that the threads of a
program may share a peer. What waits for long waits outside, in poll(2).
"""

import ctypes
import ctypes.util
import os
import pathlib
from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

INVALID = 2**64 - 1
NEVER = 2**64 - 1
NOW = 0


def _find():
    """$BUS1_LIBRARY, the package's own folder, the system's."""
    chosen = os.environ.get("BUS1_LIBRARY")
    if chosen:
        return chosen
    beside = pathlib.Path(__file__).resolve().parent / "libbus1.so.0"
    if beside.exists():
        return str(beside)
    return ctypes.util.find_library("bus1") or "libbus1.so.0"


class Failure(Structure):
    """struct bus1_error"""

    _fields_ = [
        ("size", c_size_t),
        ("error", c_int32),
        ("system_error", c_int32),
        ("operation", c_char_p),
        ("resource", c_uint32),
        ("uid", c_uint32),
        ("pid", c_int32),
        ("reserved", c_uint32),
        ("used", c_uint64),
        ("limit", c_uint64),
    ]


class Options(Structure):
    """struct bus1_options"""

    _fields_ = [
        ("size", c_size_t),
        ("flags", c_uint32),
        ("slots", c_uint32),
        ("slot_bytes", c_uint32),
        ("lanes", c_uint32),
        ("spin_ns", c_uint64),
        ("handles_max", c_uint64),
        ("pool_bytes", c_uint64),
    ]


class Outgoing(Structure):
    """struct bus1_outgoing"""

    _fields_ = [
        ("handle", c_uint64),
        ("data", c_void_p),
        ("n_data", c_size_t),
        ("slice", c_void_p),
        ("passing", POINTER(c_uint64)),
        ("n_passing", c_size_t),
        ("fds", POINTER(c_int)),
        ("n_fds", c_size_t),
        ("reply_node", c_uint64),
        ("error", c_int32),
        ("reserved", c_uint32),
    ]


class TransactionWishes(Structure):
    """struct bus1_transaction"""

    _fields_ = [
        ("size", c_size_t),
        ("flags", c_uint32),
        ("reserved", c_uint32),
        ("message_size", c_size_t),
        ("n_messages", c_size_t),
        ("messages", POINTER(Outgoing)),
        ("n_releases", c_size_t),
        ("releases", POINTER(c_uint64)),
        ("deadline", c_uint64),
        ("stamp", c_uint64),
    ]


class Received(Structure):
    """struct bus1_received"""

    _fields_ = [
        ("size", c_size_t),
        ("kind", c_uint32),
        ("flags", c_uint32),
        ("id", c_uint64),
        ("tag", c_uint64),
        ("data", c_void_p),
        ("n_data", c_size_t),
        ("n_handles", c_uint32),
        ("n_fds", c_uint32),
        ("uid", c_uint32),
        ("pid", c_int32),
        ("stamp", c_uint64),
        ("sequence", c_uint64),
        ("message", c_void_p),
    ]


MESSAGE, NODE_RELEASE, HANDLE_RELEASE, REPLY_LOST = range(4)
MORE, WANTS_REPLY = 1, 2
CONTINUE = 1

_peer, _u64_out, _received = c_void_p, POINTER(c_uint64), POINTER(Received)
_functions = {
    "bus1_after": (c_uint64, [c_uint64]),
    "bus1_last_error": (c_int, [POINTER(Failure)]),
    "bus1_strerror": (c_char_p, [c_int]),
    "bus1_open": (c_int, [c_char_p, POINTER(Options), POINTER(c_void_p)]),
    "bus1_open_inherited": (c_int, [POINTER(Options), POINTER(c_void_p)]),
    "bus1_take_inherited": (c_int, [_peer, c_size_t, _u64_out]),
    "bus1_close": (None, [_peer]),
    "bus1_descriptor": (c_int, [_peer, POINTER(c_int)]),
    "bus1_reset": (c_int, [_peer, c_int]),
    "bus1_node_make": (c_int, [_peer, c_uint64, _u64_out]),
    "bus1_handle_make": (c_int, [_peer, c_uint64, _u64_out]),
    "bus1_give": (c_int, [_peer, c_size_t, _u64_out, _peer, _u64_out]),
    "bus1_release": (c_int, [_peer, c_size_t, _u64_out]),
    "bus1_publish": (c_int, [_peer, c_uint64, c_char_p, c_int, c_size_t, POINTER(c_uint32)]),
    "bus1_look_up": (c_int, [_peer, c_char_p, c_uint64, _u64_out]),
    "bus1_owner": (c_int, [_peer, c_uint64, POINTER(c_uint32), POINTER(c_int32)]),
    "bus1_spawn": (
        c_int,
        [_peer, c_char_p, POINTER(c_char_p), c_size_t, _u64_out, POINTER(c_int32), POINTER(c_int)],
    ),
    "bus1_try_send": (c_int, [_peer, c_uint64, c_void_p, c_size_t]),
    "bus1_send": (c_int, [_peer, c_uint64, c_void_p, c_size_t, c_uint64]),
    "bus1_transact": (c_int, [_peer, POINTER(TransactionWishes)]),
    "bus1_loan": (c_int, [_peer, c_size_t, c_uint64, POINTER(c_void_p), POINTER(c_void_p)]),
    "bus1_slice_shorten": (c_int, [c_void_p, c_size_t]),
    "bus1_slice_send": (c_int, [_peer, c_void_p, c_uint64, c_uint64]),
    "bus1_slice_end": (None, [c_void_p]),
    "bus1_try_receive": (c_int, [_peer, _received]),
    "bus1_receive_on": (c_int, [_peer, c_uint64, c_uint64, _received]),
    "bus1_give_back": (c_int, [_received]),
    "bus1_take_handle": (c_int, [_received, c_size_t, _u64_out]),
    "bus1_take_fd": (c_int, [_received, c_size_t, POINTER(c_int)]),
    "bus1_reply": (c_int, [_received, c_void_p, c_size_t, c_uint64]),
    "bus1_forward": (c_int, [_peer, _received, POINTER(c_void_p)]),
    "bus1_stamp_ns": (c_uint64, [_peer, c_uint64]),
    "bus1_query": (c_int, [_peer, c_int, _u64_out, _u64_out]),
    "bus1_set_limit": (c_int, [_peer, c_int, c_uint64]),
    "bus1_wait_for_room": (c_int, [_peer, c_int, c_uint64]),
    "bus1_set_seed": (c_int, [_peer, c_void_p, c_size_t, c_size_t, _u64_out]),
    "bus1_seed": (c_int, [_peer, _received]),
}

library = ctypes.PyDLL(_find())
for _name, (_result, _arguments) in _functions.items():
    _function = getattr(library, _name)
    _function.restype = _result
    _function.argtypes = _arguments


def array(numbers, kind=c_uint64):
    """A C array of numbers."""
    numbers = list(numbers)
    return (kind * len(numbers))(*numbers)
