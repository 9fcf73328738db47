/*
 * multicast.pml - transactions with several destinations, mixed with unicasts: two senders, two
 * receivers, a ring of both senders for each receiver, one commit word for each sender.
 *
 * Checked:
 *   1. a multicast is delivered to both receivers or to none, also if its sender is killed between
 *      any two steps or the broker aborts it;
 *   2. there is one order of all transactions that both receivers see and that agrees with real
 *      time: the relation "delivered before, at any receiver" joined with "returned before the other
 *      began" never has a cycle;
 *   3. nothing whose send returned is lost, nothing is delivered twice, nobody waits for ever.
 *
 * NOTE - not here: claim words (ring.pml; a dead claimer's slot is resolved at once), wrap, full
 * rings, release words with their flag, several rings at one receiver.
 *
 * What cannot be told apart is one step. A receiver takes any written slot for the first that it
 * found, since re-reading follows; it does not look where it would only find what it waits for. A
 * sender is killed in the middle of something, and then each header that it had not made visible
 * may have been stored, or not.
 *
 * Memory: headers become visible late and in any order, until the sender's barrier has emptied its
 * store buffer. The clock is coarse: it stands still for as long as it likes, so stamps are equal.
 * It ticks only where its last value was read: other ticks change nothing that can be compared.
 */
#ifndef NT
#define NT 2                /* transactions of each sender */
#endif
#ifndef FEWER
#define FEWER 0             /* ... of which the last sender has so many fewer */
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef ABORTS
#define ABORTS 1            /* commits of living senders that the broker aborts */
#endif
#ifndef UNICASTS
#define UNICASTS 0          /* destinations that a unicast may have: 0 (none at all), 1 or 2 */
#endif
#ifndef SCRIPT
#define SCRIPT 0            /* destinations of each transaction, two bits for each; 0 leaves it open */
#endif
#define SCRIPTED(x) ((SCRIPT >> (2 * (x))) & 3)
#define NS 2
#define P (NS * NT + ABORTS) /* positions of a ring */
#define N (NS * NT)
#define BIT(x) (1 << (x))
#define LAST(s) (s == NS - 1 -> NT - FEWER : NT)

#ifdef REACH
#define REACHED(what) assert(REACH != what)
#else
#define REACHED(what) skip
#endif
#define LOOKED_AHEAD 1      /* something of a lower stamp went first */
#define BLOCKED 2           /* a pending commit was waited for */
#define WAITED_FOR_P 3      /* ... in a look */
#define ABORTED_ALIVE 4     /* and sent again */
#define DROPPED 5
#define EQUAL_STAMPS 6
#define REUSED 7            /* a commit word had to wait for a head */
#define REREAD_FOUND 8
#define UNICAST_FIRST 9     /* a unicast behind a multicast went first for its stamp */
#define TORN 10             /* killed when one slot was visible and the other was never stored */

#define FREE 0
#define PENDING 1
#define ABORTED 2
#define COMMITTED 3         /* + stamp */

#define MULTI 3             /* destinations are a bit mask */

/* Shared memory. A slot says who wrote it; then the generation of the commit word, or the stamp. */
byte tail[2];
byte slot[2 * P];           /* transaction + 1, 0 is unwritten */
byte extra[2 * P];
byte word[NS], generation[NS];
byte front[2];              /* of the receivers, published at once */
byte clock = 1;
bit  clock_was_read;

/* Store buffers: the header for a ring is stored, but not yet visible. */
bit  stored[NS * 2];
bit  claimed[NS * 2];
byte position[NS * 2];
byte store_what[NS], store_extra[NS];

byte resolved[2];

/* What only the checker knows. */
bit  killed[NS], over[NS];
bit  asked[NS];             /* a receiver waits for this sender's commit */
byte destinations[N];
byte earlier[N];            /* what must come before this transaction, transitively */
byte returned, delivered[2], committed;

/* Everything in `those` precedes x. */
inline order(those, x) {
    set = those;
    j = 0;
    do
    :: j < N -> if :: (those) & BIT(j) -> set = set | earlier[j] :: else fi; j++
    :: else -> break
    od;
    assert(!(set & BIT(x)));
    earlier[x] = earlier[x] | set;
    j = 0;
    do
    :: j < N ->
        if :: earlier[j] & BIT(x) -> earlier[j] = earlier[j] | earlier[x] :: else fi;
        j++
    :: else -> break
    od;
    set = 0; j = 0
}

