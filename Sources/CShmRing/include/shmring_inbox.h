/*
 * shmring_inbox.h - the receiving side: all rings of one receiver, delivered in order.
 *
 * Guarantees:
 *   1. A message is delivered once, and only when it has happened: written, and committed if it has
 *      several destinations.
 *   2. Claimed but unwritten slots never block: they are passed over and looked at again.
 *   3. Transactions with several destinations are delivered in the order of their stamps, the same
 *      at every receiver; what was sent before, in real time, is delivered before.
 *   4. What is watched takes its place in the same order. While it is pending, nothing that may
 *      come after it is delivered, unicasts included.
 *   5. A message is dealt with at the next call, not before: head is published beyond it only then,
 *      so that shmring_ring_scan finds it for as long as its receiver may be working on it.
 *   6. Every byte of a slot is copied once into private memory, then checked, then used. What no
 *      honest process writes makes SHMRING_E_CORRUPT and names the ring; it never traps.
 *   7. take never blocks, makes no system call, and allocates only when a ring first needs the
 *      longer look (some 80 bytes a slot, kept).
 *
 * NOTE - one thread at a time. An inbox does not know peers, nodes or handles: who may send is
 * checked by the layer above, on the copy.
 */
#pragma once

#include "shmring_ring.h"

/* Where a sender's commit words can be read. index: as in the slot's route. */
struct shmring_sender_view {
    const struct shmring_outbox *outbox; /* NULL: not introduced yet */
    uint32_t commit_words;               /* how many the outbox holds */
    uint32_t gone;                       /* severed: what it sends is dropped */
    uint32_t owner_id;                   /* the outbox's, the same at every receiver */
    uint32_t reserved;
};

/* Which rule was broken, when a ring is to be severed. */
enum shmring_breach {
    SHMRING_BREACH_NONE = 0,
    SHMRING_BREACH_TAIL = 1,      /* a tail that cannot be */
    SHMRING_BREACH_CLASS = 2,     /* a slot of no class */
    SHMRING_BREACH_LENGTH = 3,    /* a body longer than a slot */
    SHMRING_BREACH_STAMP = 4,     /* a stamp that the clock has not reached, or of long ago */
    SHMRING_BREACH_REWRITTEN = 5, /* a slot that changed after it was written */
    SHMRING_BREACH_CLAIMS = 6,    /* more claims that are never written than a ring bears */
    SHMRING_BREACH_CREDIT = 7,    /* set by the layer above */
    SHMRING_BREACH_RIGHTS = 8,    /* likewise */
};

enum shmring_open_state {
    SHMRING_OPEN_UNRESOLVED = 0, /* unwritten, or not yet to be delivered: read it again */
    SHMRING_OPEN_PENDING = 1,    /* a multicast whose commit the look under way waits for */
    SHMRING_OPEN_HAPPENED = 2,   /* has a stamp */
    SHMRING_OPEN_DONE = 3,       /* delivered, dropped or void */
};

/* A position that was looked at and is not done with. */
struct shmring_open {
    uint64_t position;
    uint64_t stamp; /* of one that has happened */
    uint64_t commit; /* of a multicast: SHMRING_COMMIT_REF */
    uint64_t tie;    /* of a multicast: the outbox's owner << 32 | index of its commit word; else
                      * 0 */
    uint64_t unclaimed; /* when it was last seen unclaimed; 0 where nobody asks */
    uint32_t state; /* enum shmring_open_state */
    uint32_t sender;
};

/* A reading of the clock, then of a ring's tail: no position from there on had been claimed. */
struct shmring_tail_seen {
    uint64_t tail, at;
};

#define SHMRING_RETIRED_MAX 64u /* indices of one ring that may be out of service */

