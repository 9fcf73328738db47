/*
 * obituary.pml - deaths among messages: what the owner of a node makes of its list of holders, and
 * what a new holder makes of an owner that died.
 *
 * S holds a handle to O's node. It passes a copy to H - one transaction with two destinations, H's
 * ring and O's - and then lets its own go, by a message to O. With KEPT it does not. With OTHERS
 * somebody else sends O a message, too. Any of S, O, H and a stranger may be killed between any two steps; the broker then settles the commit word of S,
 * makes the death word pending, names the dead, reads the stamp behind a barrier, commits, and copies
 * the stamp to where late readers find it, before the next death begins.
 *
 * A receiver looks as the C core does: t0, the death word, its slots; waits for what was pending;
 * delivers what has a stamp below t0, in order. A unicast whose predecessors are done or still
 * unwritten goes at once, if the death word, read later than its header, has not changed.
 *
 * Checked:
 *   1. messages and deaths have one order that O and H both see and that agrees with real time;
 *   2. O learns once that all handles are gone, when they are, and never before;
 *   3. H learns once that the owner of what it holds is dead;
 *   4. everybody alive is told of every death, once, and of every committed message.
 *
 * NOTE - not here: release words (release.pml), an heir, several rings at one receiver, full rings.
 * The clock is that of multicast.pml; a t0 does not make it go on.
 */
#ifndef KILLS
#define KILLS 1
#endif
#define S 0
#define O 1
#define H 2
#define X 3                 /* a stranger, whose death O and H are told of as well */
#ifndef VICTIMS
#define VICTIMS 15          /* who may be killed: a bit for each */
#endif
#define HANDOVER 0          /* the transactions */
#define LET_GO 1
#define OTHER 2
#define OBITUARY(who) (3 + (who))
#define N 7
#define BIT(x) (1 << (x))
#define NOTHING 255

#ifdef REACH
#define REACHED(what) assert(REACH != what)
#else
#define REACHED(what) skip
#endif
#define GONE_BY_DEATH 1     /* the last holder died */
#define ADDED_NO_HOLDER 2   /* a hand-over ordered after its receiver's death */
#define INVALID 3           /* a handle received after its owner's death */
#define TOLD_LATER 4        /* the owner of a handle that was valid when it came died */
#define WAITED_FOR_DEATH 5
#define UNICAST_HELD 6      /* with a message to one destination in the look */
#define FROM_OUTBOX 7       /* the stamp was found where it had been copied to */
#define OLD_NAME 8          /* a pending death still bore the former's name */

#define PENDING 1
#define ABORTED 2
#define COMMITTED 3         /* + stamp */

/* Shared memory. O's ring has three slots, H's has one. */
byte tail;
byte slot[4];               /* transaction + 1, 0 is unwritten */
byte stamp_of[3];           /* in the slot of a unicast */
byte word;                  /* the hand-over's commit word */
byte death, named = NOTHING, changes;   /* the death word, whose, and which value of it this is */
byte dead[4];               /* COMMITTED + stamp, in the outbox of the dead */
byte clock = 1;
bit  clock_was_read;

/* Store buffers: of S, of the broker (in order: its stores have release order). */
bit  stored[2];
byte position;
bit  death_stored, name_stored;
byte storing;

/* What only the checker knows. */
bit  killed[4], over;
byte earlier[N], returned, delivered[3];
bit  committed;
byte gone, told;
bit  listed[4];             /* O's list */

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
    :: j < N -> if :: earlier[j] & BIT(x) -> earlier[j] = earlier[j] | earlier[x] :: else fi; j++
    :: else -> break
    od;
    set = 0; j = 0
}

#define QUIET (!stored[0] && !stored[1])
active proctype memory() {
end:
    do
    :: d_step { stored[0] -> stored[0] = 0; slot[position] = HANDOVER + 1 }
    :: d_step { stored[1] -> stored[1] = 0; slot[3] = HANDOVER + 1 }
    :: d_step { killed[S] && stored[0] -> stored[0] = 0 }
    :: d_step { killed[S] && stored[1] -> stored[1] = 0 }
#ifdef NAME_FIRST
    :: d_step { death_stored && !name_stored -> death_stored = 0; death = PENDING; changes++ }
    :: d_step { name_stored -> name_stored = 0; named = storing }
#else
    :: d_step { death_stored -> death_stored = 0; death = PENDING; changes++ }
    :: d_step { name_stored && !death_stored -> name_stored = 0; named = storing }
#endif
    :: d_step { clock_was_read -> clock++; clock_was_read = 0 }
    od
}