inline make_visible(s, r) {
    slot[r * P + position[s * 2 + r]] = store_what[s];
    extra[r * P + position[s * 2 + r]] = store_extra[s];
    stored[s * 2 + r] = 0; claimed[s * 2 + r] = 0
}

#define QUIET(s) (!stored[s * 2] && !stored[s * 2 + 1])
#define VISIBLE(s, r) atomic { stored[s * 2 + r] -> make_visible(s, r) }
#define NEVER_STORED(s, r) atomic { killed[s] && stored[s * 2 + r] -> stored[s * 2 + r] = 0 }
active proctype memory() {
end:
    do
    :: VISIBLE(0, 0) :: VISIBLE(0, 1) :: VISIBLE(1, 0) :: VISIBLE(1, 1)
    :: NEVER_STORED(0, 0) :: NEVER_STORED(0, 1) :: NEVER_STORED(1, 0) :: NEVER_STORED(1, 1)
    :: atomic { clock_was_read -> clock++; clock_was_read = 0 }
    od
}

/* A kill between transactions only makes the program shorter. */
#define KILL(s) \
    atomic { kills < KILLS && !killed[s] && \
             (word[s] == PENDING || claimed[s * 2] || claimed[s * 2 + 1]) -> \
        killed[s] = 1; kills++ }
#define DEAD_IS_ABORTED(s) \
    atomic { word[s] == PENDING && killed[s] && QUIET(s) -> word[s] = ABORTED; asked[s] = 0 }
#define LEASE_IS_OVER(s) \
    atomic { word[s] == PENDING && !killed[s] && asked[s] && aborts < ABORTS -> \
        word[s] = ABORTED; aborts++; asked[s] = 0 }
active proctype broker() {
    byte kills, aborts;
end:
    do
    :: KILL(0) :: KILL(1)
    :: DEAD_IS_ABORTED(0) :: DEAD_IS_ABORTED(1)
    :: LEASE_IS_OVER(0) :: LEASE_IS_OVER(1)
    od
}

inline claim(s, r) {
    position[s * 2 + r] = tail[r]; tail[r]++; claimed[s * 2 + r] = 1
}

#ifdef NO_COMMIT_WAIT
#define AFTER_COMMIT_WAIT true
#else
#define AFTER_COMMIT_WAIT clock > stamp
#endif

proctype sender(byte s) {
    byte k, x, stamp, set, j;
    byte last[2];           /* one past the positions of the multicast before */
    {
        do
        :: k == LAST(s) -> break
        :: k < LAST(s) ->
            atomic {
                x = s * NT + k;
                if
                :: SCRIPTED(x) -> destinations[x] = SCRIPTED(x)
                :: !SCRIPTED(x) -> destinations[x] = MULTI
                :: !SCRIPTED(x) && UNICASTS > 0 -> destinations[x] = 1
                :: !SCRIPTED(x) && UNICASTS > 1 -> destinations[x] = 2
                fi;
                order(returned, x)
            };
again:
            if
            :: destinations[x] == MULTI ->
                /* The word may say something else only when every destination is past its slot. */
#ifndef REUSED_EARLY
                if
                :: front[0] < last[0] || front[1] < last[1] ->
                    REACHED(REUSED);
#ifdef REUSED_AFTER_ONE
                    front[0] >= last[0] || front[1] >= last[1]
#else
                    front[0] >= last[0] && front[1] >= last[1]
#endif
                :: else
                fi;
#endif
                atomic {
                    word[s] = PENDING; generation[s]++; asked[s] = 0;
                    store_what[s] = x + 1; store_extra[s] = generation[s];
                    claim(s, 0)
                };
                d_step { claim(s, 1); last[0] = position[s * 2] + 1; last[1] = position[s * 2 + 1] + 1 };
                d_step { stored[s * 2] = 1; stored[s * 2 + 1] = 1 };
#ifdef STAMP_BEFORE_BARRIER
                d_step { stamp = clock; clock_was_read = 1 };
                QUIET(s);
#else
                d_step { QUIET(s) -> stamp = clock; clock_was_read = 1 };
#endif
                atomic {
                    AFTER_COMMIT_WAIT;
                    if
#ifdef STORED_NOT_COMPARED
                    :: true ->
#else
                    :: word[s] == PENDING ->
#endif
                        word[s] = COMMITTED + stamp; asked[s] = 0;
                        committed = committed | BIT(x);
                        returned = returned | BIT(x)
#ifndef STORED_NOT_COMPARED
                    :: else -> REACHED(ABORTED_ALIVE); stamp = 0; goto again
#endif
                    fi
                }
            :: else ->
                d_step { claim(s, destinations[x] - 1) };
                d_step { stamp = clock; clock_was_read = 1 };
                d_step {
                    AFTER_COMMIT_WAIT;
                    store_what[s] = x + 1; store_extra[s] = stamp;
                    stored[s * 2 + destinations[x] - 1] = 1
                };
                d_step { QUIET(s) -> returned = returned | BIT(x) }
            fi;
            d_step { stamp = 0; store_what[s] = 0; store_extra[s] = 0;
                position[s * 2] = 0; position[s * 2 + 1] = 0; k++ }
        od
    } unless { killed[s] };
    over[s] = 1
}