/* One ring, as its receiver sees it. Private. */
struct shmring_consumer {
    struct shmring_ring_control *control;
    uint64_t *resume;
    const uint8_t *slots;
    uint64_t mask, capacity;
    uint64_t publish_every; /* head is published each eighth of a lap */
    uint64_t next;          /* no position from here on was looked at */
    uint64_t head;          /* as last published */
    uint64_t flags_taken; /* and not collected yet */
    uint32_t slot_shift, body_bytes, ring_id;
    uint32_t foreign;         /* of another trust domain: stamps are checked */
    uint64_t in_service_from; /* from this head on no index is out of service any more */
    struct shmring_open *open; /* positions below next that are not done with, ascending */
    uint32_t open_first, open_end;
    uint32_t retired_count;
    uint32_t sender_count;
    struct shmring_open *retired; /* out of service; SHMRING_RETIRED_MAX of them */
    uint64_t *retirements;        /* counts them, of the inbox; NULL: in none */
    struct shmring_sender_view *senders;
    struct shmring_tail_seen tails[2]; /* of a foreign ring: the latest, and the one before */
};

/* How often each rule acted: the order checker refuses a run in which one never did. */
struct shmring_inbox_counts {
    uint64_t passed_over, re_read, looks, look_waits, reordered, aborted, voids, holes, retired,
        returned_to_service, parked, clamped;
    uint64_t notices;      /* told */
    uint64_t notice_waits; /* looks that waited for something watched */
    uint64_t rings_waits;  /* looks over several rings that waited */
    uint64_t stalls;       /* times that it was said for what a look waits */
};

/* What else may have a place in the order. */
enum shmring_watch_kind {
    SHMRING_WATCH_RELEASE = 1, /* a release word */
    SHMRING_WATCH_DROP = 2,    /* a drop word's `word` */
    SHMRING_WATCH_DEATH = 3,   /* the death word of the bus page, or a stamp */
};
struct shmring_watch; /* private */

/* A commit word that reads pending, and for which a look waits. */
struct shmring_blocker {
    uint32_t ring;   /* index in the inbox, of a multicast; UINT32_MAX: of something watched */
    uint32_t sender; /* of a multicast: in that ring; else what it was watched with as owner_id */
    uint32_t index;  /* of the commit word, in its outbox */
    uint32_t generation;
};
/* So many are told at a time. */
#define SHMRING_BLOCKERS_MAX 32u
/* A look that has waited this long says for what; and again after ever longer pauses. */
#define SHMRING_STALL_NS UINT64_C(200000)

struct shmring_ready {
    uint64_t stamp, tie, position;
    uint32_t ring;  /* index in the inbox */
    uint32_t index; /* in its open[], or SHMRING_READY_RETIRED + index in retired[] */
};

/* A stream: this many deliveries in a row that were waited for less than eight calls. */
#define SHMRING_STREAM_STREAK 32u
#define SHMRING_STREAM_PAUSES 8 /* some 200 ns */

/* One empty call in so many looks at everything claimed: what stands behind several claims that
 * stand still is found then, and head is published for those who wait on it. */
#define SHMRING_EMPTY_LOOK 1024u

#define SHMRING_INBOX_RINGS_MAX 1024u
/* futex_waitv takes 128 words; one is the attention word. Above that an inbox sleeps by `sleep`. */
#define SHMRING_FUTEX_RINGS_MAX 127u