active proctype sender() {
    byte stamp, at, set, j;
    {
        atomic { order(returned, HANDOVER); position = tail; tail++; word = PENDING };
        atomic { stored[0] = 1; stored[1] = 1 };
        d_step { QUIET -> stamp = clock; clock_was_read = 1 };
        d_step { clock > stamp && word == PENDING -> word = COMMITTED + stamp; committed = 1;
            returned = returned | BIT(HANDOVER) };
#ifndef KEPT
        atomic { order(returned, LET_GO); at = tail; tail++ };
        d_step { stamp = clock; clock_was_read = 1 };
        d_step { clock > stamp -> stamp_of[LET_GO] = stamp; slot[at] = LET_GO + 1;
            returned = returned | BIT(LET_GO) }
#endif
    } unless { killed[S] };
    over = 1
}

#ifdef OTHERS
active proctype other() {
    byte stamp, at, set, j;
    atomic { order(returned, OTHER); at = tail; tail++ };
    d_step { stamp = clock; clock_was_read = 1 };
    d_step { clock > stamp -> stamp_of[OTHER] = stamp; slot[at] = OTHER + 1;
        returned = returned | BIT(OTHER) }
}
#endif

#define VICTIM(who) ((VICTIMS & BIT(who)) && !killed[who])
/* Kills, and announces it. */
active proctype broker() {
    byte kills, who, stamp, set, j;
end:
    do
    :: atomic { kills < KILLS &&
            (VICTIM(S) && !over || VICTIM(O) || VICTIM(H) || VICTIM(X)) ->
            if
            :: VICTIM(S) && !over -> who = S
            :: VICTIM(O) -> who = O
            :: VICTIM(H) -> who = H
            :: VICTIM(X) -> who = X
            fi;
            killed[who] = 1; kills++
        };
        if
        :: who == S ->
            d_step { QUIET -> if :: word == PENDING -> word = ABORTED :: else fi }
        :: else
        fi;
        atomic { order(returned, OBITUARY(who)); storing = who; death_stored = 1; name_stored = 1 };
#ifdef STAMP_BEFORE_BARRIER
        d_step { stamp = clock; clock_was_read = 1 };
        !death_stored && !name_stored;
#else
        d_step { !death_stored && !name_stored -> stamp = clock; clock_was_read = 1 };
#endif
        d_step {
#ifndef NO_COMMIT_WAIT
            clock > stamp ->
#endif
            death = COMMITTED + stamp; changes++ };
#ifdef NOT_COPIED
        returned = returned | BIT(OBITUARY(who));
#else
        d_step { dead[who] = COMMITTED + stamp; returned = returned | BIT(OBITUARY(who)) };
#endif
        stamp = 0
    od
}

/* What a receiver knows of a death. */
#define UNKNOWN 0
#define WATCHED 1           /* pending */
#define IN_HAND 2
#define DONE 3

#define FIRST (me == O -> 0 : 3)
#define END (me == O -> tail : 4)
#define OPEN(q) (slot[q] && !(done & BIT(q)))
#define IS_MULTI(q) (slot[q] == HANDOVER + 1)
#define KEY(q) (IS_MULTI(q) -> (word - COMMITTED) * 4 + 1 : stamp_of[slot[q] - 1] * 4)
#define DEATH_KEY(x) ((its[x] - COMMITTED) * 4 + 3)

inline check_list() {
    if
    :: !listed[S] && !listed[H] -> gone++
    :: else
    fi
}

