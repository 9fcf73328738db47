/*
 * bus1 in user space: capability-based IPC through shared memory. The interface for C and C++.
 *
 * A *peer* is a participant: one queue, its nodes, its handles. A *node* is the receiving end of a
 * channel, owned by the peer that made it. A *handle* is the right to send to one node, held by one
 * peer, passed on by copy inside messages. All three belong to one process; a message reaches a
 * node only if its sender holds a handle to it.
 *
 * There are two interfaces in this header, which may be mixed:
 *   1. bus1_peer_new and bus1_cmd_*: the calls of bus1(7) as proposed for the kernel in 2026.
 *   2. bus1_open and the rest: everything that this library can do.
 *
 * IDs. Nodes and handles are named by 64-bit numbers, local to a peer and never reused, neither 0
 * nor BUS1_INVALID. A node's and a handle's never look alike. What is named by an ID belongs to the
 * peer until it is released, or the peer is closed.
 *
 * Errors. Calls return 0, or a negative errno. Full and empty are -EAGAIN. bus1_last_error tells
 * more. An error leaves the bus as if the call had not been made, but for what a call itself names.
 *
 *   -EBADRQC       the peer has no handle or node of that ID
 *   -EHOSTUNREACH  the node behind the handle was released, or its owner is gone
 *   -ENOTUNIQ      a destination stands twice in one transaction
 *   -EMSGSIZE      more than a fixed limit allows, or too little room to receive
 *   -EDQUOT        a quota refuses; bus1_last_error says which, bus1_wait_for_room waits
 *   -EAGAIN        nothing to receive; no room to send
 *   -ETIMEDOUT     the deadline passed first
 *   -ESHUTDOWN     the peer has left the bus
 *   -ECONNRESET    the other side broke the rules, or went away in the middle
 *   -EACCES        an access rule says no
 *   -EPROTO        the two sides do not fit: version, type, or an option out of range
 *   -ENOENT, -EEXIST  nobody has published that name; somebody has
 *   -EOWNERDEAD    this process was forked from one that was on the bus
 *   -EINVAL, -EFAULT  an argument that is not allowed; a NULL where something must be
 *   any other      what the kernel said
 *
 * Threads. One thread at a time uses a bus1_peer, but for what says "any thread". Each further
 * thread that sends takes a lane. The bus1_cmd_* calls may be made by any threads: each peer lets
 * in one at a time.
 *
 * Fork. A child has none of it before it executes a program: every call there fails.
 *
 * Deadlines are moments of CLOCK_MONOTONIC in ns: BUS1_NOW never waits, BUS1_NEVER waits for ever,
 * bus1_after(ns) lies so far ahead.
 *
 * Structures that begin with `size` may grow: set it to sizeof, and the rest to 0 where nothing
 * else is wanted. One that is smaller than in the first version is refused: -EINVAL.
 */
#ifndef BUS1_H
#define BUS1_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of this header and the library that it came with. */
#define BUS1_VERSION "0.1.0"

/* ---- 1. bus1(7) ------------------------------------------------------------------------------ */
/*
 * Where this deviates from the kernel's proposal:
 *   - Calls return 0 or a negative errno. They do not set errno.
 *   - A peer belongs to one process, and so does its descriptor: a child, or who is sent the
 *     descriptor, can't use it (-EOPNOTSUPP). Nor can a duplicate be used instead of the original.
 *   - The bus is $BUS1_PATH, else the user's default one. Unrelated processes meet on it by
 *     bus1_publish and bus1_look_up, with the peer that bus1_peer_of gives.
 *   - bus1_peer_close is prompt. A bare close of the descriptor is noticed by bus1_peer_new, by a
 *     bus1_cmd_recv that finds nothing, by a call that names the descriptor, or at exit.
 *   - The order is total, not only causal: all peers see all transactions in one order, which
 *     agrees with real time.
 *   - A destination or a transfer whose node is known to be released is refused: -EHOSTUNREACH. A
 *     destination that stands twice is refused: -ENOTUNIQ. A receiver whose queue is full is a
 *     quota: -EDQUOT.
 *   - A transaction has 256 destinations at most, a message 253 transfers and 1,024 pieces:
 *     -EMSGSIZE.
 *   - A transfer whose node was released just before the message was sent, unknown to the sender,
 *     arrives with the ID BUS1_INVALID.
 *   - `account` is the sender's user, the effective UID as the kernel vouched; of a notice, which
 *     has no sender, the receiver's own.
 *   - -EFAULT is told of NULL. What else points nowhere is not found out.
 *   - The descriptor can be polled: readable when bus1_cmd_recv may find something.
 */