struct shmring_inbox {
    struct shmring_consumer *only; /* the one ring, when nothing is open; else NULL */
    const uint64_t *death;         /* word of the bus page */
    uint64_t death_seen;
    uint64_t last_stamp; /* the largest effective stamp told so far */
    uint64_t sequence;   /* of the latest message told */
    uint64_t empty_count;
    uint32_t empty_run; /* empty calls since the latest delivery; a paused one counts as eight */
    uint32_t streak;    /* deliveries in a row that had hardly to be waited for: a stream */
    const uint32_t *attention; /* word of the own outbox; counts the broker's messages */
    uint32_t attention_seen;
    uint32_t ring_count;
    uint32_t ring_capacity;         /* of rings */
    struct shmring_consumer **rings; /* grows */
    struct shmring_clock clock;
    uint64_t look_t0; /* of the look under way */
    uint32_t waiting; /* a look waits for pending commits */
    uint32_t body_bytes_max;
    struct shmring_ready *ready;
    uint32_t ready_first, ready_end, ready_capacity;
    uint32_t ready_needed; /* what a look can find: the slots of all rings, and those retired */
    uint32_t trouble_ring, trouble_sender; /* with E_CORRUPT and E_UNKNOWN_SENDER */
    uint32_t trouble_breach; /* with E_CORRUPT: enum shmring_breach */
    uint32_t event_mode;  /* parks on event descriptors */
    uint32_t held;        /* see shmring_inbox_hold */
    /* Sleeps on the event descriptors of all rings and the broker's messages, until one is
     * signalled or until_ns (CLOCK_MONOTONIC), and takes note of what was. NULL: above
     * SHMRING_FUTEX_RINGS_MAX rings a wait looks every ms. */
    void (*sleep)(void *context, uint64_t until_ns);
    void *sleep_context;
    uint64_t yielded_at;  /* sequence when the processor was last offered to others */
    uint64_t park_number; /* the latest */
    struct shmring_watch *watches;
    uint32_t watch_count, watch_capacity;
    uint64_t told_stamp, told_tie; /* of the latest ready entry that was told */
    uint32_t in_hand;     /* ready[ready_first - 1] is a message not dealt with yet */
    uint32_t unsettled;   /* what must be looked at before a plain slot is delivered in place */
    uint32_t notice_kind; /* with SHMRING_NOTICE: an enum shmring_watch_kind, */
    uint64_t notice_cookie; /* and what it was watched with */
    /* Called by a look that has taken ring r's flags (an exchange; flags != 0), or has seen the
     * death word change, or pending (ring == UINT32_MAX; flags is then the word it saw): adds
     * watches, and calls nothing else of the inbox. Anything but 0 ends the look, is returned, and
     * the next look calls again. May be NULL. */
    int (*collect)(struct shmring_inbox *inbox, uint32_t ring, uint64_t flags, void *context);
    void *collect_context;
    /* A look has waited for SHMRING_STALL_NS, and told by now: says for which words, so that
     * somebody may make them final. Calls nothing else of the inbox. Not for deaths. May be
     * NULL. */
    void (*stalled)(const struct shmring_blocker *blockers, uint32_t count, void *context);
    void *stalled_context;
    uint64_t stalled_at_ns; /* when that is said next (CLOCK_MONOTONIC); 0: not known yet */
    uint64_t stall_pause_ns;
    const uint32_t *called; /* word of the bus page, where an heir is called as well, the second
                             * time and later, and for deaths. May be NULL */
    uint32_t stall_turns; /* calls of take that found the look still waiting */
    struct shmring_inbox_counts counts;
};

/* A message, copied out. Private memory. */
struct shmring_message {
    uint64_t stamp;    /* effective: never below an earlier one's, but for a multicast's own */
    uint64_t sequence; /* 1, 2, 3 ... at this receiver */
    uint64_t bits;     /* class and SHMRING_HEADER_... */
    uint32_t grant, sender, length;
    uint32_t ring;     /* index in the inbox */
    uint64_t body[];   /* room for inbox->body_bytes_max bytes */
};

/* What orders the message told last among others of its stamp: see `tie` of struct shmring_open; 0
 * of one that was told in its place. Until the next call of take. */
SHMRING_INLINE uint64_t shmring_inbox_tie(const struct shmring_inbox *inbox)
{
    return inbox->in_hand ? inbox->told_tie : 0;
}

/* The head's side of a consumer, for the inbox. */
void shmring_consumer_return_to_service(struct shmring_consumer *consumer, uint32_t retired_index,
                                        struct shmring_inbox_counts *counts);

/* The message's payload lies in a slice: its body is a struct shmring_slice_ref, unchecked. */
SHMRING_INLINE bool shmring_message_is_slice(const struct shmring_message *message)
{
    return (message->bits & SHMRING_HEADER_SLICE) != 0;
}

/* The body begins with attachments. */
SHMRING_INLINE bool shmring_message_is_attached(const struct shmring_message *message)
{
    return (message->bits & SHMRING_HEADER_ATTACHED) != 0;
}

/* The body is the payload. */
SHMRING_INLINE bool shmring_message_is_plain(const struct shmring_message *message)
{
    return (message->bits & SHMRING_HEADER_MARKS) == 0;
}

SHMRING_INLINE bool shmring_message_has_more(const struct shmring_message *message)
{
    return (message->bits & SHMRING_HEADER_MORE) != 0;
}

int shmring_consumer_init(struct shmring_consumer *consumer, const struct shmring_mapping *ring,
                          bool foreign);