inline deliver(q) {
    x = slot[q] - 1;
    order(delivered[me], x);
    delivered[me] = delivered[me] | BIT(x);
    done = done | BIT(q);
    if
    :: x == HANDOVER && me == O ->
        assert(listed[S]);
#ifdef DEAD_COUNTED
        listed[H] = 1
#else
        if
        :: knows[H] != DONE -> listed[H] = 1
        :: else -> REACHED(ADDED_NO_HOLDER)
        fi
#endif
    :: x == LET_GO -> listed[S] = 0; check_list()
    :: x == HANDOVER && me == H ->
        /* Is the owner dead? Asked after the commit was seen. */
        if
#ifndef NOT_ASKED_AT_RECEIPT
        :: knows[O] == DONE -> told++; REACHED(INVALID)
#endif
        :: else -> has = 1
        fi
    :: else
    fi;
    x = 0
}

inline tell(who) {
    order(delivered[me], OBITUARY(who));
    delivered[me] = delivered[me] | BIT(OBITUARY(who));
    knows[who] = DONE;
    its[who] = 0;
    if
    :: me == O && listed[who] -> listed[who] = 0; REACHED(GONE_BY_DEATH); check_list()
    :: me == H && who == O && has -> told++; REACHED(TOLD_LATER)
    :: else
    fi
}

/* Reads the death word, whose it is, the death word again until it is the same, and what was
 * copied. */
inline collect() {
    atomic { value = death; which = changes };
    if
#ifdef PENDING_TAKEN_ONCE
    :: which != seen ->
#else
    :: which != seen || value == PENDING ->
#endif
again:
        x = named;
        atomic {
            if
#ifndef WORD_READ_ONCE
            :: which != changes -> value = death; which = changes; goto again
#endif
            :: which == changes && x != NOTHING && knows[x] == UNKNOWN && !dead[x] ->
                if
                :: value == PENDING -> knows[x] = WATCHED
                :: else -> knows[x] = IN_HAND; its[x] = value
                fi
            :: which == changes && value == PENDING && x != NOTHING && dead[x] -> REACHED(OLD_NAME)
            :: else
            fi;
            x = 0
        };
        d_step {
            do
            :: x < 4 ->
                if
                :: dead[x] && knows[x] < IN_HAND -> knows[x] = IN_HAND; its[x] = dead[x]
                :: else
                fi;
                x++
            :: else -> break
            od;
            x = 0
        };
        seen = which
    :: else
    fi;
    atomic { value = 0; which = 0 }
}

/* A death that was pending: where its stamp is now. */
inline resolve(who) {
    if
    :: knows[who] == WATCHED ->
        REACHED(WAITED_FOR_DEATH);
        if
        :: dead[who] -> knows[who] = IN_HAND; its[who] = dead[who]; REACHED(FROM_OUTBOX)
        :: !dead[who] && death >= COMMITTED -> knows[who] = IN_HAND; its[who] = death
        fi
    :: else
    fi
}

#define ANY_OPEN (me == O -> OPEN(0) || OPEN(1) || OPEN(2) : OPEN(3))
#define LOOK_AGAIN (knows[S] == IN_HAND || knows[O] == IN_HAND || knows[H] == IN_HAND || \
    knows[X] == IN_HAND)
#define PENDING_DEATH (knows[S] == WATCHED || knows[O] == WATCHED || knows[H] == WATCHED || \
    knows[X] == WATCHED)