#define AT(q) (r * P + q)
#define WRITTEN(q) (slot[AT(q)] != 0)
#define UNRESOLVED(q) (!(resolved[r] & BIT(q)))
#define TRANSACTION(q) (slot[AT(q)] - 1)
#define IS_MULTI(q) (destinations[TRANSACTION(q)] == MULTI)
#define OWNER(q) (TRANSACTION(q) / NT)
/* A word that has gone on to another generation says nothing about this slot: it is dropped. */
#define WORD(q) (generation[OWNER(q)] == extra[AT(q)] -> word[OWNER(q)] : ABORTED)
/* Multicasts of equal stamps need the same order everywhere, unicasts any. */
#define KEY(q) (IS_MULTI(q) -> (WORD(q) - COMMITTED) * 4 + 1 + OWNER(q) : extra[AT(q)] * 4)

inline resolve(q) {
    resolved[r] = resolved[r] | BIT(q);
    do
    :: resolved[r] & BIT(front[r]) -> front[r]++
    :: else -> break
    od
}

inline deliver(q) {
    assert(!(delivered[r] & BIT(TRANSACTION(q))));
    order(delivered[r], TRANSACTION(q));
    delivered[r] = delivered[r] | BIT(TRANSACTION(q));
    resolve(q)
}

/* What is written now, in position order up to the tail of before; which of it is pending. */
inline look_ahead() {
    d_step { end_of_look = tail[r]; q = front[r]; seen = 0; pending = 0 };
    do
    :: d_step { q < end_of_look ->
        if
        :: UNRESOLVED(q) && WRITTEN(q) ->
            seen = seen | BIT(q);
            if
            :: IS_MULTI(q) && WORD(q) == PENDING ->
                pending = pending | BIT(q); asked[OWNER(q)] = 1
            :: else
            fi
        :: else
        fi;
        q++ }
    :: q == end_of_look -> break
    od
}

/* To look is of no use where all that would come of it is to wait for a commit that we have already
   asked about; what stands behind such a one is not looked at. */
#define AWAITED(q) (IS_MULTI(q) && WORD(q) == PENDING && asked[OWNER(q)])
#ifdef PAST_PENDING
#define SKIP_PENDING 1
#else
#define SKIP_PENDING 0
#endif
#define CAN(q) (q < tail[r] && UNRESOLVED(q) && WRITTEN(q) && !AWAITED(q))
#define STOPS(q) (q < tail[r] && UNRESOLVED(q) && WRITTEN(q) && AWAITED(q) && !SKIP_PENDING)
#define BURIABLE(s) (killed[s] && !stored[s * 2 + r] && claimed[s * 2 + r])

#define REACHED_TORN(s) \
    if \
    :: word[s] == ABORTED && !stored[s * 2 + 1 - r] && !claimed[s * 2 + 1 - r] && \
       front[1 - r] <= position[s * 2 + 1 - r] -> REACHED(TORN) \
    :: else \
    fi