void shmring_consumer_deinit(struct shmring_consumer *consumer);
/* Tells where a sender's commit words are. -ENOMEM, or SHMRING_E_CORRUPT when out of range. */
int shmring_consumer_set_sender(struct shmring_consumer *consumer, uint32_t sender,
                                const struct shmring_outbox *outbox, uint32_t lanes);
/* From now on drops what this sender writes. */
int shmring_consumer_drop_sender(struct shmring_consumer *consumer, uint32_t sender);
/* The broker said that a dead process claimed this position and nobody living: if it is still
 * unwritten, it is done with. */
void shmring_consumer_bury(struct shmring_consumer *consumer, uint64_t position);

/*
 * Any thread: calls `found` for each written slot of the ring that its receiver may not have dealt
 * with yet and whose route has this grant, with a copy of its body; also for slots of transactions
 * that are pending, and perhaps for some that are dealt with. SHMRING_OK; SHMRING_E_CORRUPT when
 * head and tail make no sense (all slots were looked at). Reads shared words only. What is
 * written while it runs may be missed: whoever scans makes its own words visible first (a full
 * barrier), so that the receiver of the missed one finds them.
 */
int shmring_ring_scan(const struct shmring_consumer *consumer, uint32_t grant,
                      void (*found)(void *context, uint32_t sender, const void *body,
                                    uint32_t length),
                      void *context);
/* Any thread: as shmring_producer_flag and shmring_producer_wake, for an own ring; event_fd: the
 * sending end of what the receiver sleeps on in an event loop, or -1. */
void shmring_consumer_flag(const struct shmring_consumer *consumer, uint64_t flag);
void shmring_consumer_wake(const struct shmring_consumer *consumer, int32_t event_fd);

void shmring_inbox_init(struct shmring_inbox *inbox, const struct shmring_clock *clock,
                        const uint64_t *death, const uint32_t *attention);
void shmring_inbox_deinit(struct shmring_inbox *inbox);
/* Only between two deliveries. SHMRING_E_TOO_LARGE above SHMRING_INBOX_RINGS_MAX, -ENOMEM. */
int shmring_inbox_add(struct shmring_inbox *inbox, struct shmring_consumer *consumer);
void shmring_inbox_remove(struct shmring_inbox *inbox, struct shmring_consumer *consumer);
/* While held, every way of taking returns SHMRING_E_HELD at once: the caller has something to
 * deliver first that it took before. Costs the plainest case nothing. */
void shmring_inbox_hold(struct shmring_inbox *inbox, bool held);

/*
 * Watches something that has or may get a place in the order. From `collect`, or between two
 * deliveries; the receiver's thread. It stays until it is told or unwatched: a word that is 0, or
 * refers to an aborted commit, is read again by each look. -ENOMEM.
 *
 * RELEASE, DROP: word: as SHMRING_RELEASE_REF; commits: the commit words of the same outbox,
 * commit_words of them; owner_id: the outbox's. stamp: 0.
 *
 * DEATH: either word is NULL and stamp is the death's; or word is the bus page's death word, stamp
 * the pending value that was seen there, and commits the dead one's `dead` word (an outbox's),
 * where the stamp is found once the death word serves another death. A death that is watched again
 * with the same cookie takes the place of the one before, until that has been told. The name
 * beside a pending death word may still be the former one's, whose `dead` word is not 0 then: it is
 * watched with that stamp, if at all. The right name is found by a later look, before that delivers
 * anything that the death comes before. Word, name, word are read until both words agree: a stamp
 * that is not copied yet is found only there.
 */
int shmring_inbox_watch(struct shmring_inbox *inbox, enum shmring_watch_kind kind,
                        const uint64_t *word, const uint64_t *commits, uint32_t commit_words,
                        uint32_t owner_id, uint64_t stamp, uint64_t cookie);
/* What a release word says now, for who watches none yet; as in shmring_inbox_watch. SHMRING_OK: it
 * ended at *stamp. SHMRING_E_EMPTY: it has not. -EAGAIN: that is being decided. Any thread. */
int shmring_word_state(const uint64_t *word, const uint64_t *commits, uint32_t commit_words,
                       uint64_t *stamp);
