#include "bus1_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The first version's sizes, from which on structures may only grow. */
_Static_assert(sizeof(struct bus1_error) == 56, "struct bus1_error");
_Static_assert(sizeof(struct bus1_options) == 48, "struct bus1_options");
_Static_assert(sizeof(struct bus1_outgoing) == 80, "struct bus1_outgoing");
_Static_assert(sizeof(struct bus1_transaction) == 72, "struct bus1_transaction");
_Static_assert(sizeof(struct bus1_received) == 88, "struct bus1_received");
/* Those of bus1(7) never change. */
_Static_assert(sizeof(struct bus1_transfer) == 16, "struct bus1_transfer");
_Static_assert(sizeof(struct bus1_metadata) == 24, "struct bus1_metadata");
_Static_assert(sizeof(struct bus1_message) == 56, "struct bus1_message");

static _Thread_local struct bus1_error last;

void bus1_internal_note(const struct bus1_error *error)
{
    last = *error;
    last.size = sizeof(last);
}

int bus1_last_error(struct bus1_error *error)
{
    if (error == NULL) return -EFAULT;
    if (error->size < sizeof(last)) return -EINVAL;
    if (last.error == 0) return -ENOENT;
    size_t size = error->size;
    *error = last;
    error->size = size;
    return 0;
}

const char *bus1_strerror(int error)
{
    switch (error < 0 ? -error : error) {
    case 0: return "no error";
    case EBADRQC: return "no such handle or node";
    case EHOSTUNREACH: return "node released";
    case ENOTUNIQ: return "duplicate destination";
    case EMSGSIZE: return "too large";
    case EDQUOT: return "over quota";
    case EAGAIN: return "empty or full";
    case ETIMEDOUT: return "timed out";
    case ECANCELED: return "cancelled";
    case ESHUTDOWN: return "the peer has left the bus";
    case ECONNRESET: return "severed";
    case EACCES: return "denied";
    case EPROTO: return "mismatch";
    case ENOENT: return "no such name";
    case EEXIST: return "name taken";
    case EOWNERDEAD: return "forked";
    case EINVAL: return "invalid argument";
    case EFAULT: return "NULL where something must be";
    case EBADF: return "no such descriptor";
    case EOPNOTSUPP: return "not a peer's descriptor";
    default: {
        const char *text = strerrordesc_np(error < 0 ? -error : error);
        return text != NULL ? text : "unknown error";
    }
    }
}

static const char *resource_name(uint32_t resource)
{
    static const char *const names[] = {
        "none",  "peers", "nodes",    "handles", "messages", "bytes", "descriptors",
        "rings", "names", "look-ups", "tickets", "lanes",    "links",
    };
    return resource < sizeof(names) / sizeof(*names) ? names[resource] : "unknown";
}

int bus1_last_error_text(char *text, size_t size)
{
    const char *what = bus1_strerror(last.error), *operation = last.operation;
    if (text == NULL && size != 0) return -EFAULT;
    if (operation == NULL) operation = "nothing";
    if (last.resource != 0)
        return snprintf(text, size, "%s: %s (%s: %llu used of %llu, uid %u, pid %d)", operation,
                        what, resource_name(last.resource), (unsigned long long)last.used,
                        (unsigned long long)last.limit, last.uid, last.pid);
    if (last.pid != 0)
        return snprintf(text, size, "%s: %s (uid %u, pid %d)", operation, what, last.uid, last.pid);
    return snprintf(text, size, "%s: %s", operation, what);
}