proctype receiver(byte r) {
    byte q, c, end_of_look, seen, pending, best, set, j;
look:
end:
    atomic {
        /* The guard keeps us from turning in circles; each alternative is a slot found written. */
        if
        :: CAN(front[r]) -> c = front[r]
        :: !STOPS(front[r]) && CAN(front[r] + 1) -> c = front[r] + 1
        :: !STOPS(front[r]) && !STOPS(front[r] + 1) && CAN(front[r] + 2) -> c = front[r] + 2
        :: !STOPS(front[r]) && !STOPS(front[r] + 1) && !STOPS(front[r] + 2) &&
           CAN(front[r] + 3) -> c = front[r] + 3
        /* What a dead sender had claimed will never be written. */
        :: BURIABLE(0) -> REACHED_TORN(0); claimed[r] = 0; resolve(position[r]); goto look
        :: BURIABLE(1) -> REACHED_TORN(1); claimed[2 + r] = 0; resolve(position[2 + r]); goto look
        fi;
        q = front[r]
    };
#ifndef NO_REREAD
    do
    :: atomic { q < c ->
        if
        :: UNRESOLVED(q) && WRITTEN(q) && !(SKIP_PENDING && AWAITED(q)) ->
            c = q; q = front[r]; REACHED(REREAD_FOUND)
        :: else -> q++
        fi }
    :: q >= c -> break
    od;
#endif
#ifdef LOOK_BEFORE_COMMIT
    if :: IS_MULTI(c) -> look_ahead() :: else fi;
#endif
    atomic {
        q = 0;
        if
        :: !IS_MULTI(c) -> deliver(c); c = 0; goto look
        :: IS_MULTI(c) && WORD(c) == ABORTED -> REACHED(DROPPED); resolve(c); c = 0; goto look
        :: IS_MULTI(c) && WORD(c) == PENDING ->
            asked[OWNER(c)] = 1; c = 0;
            REACHED(BLOCKED);
            goto look
        :: else
        fi
    };
#ifdef NO_LOOK_AHEAD
    atomic { deliver(c); c = 0; goto look };
#endif
#ifndef LOOK_BEFORE_COMMIT
    look_ahead();
#endif
    /* Only what was pending in this look is waited for. */
    atomic {
        q = front[r];
        if :: pending -> REACHED(WAITED_FOR_P) :: else fi;
        do
        :: pending & BIT(q) -> WORD(q) != PENDING; pending = pending & ~BIT(q)
        :: pending && !(pending & BIT(q)) -> q++
        :: !pending -> break
        od;
        q = front[r]; best = c;
        do
        :: q < end_of_look ->
            if
            :: !(seen & BIT(q))
            :: (seen & BIT(q)) && IS_MULTI(q) && WORD(q) == ABORTED -> resolve(q)
#ifdef UNICASTS_NOT_SEEN
            :: (seen & BIT(q)) && !IS_MULTI(q)
            :: (seen & BIT(q)) && IS_MULTI(q) && WORD(q) != ABORTED ->
#else
            :: else ->
#endif
                if
                :: q != c && IS_MULTI(q) && (KEY(q) / 4 == KEY(c) / 4) -> REACHED(EQUAL_STAMPS)
                :: else
                fi;
                if :: KEY(q) < KEY(best) -> best = q :: else fi
            fi;
            q++
        :: else -> break
        od;
        if
        :: best != c && !IS_MULTI(best) && best > c -> REACHED(UNICAST_FIRST)
        :: best != c && IS_MULTI(best) -> REACHED(LOOKED_AHEAD)
        :: else
        fi;
        deliver(best);
        best = 0; c = 0; q = 0; end_of_look = 0; seen = 0;
        goto look
    }
}

/* When nothing can move any more. */
active proctype monitor() {
    byte x;
end:
    atomic {
        timeout ->
        assert(over[0] && over[1]);
        do
        :: x < N ->
            if
            :: destinations[x] == MULTI ->
                assert(!(committed & BIT(x)) == !(delivered[0] & BIT(x)));
                assert(!(committed & BIT(x)) == !(delivered[1] & BIT(x)));
            :: destinations[x] && destinations[x] != MULTI && (returned & BIT(x)) ->
                assert(delivered[destinations[x] - 1] & BIT(x))
            :: else
            fi;
            x++
        :: else -> break
        od;
        assert(front[0] == tail[0] && front[1] == tail[1])
    }
}

init {
    atomic { run sender(0); run sender(1); run receiver(0); run receiver(1) }
}