/* Time: linear in what is watched. */
void shmring_inbox_unwatch(struct shmring_inbox *inbox, enum shmring_watch_kind kind,
                           uint64_t cookie);
/* All words that were watched as this owner's, whatever their cookies: before they are unmapped. */
void shmring_inbox_unwatch_words(struct shmring_inbox *inbox, uint32_t owner_id);

/* Claimed positions of a ring that are unwritten now: whose claimers may be dead. SHMRING_E_FULL:
 * ask again after the next delivery. SHMRING_E_CORRUPT, -ENOMEM. */
int shmring_inbox_stuck(struct shmring_inbox *inbox, struct shmring_consumer *consumer,
                        uint64_t *positions, uint32_t room, uint32_t *count);

/* Everything but the plainest case. `exact`: the answer E_EMPTY is to be relied upon. */
int shmring_inbox_take_slow(struct shmring_inbox *inbox, struct shmring_message *message,
                            bool exact);
/* One more index is to go out of service than a ring bears. */
bool shmring_consumer_bears_no_more(const struct shmring_consumer *consumer);
/* Publishes head as far as it goes, and wakes senders that wait for room. */
void shmring_consumer_publish_head(struct shmring_consumer *consumer, bool check_waiters);

/* Like take, but waits: spins up to spin_ns, then parks until deadline_ns (CLOCK_MONOTONIC;
 * UINT64_MAX: never). SHMRING_E_EMPTY: the deadline has passed. SHMRING_E_ATTENTION: the broker
 * wrote. */
int shmring_inbox_wait(struct shmring_inbox *inbox, struct shmring_message *message,
                       uint64_t spin_ns, uint64_t deadline_ns);
/* Until when a receiver may sleep: until_ns, or earlier when a look waits and is to say for
 * what. */
uint64_t shmring_inbox_sleeps_until(const struct shmring_inbox *inbox, uint64_t until_ns);
/* One word, and what it held when somebody decided to sleep until it holds something else. As
 * struct futex_waitv. */
struct shmring_word {
    uint64_t value, address;
    uint32_t flags, reserved;
};
#define SHMRING_PARK_WORDS 128u /* what futex_waitv takes: SHMRING_FUTEX_RINGS_MAX and attention */

struct shmring_word shmring_word_at(const uint32_t *word, uint32_t value);
/* Any thread; the word must still be mapped. */
SHMRING_INLINE bool shmring_word_has_changed(const struct shmring_word *word)
{
    const uint32_t *place = (const uint32_t *)(uintptr_t)word->address;
    return shmring_load_relaxed_u32(place) != word->value; /* Relaxed: a hint, to look anew. */
}
/* Sleeps until one of 1 to SHMRING_PARK_WORDS words changes, a wake, a signal, or until_ns
 * (CLOCK_MONOTONIC); which of them does not matter. Where the kernel can't sleep on several, it is
 * the first, and 1 ms at most. Any thread. */
void shmring_words_sleep(const struct shmring_word *words, uint32_t count, uint64_t until_ns);

/* Wakes whoever sleeps on it; after the word was changed. */
void shmring_word_wake(const uint32_t *word);

/* The halves of a parking, for who sleeps elsewhere. Announces it and looks once more: as take, or
 * SHMRING_E_ATTENTION. On SHMRING_E_EMPTY whoever sleeps until one of `words` changes
 * (SHMRING_PARK_WORDS; fewer are used, one for each ring and one more) misses nothing; above
 * SHMRING_FUTEX_RINGS_MAX rings it must look every ms. */
int shmring_inbox_park(struct shmring_inbox *inbox, struct shmring_message *message,
                       struct shmring_word *words, uint32_t *count);
/* Awake again, or not asleep at all. */
void shmring_inbox_unpark(struct shmring_inbox *inbox);

/* For an event loop: announces sleep on the event descriptors and looks once more. As take. */
int shmring_inbox_arm(struct shmring_inbox *inbox, struct shmring_message *message);
/* How the machine lets us sleep: "futex_waitv", "futex", for reports. */
const char *shmring_doorbell_name(void);

