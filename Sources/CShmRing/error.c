#include "CShmRing.h"

const char *shmring_error_text(int error)
{
    switch (error) {
    case SHMRING_OK: return "ok";
    case SHMRING_E_FULL: return "full: no room now";
    case SHMRING_E_EMPTY: return "empty: nothing to take now";
    case SHMRING_E_SEALS: return "seals: the descriptor's seals are not those of such a segment";
    case SHMRING_E_KIND: return "kind: not a segment of the kind expected";
    case SHMRING_E_SIZE: return "size: not the size announced, or out of range";
    case SHMRING_E_SPARSE: return "sparse: its blocks do not cover its size";
    case SHMRING_E_VERSION: return "version: a layout that this build does not read";
    case SHMRING_E_FORKED: return "forked: this process is a fork of the one that made the peer";
    case SHMRING_E_CORRUPT: return "corrupt: another process wrote what no honest one writes";
    case SHMRING_E_ABORTED: return "aborted: the commit word was aborted";
    case SHMRING_E_TOO_LARGE: return "too large: beyond a fixed limit";
    case SHMRING_E_UNKNOWN_SENDER: return "unknown sender: not introduced yet";
    case SHMRING_E_ATTENTION: return "attention: the broker wrote";
    case SHMRING_NOTICE: return "notice: something watched has its place in the order here";
    case SHMRING_E_HELD: return "held: something else comes first";
    default: return error < 0 ? "refused by the kernel" : "unknown";
    }
}