proctype receiver(byte me) {
    byte q, c, t0, x, looked, done, seen, which, value, best, set, j;
    byte knows[4], its[4];
    bit has;
    {
        seen = 0;
look:
        c = NOTHING;
end:
        atomic {
            if
            :: me == O && OPEN(0) && !IS_MULTI(0) && !LOOK_AGAIN -> c = 0
            :: me == O && OPEN(1) && !IS_MULTI(1) && !LOOK_AGAIN -> c = 1
            :: me == O && OPEN(2) && !IS_MULTI(2) && !LOOK_AGAIN -> c = 2
            :: ANY_OPEN || changes != seen || LOOK_AGAIN -> goto ahead
            fi
        };
        /* In place: what lies before it is done, or unwritten. */
        if
        :: (c > 0 && OPEN(0)) || (c > 1 && OPEN(1)) -> goto ahead
        :: else
        fi;
        atomic {
            if
#ifndef DEATH_NOT_READ
            :: changes != seen -> goto ahead
            :: else ->
#else
            :: true ->
#endif
                deliver(c); c = 0; goto look
            fi
        };
ahead:
        t0 = clock;
        collect();
#ifdef DEATHS_UNORDERED
        atomic {
            (!PENDING_DEATH) || death != PENDING;
            resolve(S); resolve(O); resolve(H); resolve(X);
            do
            :: x < 4 -> if :: knows[x] == IN_HAND -> tell(x) :: else fi; x++
            :: else -> break
            od;
            x = 0
        };
#endif
        atomic { q = FIRST; looked = 0 };
        do
        :: d_step { q < END -> if :: OPEN(q) -> looked = looked | BIT(q) :: else fi; q++ }
        :: q >= END -> break
        od;
        /* Wait for what was pending in this look. */
        q = 0;
        do
        :: atomic { q < 4 && (looked & BIT(q)) && IS_MULTI(q) -> word != PENDING; q++ }
        :: q < 4 && !((looked & BIT(q)) && IS_MULTI(q)) -> q++
        :: q == 4 -> break
        od;
        atomic {
#ifdef PENDING_DEATH_PASSED
            if
            :: PENDING_DEATH && death == PENDING && changes == seen -> skip
            :: else -> resolve(S); resolve(O); resolve(H); resolve(X)
            fi;
#else
            if
            :: PENDING_DEATH ->
                if
                :: (looked & BIT(0)) && !IS_MULTI(0) || (looked & BIT(1)) && !IS_MULTI(1) ||
                   (looked & BIT(2)) && !IS_MULTI(2) -> REACHED(UNICAST_HELD)
                :: else
                fi;
                changes != seen
            :: else
            fi;
            resolve(S); resolve(O); resolve(H); resolve(X);
#endif
            /* Nothing below is shared but what was read above. */
            do
            :: true ->
                best = NOTHING; c = NOTHING; q = 0;
                do
                :: q < 4 && (looked & BIT(q)) && !(done & BIT(q)) ->
                    if
                    :: IS_MULTI(q) && word == ABORTED -> done = done | BIT(q)
                    :: (!IS_MULTI(q) || word >= COMMITTED) && KEY(q) < t0 * 4 && KEY(q) < best ->
                        best = KEY(q); c = q
                    :: else
                    fi;
                    q++
                :: q < 4 && !((looked & BIT(q)) && !(done & BIT(q))) -> q++
                :: q >= 4 && q < 8 ->
                    if
                    :: knows[q - 4] == IN_HAND && DEATH_KEY(q - 4) < t0 * 4 &&
                       DEATH_KEY(q - 4) < best -> best = DEATH_KEY(q - 4); c = q
                    :: else
                    fi;
                    q++
                :: q == 8 -> break
                od;
                if
                :: c == NOTHING -> break
                :: c < 4 -> deliver(c)
                :: c != NOTHING && c >= 4 -> tell(c - 4)
                fi
            od;
            q = 0; c = 0; best = 0; looked = 0; t0 = 0;
            goto look
        }
    } unless { killed[me] }
}

/* When nothing can move any more. */
active proctype monitor() {
    byte who;
end:
    atomic {
        timeout ->
        assert(over);
        do
        :: who < 4 ->
            assert(killed[O] || !killed[who] || (delivered[O] & BIT(OBITUARY(who))));
            assert(killed[H] || !killed[who] || (delivered[H] & BIT(OBITUARY(who))));
            who++
        :: else -> break
        od;
        assert(killed[O] || committed == ((delivered[O] & BIT(HANDOVER)) != 0));
        assert(killed[H] || committed == ((delivered[H] & BIT(HANDOVER)) != 0));
#ifdef OTHERS
        assert(killed[O] || (delivered[O] & BIT(OTHER)));
#endif
        /* The list. */
        if
        :: killed[O]
        :: !killed[O] && committed && !killed[H] -> assert(gone == 0)
        :: !killed[O] && !(committed && !killed[H]) ->
            assert(gone == (killed[S] || (returned & BIT(LET_GO))))
        fi;
        assert(killed[H] || told == (killed[O] && committed))
    }
}

init {
    atomic { listed[S] = 1; run receiver(O); run receiver(H) }
}