SHMRING_INLINE const struct shmring_slot *
shmring_consumer_slot(const struct shmring_consumer *consumer, uint64_t position)
{
    uint64_t index = position & consumer->mask;
    return (const struct shmring_slot *)(const void *)(consumer->slots +
                                                       (index << consumer->slot_shift));
}

SHMRING_INLINE uint64_t shmring_consumer_header(const struct shmring_consumer *consumer,
                                                uint64_t position)
{
    /* SYNC R6 acquire, pairs with R3: who sees the header sees stamp, route and body. It also keeps
     * flag and death word, read next, later than the header: read before it they would let a
     * message overtake a release that was over when it was sent. */
    return shmring_load_acquire(&shmring_consumer_slot(consumer, position)->header);
}

/* Copies a written slot's words and body. SHMRING_E_CORRUPT: a length that no slot has. */
SHMRING_INLINE int shmring_consumer_copy(const struct shmring_consumer *consumer, uint64_t position,
                                         uint64_t header, struct shmring_message *message)
{
    const struct shmring_slot *slot = shmring_consumer_slot(consumer, position);
    /* Relaxed, once each: R6 puts them behind the header. */
    uint64_t route = shmring_load_relaxed(&slot->route);
    message->stamp = shmring_load_relaxed(&slot->stamp);
    message->bits = header & ((UINT64_C(1) << SHMRING_POSITION_SHIFT) - 1);
    message->grant = (uint32_t)(route >> 32);
    message->sender = (uint32_t)(route >> 16) & 0xffff;
    message->length = (uint32_t)route & 0xffff;
    if (shmring_unlikely(message->length > consumer->body_bytes) && !SHMRING_UNCHECKED(LENGTH))
        return SHMRING_E_CORRUPT;
    shmring_copy(message->body, slot->body, message->length);
    /* The compiler must not take the copy for the slot and read that again after a check: from here
     * on it knows nothing of what the copy holds. No instruction. */
    __asm__("" : "+m"(*(uint8_t(*)[])(void *)message->body));
    SHMRING_FAULT(TAKE_COPIED);
    return SHMRING_OK;
}

/*
 * Takes the next message in order. SHMRING_OK: copied to *message. SHMRING_E_EMPTY: nothing, as far
 * as the next slot tells; a message behind one that is claimed and unwritten may be found some
 * calls later (shmring_inbox_take_slow with `exact` finds it now). SHMRING_E_UNKNOWN_SENDER:
 * introduce trouble_sender of trouble_ring, or drop it, and call again. SHMRING_E_CORRUPT:
 * trouble_ring is to be severed. SHMRING_NOTICE: notice_kind and notice_cookie say what was watched
 * and has happened; of the message only stamp, sequence, bits (SHMRING_HEADER_MORE: a notice of the
 * same transaction follows) and length 0 are set. SHMRING_E_HELD. -ENOMEM, and what `collect` says.
 */