/* An ID that names nothing. */
#define BUS1_INVALID ((uint64_t)-1)

/* Of a transfer: a handle to a new node. */
#define BUS1_TRANSFER_FLAG_CREATE 0x1

/* C before C23 has no way to say of what type an enumeration is, but for clang's. The type of the
 * structures' fields is uint64_t. */
#if defined(__cplusplus) || defined(__clang__) ||                                                  \
    (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L)
#if defined(__clang__) && !defined(__cplusplus)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpragmas"
#pragma clang diagnostic ignored "-Wunknown-warning-option"
#pragma clang diagnostic ignored "-Wmicrosoft-fixed-enum"
#pragma clang diagnostic ignored "-Wfixed-enum-extension"
#pragma clang diagnostic ignored "-Wc23-extensions"
#endif
/* What was received. */
enum bus1_message_type : uint64_t {
#else
/* What was received. */
enum bus1_message_type {
#endif
    BUS1_MESSAGE_TYPE_USER = 0,           /* somebody sent it */
    BUS1_MESSAGE_TYPE_NODE_RELEASE = 1,   /* the node behind a handle is gone */
    BUS1_MESSAGE_TYPE_HANDLE_RELEASE = 2, /* the last handle to a node is gone */
    _BUS1_MESSAGE_TYPE_N
};
#if defined(__clang__) && !defined(__cplusplus)
#pragma clang diagnostic pop
#endif

/* A node or handle that goes from one peer to another. */
struct bus1_transfer {
    uint64_t flags;
    uint64_t id;
};

/* Where a message or notice came to, and from whom. Filled in by bus1_cmd_recv. */
struct bus1_metadata {
    uint64_t flags;
    uint64_t id;      /* the node; of NODE_RELEASE the handle */
    uint64_t account; /* the sender's */
};

/* A payload and its transfers. Pointers stand in 64 bits, on every machine. */
struct bus1_message {
    uint64_t flags;
    uint64_t type;
    uint64_t n_transfers;
    uint64_t ptr_transfers; /* to struct bus1_transfer */
    uint64_t n_data;
    uint64_t n_data_vecs;
    uint64_t ptr_data_vecs; /* to struct iovec */
};

/* Joins the bus. Returns the peer's descriptor, which is close-on-exec. */
int bus1_peer_new(void);

/* Leaves the bus and closes the descriptor. -EBADF, -EOPNOTSUPP. */
int bus1_peer_close(int peerfd);

/*
 * Makes n handles in `to`: copies of handles that `from` holds or, with BUS1_TRANSFER_FLAG_CREATE,
 * to new nodes of `from`. All or nothing. `flags` is 0. `to` -1 means `from`.
 *
 * src[i].flags is 0 or CREATE; with CREATE src[i].id is BUS1_INVALID, and on return the new node's
 * ID, with flags 0. dst[i] gets the new handle's ID and flags 0. Both may be partly written on
 * failure. -EBADRQC: `from` does not hold such a handle.
 */
int bus1_cmd_transfer(uint64_t flags, int from, int to, size_t n, struct bus1_transfer *src,
                      struct bus1_transfer *dst);

/*
 * Releases nodes and handles, mixed, in one transaction. Fails only on invalid arguments, and then
 * changes nothing: -EBADRQC when an ID names nothing, or stands there twice. IDs are dead at
 * return.
 */
int bus1_cmd_release(int peerfd, size_t n_ids, uint64_t *ids);

/*
 * Sends one message to all destinations at one instant, or to none. message->flags is 0, its type
 * BUS1_MESSAGE_TYPE_USER. The first n_data bytes of the pieces are the payload; n_data above their
 * sum is -EMSGSIZE. Transfers are handles that the peer holds, with flags 0; each receiver gets
 * copies. errors[i], if errors is not NULL, becomes 0 on success and is not written otherwise.
 * Never waits for room.
 */
int bus1_cmd_send(int peerfd, size_t n_destinations, uint64_t *destinations, int32_t *errors,
                  struct bus1_message *message);

/*
 * Receives the next message or notice. The caller sets flags to 0 and message->type to
 * BUS1_INVALID, and gives room: n_data bytes in the pieces, n_transfers transfers. -EAGAIN: there
 * is nothing. -EMSGSIZE: n_data and n_transfers say how much room is needed, and the message stays.
 *
 * On success type, n_transfers, n_data, the room and *metadata are filled in. NODE_RELEASE retires
 * the handle: its ID is dead. HANDLE_RELEASE: the last handle to the node is gone.
 */
int bus1_cmd_recv(int peerfd, struct bus1_metadata *metadata, struct bus1_message *message);

/* ---- 2. this library's own ------------------------------------------------------------------- */

/* Deadlines: not to wait at all, and to wait for ever. */
#define BUS1_NOW ((uint64_t)0)
#define BUS1_NEVER UINT64_MAX

/* A moment so many ns from now. Any thread. */
uint64_t bus1_after(uint64_t ns);

/* ---- errors; any thread ---- */

/* What is known of a failure. The caller sets `size`. */
struct bus1_error {
    size_t size;
    int32_t error;         /* as it was returned: negative */
    int32_t system_error;  /* what the kernel said: an errno, or 0 */
    const char *operation; /* what was attempted, in words; valid for ever */
    uint32_t resource;     /* of -EDQUOT: BUS1_RESOURCE_..., which ran out; 0: none is known */
    uint32_t uid;          /* whose use was counted; of -ECONNRESET who broke a rule */
    int32_t pid;
    uint32_t reserved;
    uint64_t used, limit; /* of the resource */
};

/* What this thread's last failed call knows of its failure, but for -EAGAIN. -ENOENT: none has
 * failed. */
int bus1_last_error(struct bus1_error *error);

/* One line for a log of the same, as snprintf writes it: returns its length. */
int bus1_last_error_text(char *text, size_t size);

/* An error in a few words: "over quota". Never NULL. Either sign. */
const char *bus1_strerror(int error);

/* ---- peers ---- */

/* A participant: one queue, its nodes, its handles. */
typedef struct bus1_peer bus1_peer;

/* Flags of struct bus1_options. */
enum {
    BUS1_OPEN_PREFAULT = 1,        /* touch rings' and pools' pages when they are made */
    BUS1_OPEN_LOCKED = 2,          /* keep them out of swap, as RLIMIT_MEMLOCK allows */
    BUS1_OPEN_HUGE_PAGES = 4,      /* ask for huge pages */
    BUS1_OPEN_NO_HEIR = 8,         /* this process never takes the broker's place */
    BUS1_OPEN_PROCESS_DOMAIN = 16, /* share rings with this process only, not with its user's
                                    * others */
};

/* As spin_ns: a wait sleeps at once. */
#define BUS1_SPIN_NONE UINT64_MAX

/* How a peer is made. 0 is the default everywhere. */
struct bus1_options {
    size_t size;
    uint32_t flags;       /* BUS1_OPEN_... */
    uint32_t slots;       /* messages that may wait, of each ring; a power of two from 16 on */
    uint32_t slot_bytes;  /* a power of two from 64 on, 24 of them not payload */
    uint32_t lanes;       /* threads that may send, this one included */
    uint64_t spin_ns;     /* before a wait sleeps; BUS1_SPIN_NONE: not at all */
    uint64_t handles_max; /* held at a time */
    uint64_t pool_bytes;  /* shared memory for loaned and long payloads, of each lane */
};

/*
 * Joins the bus whose broker's socket is `path`, and starts its broker in this process if there is
 * none. NULL: $BUS1_PATH, else the user's default one. `options` may be NULL. Blocks until the
 * broker has answered, some hundred us.
 */
int bus1_open(const char *path, const struct bus1_options *options, bus1_peer **peer);

/* The peer for which whoever spawned this process set handles aside. -EACCES: there is none. */
int bus1_open_inherited(const struct bus1_options *options, bus1_peer **peer);

/* The handle that stood at this place of bus1_spawn's list. -EBADRQC: taken, or its node was
 * gone. */
int bus1_take_inherited(bus1_peer *peer, size_t index, uint64_t *handle);

/*
 * Leaves the bus: nodes are released, handles gone, the queue dropped. What was received and not
 * given back stays readable; lanes and slices are ended by their own calls. NULL is allowed.
 */
void bus1_close(bus1_peer *peer);

/* The peer behind a descriptor of bus1_peer_new. It stays the descriptor's: do not close it. */
int bus1_peer_of(int peerfd, bus1_peer **peer);

/*
 * Readable whenever bus1_try_receive may find something. The peer's own: do not close or read it.
 * From now on an empty bus1_try_receive costs two system calls.
 */
int bus1_descriptor(bus1_peer *peer, int *fd);

/* Releases all nodes and handles, and drops what waits; the seed stays if keep_seed is not 0. */
int bus1_reset(bus1_peer *peer, int keep_seed);

/* ---- nodes, handles, names ---- */

/* Makes a node. The tag returns in each of its messages. */
int bus1_node_make(bus1_peer *peer, uint64_t tag, uint64_t *node);

/* A handle of this peer to its own node. */
int bus1_handle_make(bus1_peer *peer, uint64_t node, uint64_t *handle);

/* Copies of handles for another peer of this process, or this one: all or none. */
int bus1_give(bus1_peer *peer, size_t n, const uint64_t *handles, bus1_peer *other,
              uint64_t *given);

/* Releases nodes and handles, mixed, at one instant, or none of them. */
int bus1_release(bus1_peer *peer, size_t n, const uint64_t *ids);

/* Who may look a name up: processes of the owner's effective user, of some users, all. */
enum { BUS1_ACCESS_SAME_USER = 0, BUS1_ACCESS_USERS = 1, BUS1_ACCESS_ANYONE = 2 };

/*
 * Publishes a node under a name of 1 to 255 bytes, for whom `access` admits; with BUS1_ACCESS_USERS
 * these users, 32 at most. The name goes with the node.
 */
int bus1_publish(bus1_peer *peer, uint64_t node, const char *name, int access, size_t n_users,
                 const uint32_t *users);

/* A handle to the node that is published under a name. Waits for a service that comes late. */
int bus1_look_up(bus1_peer *peer, const char *name, uint64_t deadline, uint64_t *handle);

/* Who owns the node behind a handle, as the kernel vouched. Either pointer may be NULL. */
int bus1_owner(bus1_peer *peer, uint64_t handle, uint32_t *uid, int32_t *pid);

/*
 * Starts a program (not searched for; argv ends with NULL, NULL is no arguments) and sets handles
 * aside for its bus1_open_inherited, 32 at most. The caller reaps the child and closes pidfd.
 */
int bus1_spawn(bus1_peer *peer, const char *path, char *const argv[], size_t n_handles,
               const uint64_t *handles, int32_t *pid, int *pidfd);

/* ---- sending ---- */

/* Sends a copy of some bytes. Never waits: -EAGAIN when the receiver's ring is full. No system
 * call. */
int bus1_try_send(bus1_peer *peer, uint64_t handle, const void *data, size_t n_data);

/* The same; waits for room. */
int bus1_send(bus1_peer *peer, uint64_t handle, const void *data, size_t n_data, uint64_t deadline);

/* Shared memory on loan, and its one owner. */
typedef struct bus1_slice bus1_slice;

/* A part of a transaction: one message. What is not wanted is 0. */
struct bus1_outgoing {
    uint64_t handle;
    const void *data;  /* copied */
    size_t n_data;
    bus1_slice *slice; /* instead of data: moved, and gone in any case */
    const uint64_t *passing;
    size_t n_passing;  /* handles of which the receiver gets copies, 253 at most */
    const int *fds;
    size_t n_fds;         /* files of which the receiver gets duplicates, 253 at most */
    uint64_t reply_node;  /* an own node, to which one reply is asked for; 0: none */
    int32_t error;        /* with BUS1_TRANSACT_CONTINUE: why this one was left out, or 0 */
    uint32_t reserved;
};

/* Flag of a transaction: each destination for itself. */
enum { BUS1_TRANSACT_CONTINUE = 1 };

/* Messages and releases that happen at one instant. */
struct bus1_transaction {
    size_t size;
    uint32_t flags;      /* BUS1_TRANSACT_... */
    uint32_t reserved;
    size_t message_size; /* sizeof(struct bus1_outgoing) */
    size_t n_messages;   /* 256 at most */
    struct bus1_outgoing *messages;
    size_t n_releases;
    const uint64_t *releases; /* handles and nodes */
    uint64_t deadline;        /* to wait for room until then; not with CONTINUE */
    uint64_t stamp;           /* returned: the instant at which it happened */
};

/*
 * Sends messages to any nodes and releases any handles and nodes, at one instant or not at all;
 * slices are gone in any case. With BUS1_TRANSACT_CONTINUE a destination that refuses is left out,
 * says why in its `error`, and does not stop the others.
 */
int bus1_transact(bus1_peer *peer, struct bus1_transaction *transaction);

/* ---- loaned memory ---- */

/* Shared memory to be filled in and sent without a copy. *data is writable until the slice ends. */
int bus1_loan(bus1_peer *peer, size_t n_data, uint64_t deadline, bus1_slice **slice, void **data);

/* Send fewer bytes than were loaned. -EINVAL: more. */
int bus1_slice_shorten(bus1_slice *slice, size_t n_data);

/* Sends a slice without a copy. The slice is gone in any case. */
int bus1_slice_send(bus1_peer *peer, bus1_slice *slice, uint64_t handle, uint64_t deadline);

/* Gives a slice back unsent. Any thread. NULL is allowed. */
void bus1_slice_end(bus1_slice *slice);

/* ---- receiving ---- */

/* Kinds of what was received. */
enum {
    BUS1_RECEIVED_MESSAGE = 0,
    BUS1_RECEIVED_NODE_RELEASE = 1,   /* id is a handle, which is retired */
    BUS1_RECEIVED_HANDLE_RELEASE = 2, /* id is a node: the last handle to it is gone */
    BUS1_RECEIVED_REPLY_LOST = 3,     /* id is a node: a reply that was asked for will not come */
};

/* Flags of what was received. */
enum {
    BUS1_RECEIVED_MORE = 1,        /* the next one belongs to the same transaction */
    BUS1_RECEIVED_WANTS_REPLY = 2, /* bus1_reply answers it */
};

/* A view of a message or notice. It is the caller's until bus1_give_back. */
struct bus1_received {
    size_t size;      /* set by the caller */
    uint32_t kind;    /* BUS1_RECEIVED_MESSAGE and so on */
    uint32_t flags;   /* BUS1_RECEIVED_MORE and so on */
    uint64_t id;      /* the node that it was sent to, or what a notice names */
    uint64_t tag;     /* of that node */
    const void *data; /* readable and unchanged until it is given back */
    size_t n_data;
    uint32_t n_handles;
    uint32_t n_fds;
    uint32_t uid; /* the sender, as the kernel vouched */
    int32_t pid;
    uint64_t stamp;    /* its place in the order of the bus */
    uint64_t sequence; /* counts this peer's messages: 1, 2, 3 */
    void *message;     /* the library's; NULL when there is nothing to give back */
};

/*
 * The next message or notice, in the order of the bus, as a view: the payload lies where it is
 * until bus1_give_back. Never waits: -EAGAIN when there is none.
 */
int bus1_try_receive(bus1_peer *peer, struct bus1_received *received);

/* The same. Spins for the time in the peer's options, then sleeps. -ETIMEDOUT. */
int bus1_receive(bus1_peer *peer, uint64_t deadline, struct bus1_received *received);

/* The same for one node's messages; what comes before stays, in its order. Notices stay, too. */
int bus1_receive_on(bus1_peer *peer, uint64_t node, uint64_t deadline,
                    struct bus1_received *received);

/*
 * Ends the view: the payload may not be read any more; handles and descriptors that were not taken
 * are given up; who waits for a reply is told that there is none. -EINVAL: it was given back
 * before. Does nothing for a notice. Any thread, also after the peer was closed.
 */
int bus1_give_back(struct bus1_received *received);

/*
 * Takes a handle out: the peer's from now on. -EHOSTUNREACH: its node was released before the
 * message was sent. -EINVAL: taken before, or there are not so many. Any thread.
 */
int bus1_take_handle(struct bus1_received *received, size_t index, uint64_t *handle);

/* Takes a descriptor out: the caller's to close; it is close-on-exec. Errors as for a handle,
 * -EMFILE. */
int bus1_take_fd(struct bus1_received *received, size_t index, int *fd);

/* Sends the one reply that the message asks for. -EHOSTUNREACH: nobody waits any more. Any
 * thread. */
int bus1_reply(struct bus1_received *received, const void *data, size_t n_data, uint64_t deadline);

/* Makes a received payload a slice again, to be sent on without a copy, and gives the message back.
 * -EPROTO: it lies in no slice of the own trust domain; copy it. */
int bus1_forward(bus1_peer *peer, struct bus1_received *received, bus1_slice **slice);

/* ns since boot of a stamp. */
uint64_t bus1_stamp_ns(bus1_peer *peer, uint64_t stamp);

/* ---- lanes: further threads that send ---- */

/* What one further thread sends by. */
typedef struct bus1_lane bus1_lane;

/* The right to send, for one further thread. Its handles are the peer's. -EDQUOT: see
 * options.lanes. */
int bus1_lane_open(bus1_peer *peer, bus1_lane **lane);

/* Gives it up: by the lane's thread, before or after the peer is closed. NULL is allowed. */
void bus1_lane_close(bus1_lane *lane);

/* As bus1_try_send, by the lane's thread. */
int bus1_lane_try_send(bus1_lane *lane, uint64_t handle, const void *data, size_t n_data);

/* As bus1_send, by the lane's thread. */
int bus1_lane_send(bus1_lane *lane, uint64_t handle, const void *data, size_t n_data,
                   uint64_t deadline);
/* As bus1_transact, by the lane's thread. Releases and reply nodes are the peer's thread's:
 * -EINVAL. */
int bus1_lane_transact(bus1_lane *lane, struct bus1_transaction *transaction);

/* ---- what may be used ---- */

/* What is counted and limited. */
enum {
    BUS1_RESOURCE_PEERS = 1,
    BUS1_RESOURCE_NODES = 2,
    BUS1_RESOURCE_HANDLES = 3,
    BUS1_RESOURCE_MESSAGES = 4,
    BUS1_RESOURCE_BYTES = 5,
    BUS1_RESOURCE_DESCRIPTORS = 6,
    BUS1_RESOURCE_RINGS = 7,
    BUS1_RESOURCE_NAMES = 8,
    BUS1_RESOURCE_LOOK_UPS = 9,
    BUS1_RESOURCE_TICKETS = 10,
    BUS1_RESOURCE_LANES = 11,
    BUS1_RESOURCE_LINKS = 12,
};

/* How much of a resource is used, and how much may be. Either pointer may be NULL. */
int bus1_query(bus1_peer *peer, int resource, uint64_t *used, uint64_t *limit);

/* From now on no more of it than that. -EACCES: more than the peer was made with, or than the bus
 * allows. */
int bus1_set_limit(bus1_peer *peer, int resource, uint64_t limit);

/* Waits until some of a resource may be used that was refused before. */
int bus1_wait_for_room(bus1_peer *peer, int resource, uint64_t deadline);

/* ---- the seed: one message that a peer keeps for itself ---- */

/* Replaces it: a copy of some bytes, and copies of handles. With data NULL and no handles: removes
 * it. */
int bus1_set_seed(bus1_peer *peer, const void *data, size_t n_data, size_t n_handles,
                  const uint64_t *handles);

/* Reads it, as a message to no node; it stays. -EAGAIN: there is none. */
int bus1_seed(bus1_peer *peer, struct bus1_received *received);

#ifdef __cplusplus
}
#endif

#endif