SHMRING_INLINE int shmring_inbox_take(struct shmring_inbox *inbox, struct shmring_message *message)
{
    struct shmring_consumer *ring = inbox->only;
    if (shmring_unlikely(ring == NULL))
        return shmring_inbox_take_slow(inbox, message, false);
    /* In a stream a receiver at the sender's heels takes each line away between body and header:
     * 45 ns a message. Let the sender gain some messages first: 31 ns. */
    if (shmring_unlikely(inbox->streak > SHMRING_STREAM_STREAK && inbox->empty_run != 0)) {
        inbox->empty_run += 7;
        for (int i = 0; i < SHMRING_STREAM_PAUSES; i++)
            shmring_pause();
        /* One message at most in all that time: no stream, but somebody who waits for answers, and
         * whom further pauses would delay each time. */
        uint64_t second = ring->next + 1;
        if (shmring_consumer_header(ring, second) >> SHMRING_POSITION_SHIFT != second)
            inbox->streak = 0;
    }
    uint64_t next = ring->next;
    uint64_t header = shmring_consumer_header(ring, next);
    uint64_t plain = next << SHMRING_POSITION_SHIFT | SHMRING_CLASS_UNICAST;
    if (shmring_unlikely((header & ~SHMRING_HEADER_MARKS) != plain)) {
        /* Nobody has written here. One behind, written, shows a claim that stands still - unless
         * both were written just now; the rest the longer look finds, now and then: reading tail
         * each time would cost the sender a miss a message. */
        if (shmring_likely(header >> SHMRING_POSITION_SHIFT != next) &&
            shmring_likely(++inbox->empty_count % SHMRING_EMPTY_LOOK != 0)) {
            if (shmring_likely(shmring_consumer_header(ring, next + 1) >> SHMRING_POSITION_SHIFT !=
                               next + 1)) {
                inbox->empty_run++;
                /* Relaxed, as N3 below: what needs no slot shows here. */
                uint64_t news = shmring_load_relaxed(&ring->control->flags);
                news |= shmring_load_relaxed(inbox->death) ^ inbox->death_seen;
                if (shmring_unlikely(news != 0))
                    return shmring_inbox_take_slow(inbox, message, false);
                return SHMRING_E_EMPTY;
            }
            header = shmring_consumer_header(ring, next);
        }
        if ((header & ~SHMRING_HEADER_MARKS) != plain)
            return shmring_inbox_take_slow(inbox, message, false);
    }
    /* SYNC N3 relaxed (ordered by R6), pairs with the setting of a flag and with B5: read later
     * than the header. What was released or dead before the message was sent has changed by now. */
    uint64_t changed = shmring_load_relaxed(&ring->control->flags);
    changed |= shmring_load_relaxed(inbox->death) ^ inbox->death_seen;
    if (shmring_unlikely((changed | ring->foreign) != 0))
        return shmring_inbox_take_slow(inbox, message, false);
    /* What lies before it has been dealt with, it itself has not. */
    if (shmring_unlikely(next - ring->head >= ring->publish_every))
        shmring_consumer_publish_head(ring, true);
    if (shmring_unlikely(shmring_consumer_copy(ring, next, header, message)))
        return shmring_inbox_take_slow(inbox, message, false);
    if (shmring_likely(message->stamp > inbox->last_stamp))
        inbox->last_stamp = message->stamp;
    else
        message->stamp = inbox->last_stamp;
    message->sequence = ++inbox->sequence;
    message->ring = 0;
    inbox->streak = inbox->empty_run <= 8 ? inbox->streak + 1 : 0;
    inbox->empty_run = 0;
    ring->next = next + 1;
    return SHMRING_OK;
}

/* For languages that see neither flexible arrays nor macros with casts. */
SHMRING_INLINE const void *shmring_message_body(const struct shmring_message *message)
{
    return message->body;
}

SHMRING_INLINE uint64_t shmring_header_slice(void)
{
    return SHMRING_HEADER_SLICE;
}

SHMRING_INLINE uint64_t shmring_header_attached(void)
{
    return SHMRING_HEADER_ATTACHED;
}

SHMRING_INLINE uint64_t shmring_header_more(void)
{
    return SHMRING_HEADER_MORE;
}

/* Polls of one slot between two calls of take: two instructions each, where take has twenty. */
#define SHMRING_SPIN_POLLS 64u

/* The first turns of a wait, in line: take, again and again, `turns` times at most or until the
 * broker writes. As shmring_inbox_take. */
SHMRING_INLINE int shmring_inbox_spin(struct shmring_inbox *inbox, struct shmring_message *message,
                                      uint32_t turns)
{
    for (;;) {
        int result = shmring_inbox_take(inbox, message);
        /* Relaxed: a hint; whoever acts on it reads the word again with acquire. */
        if (result != SHMRING_E_EMPTY || turns-- == 0 ||
            shmring_load_relaxed_u32(inbox->attention) != inbox->attention_seen)
            return result;
        const struct shmring_consumer *ring = inbox->only;
        if (ring == NULL || inbox->streak > SHMRING_STREAM_STREAK)
            continue;
        /* Relaxed: take reads the header again, with R6. */
        const uint64_t *header = &shmring_consumer_slot(ring, ring->next)->header;
        uint32_t polls = 0;
        while (polls < SHMRING_SPIN_POLLS &&
               shmring_load_relaxed(header) >> SHMRING_POSITION_SHIFT != ring->next)
            polls++;
        inbox->empty_run += polls / 4; /* a poll takes a quarter of the time of an empty call */
    }
}
