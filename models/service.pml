/*
 * service.pml - indices out of service: what a stopped sender has claimed does not hold the head.
 *
 * The receiver takes the index of an unwritten slot out of service and goes on. It publishes, in
 * this order, resume[index] = "out since position h", the count of indices out of service, the head.
 * A sender reads the head and, after it, the count, and only when its copy of the head says full;
 * only if its copy of the count is not zero it looks at resume[index] of the position that it has
 * claimed. A position between h and the one from which the index serves again is a hole: neither
 * side uses it. Written late, or its claimer dead, the index returns a full lap ahead of the front;
 * the count goes down when the front has passed the last hole.
 *
 * Checked:
 *   1. no sender writes a hole, a slot that is not yet consumed, or a buried one;
 *   2. nothing whose send returned is lost or doubled, and real time is kept, late ones included;
 *   3. in the end nothing holds the head, every index is in service, nobody waits for ever.
 *
 * NOTE - not here: store buffers of the senders and the broker's verdict in steps (ring.pml); a
 * verdict is one step here. The receiver's stores are visible in the order in which it makes them
 * (they are release stores); nothing that it reads between them depends on when.
 */
#ifndef N0
#define N0 1                /* messages of sender 0 */
#endif
#ifndef N1
#define N1 3                /* messages of sender 1 */
#endif
#ifndef CAP
#define CAP 2
#endif
#ifndef TAKEN
#define TAKEN 1             /* times that an index is taken out */
#endif
#ifndef KILLS
#define KILLS 1
#endif
#define NS 2
#define POSITIONS 12
#define BIT(x) (1 << (x))
#define MESSAGE(s, k) ((s) * N0 + (k))
#define LAST(s) (s == 0 -> N0 : N1)
#define OUT 100             /* resume[]: OUT + h is "out since h", anything less is "from there on" */

#ifdef REACH
#define REACHED(what) assert(REACH != what)
#else
#define REACHED(what) skip
#endif
#define TAKEN_OUT 1
#define WRITTEN_LATE 2
#define MET_A_HOLE 3
#define SERVED_AGAIN 4      /* a message went through an index that had been out */
#define BURIED_OUT 5        /* the claimer of an index out of service died */
#define REREAD_OUT 6        /* re-reading found one written late */
#define OWN_OUT 7           /* a claimer found its own position out of service, and wrote it */
#define COUNT_SPARED 8      /* not looked at resume[], though an index has been out before */

/* Shared memory. */
byte tail, head, count;
byte resume[CAP];
byte header[CAP], body[CAP];
byte claim[NS];

/* Private to the receiver. */
byte front;
short resolved;
byte out[CAP];              /* position + 1 that is out, or 0 */
byte since[CAP];            /* the index serves from here on */
bit  counted[CAP];          /* back in service, still in the count */

/* What only the checker knows. */
bit  killed[NS], over[NS];
byte owner[POSITIONS];
byte before[N0 + N1];
byte returned, delivered;
short written;

#define HOLE(q) ((out[(q) % CAP] && (q) >= out[(q) % CAP]) || (q) < since[(q) % CAP])
#define WRITTEN(q) (header[(q) % CAP] == (q) + 1)
#define IS_OUT(q) (out[(q) % CAP] == (q) + 1)
#define UNRESOLVED(q) ((q) >= front && !(resolved & BIT(q)) && !HOLE(q) || IS_OUT(q))

active proctype killer() {
    byte kills;
end:
    do
    :: atomic { kills < KILLS && claim[0] && !killed[0] -> killed[0] = 1; kills++ }
    :: atomic { kills < KILLS && claim[1] && !killed[1] -> killed[1] = 1; kills++ }
    od
}

proctype sender(byte s) {
    byte k, p, known_head, known_count, seen;
    {
        do
        :: k == LAST(s) -> break
        :: k < LAST(s) ->
            atomic {
                before[MESSAGE(s, k)] = returned;
attempt:        p = tail;
                assert(p < POSITIONS)
            };
            if
            :: p - known_head < CAP
            :: else ->
                /* A claim word that names a lost position or a hole would keep it from burial. */
                claim[s] = 0;
#ifdef COUNT_BEFORE_HEAD
                known_count = count;
                atomic { head != known_head -> known_head = head };
#else
                atomic { head != known_head -> known_head = head };
                known_count = count;
#endif
                goto attempt
            fi;
            claim[s] = p + 1;
            if
            :: d_step { tail == p -> tail++; owner[p] = s + 1 }
            :: tail != p -> goto attempt
            fi;
            if
            :: known_count ->
                d_step { seen = resume[p % CAP] };
                if
#ifdef POSITION_NOT_KEPT
                :: seen >= OUT || p < seen ->
#else
                :: (seen >= OUT && seen != OUT + p) || p < seen && seen < OUT ->
#endif
                    atomic { REACHED(MET_A_HOLE); seen = 0 }; goto attempt
                :: else ->
                    atomic {
                        if :: seen == OUT + p -> REACHED(OWN_OUT) :: else fi;
                        seen = 0
                    }
                fi
            :: else ->
                atomic { if :: resume[0] || resume[1] -> REACHED(COUNT_SPARED) :: else fi }
            fi;
            d_step {
                assert(owner[p] == s + 1);
                assert(IS_OUT(p) || !HOLE(p));
                assert(p < front + CAP);
                assert(IS_OUT(p) || !(resolved & BIT(p)));
                body[p % CAP] = MESSAGE(s, k);
                header[p % CAP] = p + 1;
                written = written | BIT(p)
            };
            d_step {
                claim[s] = 0;
                returned = returned | BIT(MESSAGE(s, k));
                k++; p = 0
            }
        od
    } unless { killed[s] };
    over[s] = 1
}

inline resolve(q) {
    resolved = resolved | BIT(q);
    do
    :: resolved & BIT(front) -> front++
    :: else -> break
    od
}

/* Position q, which was out of service, is settled: its index serves again from the first position
   on which no claimer can have met it as "out": a sender knows at most the present front. */
inline return_to_service(q) {
    resolved = resolved | BIT(q);
    out[q % CAP] = 0;
#ifdef RETURNED_EARLY
    since[q % CAP] = q + CAP;
    do
    :: since[q % CAP] < front -> since[q % CAP] = since[q % CAP] + CAP
    :: else -> break
    od;
#else
    since[q % CAP] = q + CAP;
    do
    :: since[q % CAP] < front + CAP -> since[q % CAP] = since[q % CAP] + CAP
    :: else -> break
    od;
#endif
    counted[q % CAP] = 1
}

#define FREE(s, q) (killed[s] || claim[s] != q + 1)
#ifdef ANY_UNNAMED
#define BURIABLE(q) (q < tail && UNRESOLVED(q) && !WRITTEN(q) && FREE(0, q) && FREE(1, q))
#else
#define BURIABLE(q) (q < tail && UNRESOLVED(q) && !WRITTEN(q) && FREE(0, q) && FREE(1, q) && \
    (claim[0] == q + 1 || claim[1] == q + 1))
#endif
#define CAN(q) (q < tail && UNRESOLVED(q) && WRITTEN(q))

active proctype receiver() {
    byte q, c, taken, outs;
look:
end:
    atomic {
        if
        /* Any written one may be what the receiver found; re-reading follows. */
        :: CAN(front) -> c = front
        :: CAN(front + 1) -> c = front + 1
#if CAP > 2
        :: CAN(front + 2) -> c = front + 2
#endif
        :: out[0] && CAN(out[0] - 1) -> c = out[0] - 1
        :: out[1] && CAN(out[1] - 1) -> c = out[1] - 1
#if CAP > 2
        :: out[2] && CAN(out[2] - 1) -> c = out[2] - 1
#endif
        :: BURIABLE(front) -> c = front; goto bury
        :: BURIABLE(front + 1) -> c = front + 1; goto bury
        :: out[0] && BURIABLE(out[0] - 1) -> c = out[0] - 1; goto bury
        :: out[1] && BURIABLE(out[1] - 1) -> c = out[1] - 1; goto bury
#if CAP > 2
        :: out[2] && BURIABLE(out[2] - 1) -> c = out[2] - 1; goto bury
#endif
        /* A hole is stepped over once somebody has claimed it: the head never passes the tail. */
#ifdef HOLES_NOT_CLAIMED
        :: HOLE(front) && front < head + CAP -> resolve(front); goto look
#else
        :: HOLE(front) && front < tail -> resolve(front); goto look
#endif
        /* The slot in front is claimed and unwritten, and must not hold the head. */
        :: front < tail && UNRESOLVED(front) && !WRITTEN(front) && !BURIABLE(front) &&
           taken < TAKEN && outs < CAP - 1 -> goto take_out
#ifndef COUNT_DOWN_AT_RETURN
        :: counted[0] && front > since[0] - CAP -> counted[0] = 0; count--; goto look
        :: counted[1] && front > since[1] - CAP -> counted[1] = 0; count--; goto look
#if CAP > 2
        :: counted[2] && front > since[2] - CAP -> counted[2] = 0; count--; goto look
#endif
#endif
        :: head != front -> head = front; goto look
        fi
    };
    do
    :: atomic { q < c ->
        if
#ifdef OUT_NOT_REREAD
        :: q >= front && UNRESOLVED(q) && WRITTEN(q) ->
#else
        :: UNRESOLVED(q) && WRITTEN(q) ->
            if :: IS_OUT(q) -> REACHED(REREAD_OUT) :: else fi;
#endif
            c = q; q = 0
        :: else -> q++
        fi }
    :: q >= c -> break
    od;
    atomic {
        q = body[c % CAP];
        assert(!(delivered & BIT(q)));
        assert(!(before[q] & ~delivered));
        delivered = delivered | BIT(q);
        q = 0;
        if :: since[c % CAP] -> REACHED(SERVED_AGAIN) :: else fi;
        if
        :: IS_OUT(c) -> REACHED(WRITTEN_LATE); goto back
        :: else -> resolve(c); c = 0; goto look
        fi
    };
bury:
    atomic {
        assert(!(written & BIT(c)));
        if
        :: IS_OUT(c) -> REACHED(BURIED_OUT)
        :: else -> resolve(c); c = 0; goto look
        fi
    };
back:
    atomic {
        return_to_service(c);
        outs--;
        resume[c % CAP] = since[c % CAP];
#ifdef COUNT_DOWN_AT_RETURN
        count--; counted[c % CAP] = 0;
#endif
        c = 0
    };
    goto look;
take_out:
    /* The slot was unwritten when we decided; it may be written any time now. */
    atomic { REACHED(TAKEN_OUT); c = front; out[c % CAP] = c + 1; outs++; taken++ };
#ifdef RESUME_AFTER_HEAD
    if :: counted[c % CAP] -> counted[c % CAP] = 0 :: else -> count++ fi;
    atomic { resolved = resolved | BIT(c); resolve(c); head = front };
    resume[c % CAP] = OUT + c;
#else
    resume[c % CAP] = OUT + c;
#ifdef COUNT_AFTER_HEAD
    atomic { resolve(c); head = front };
#endif
    if :: counted[c % CAP] -> counted[c % CAP] = 0 :: else -> count++ fi;
#ifndef COUNT_AFTER_HEAD
    atomic { resolve(c) };
#endif
#endif
    c = 0;
    goto look
}

/* When nothing can move any more. */
active proctype monitor() {
    byte i;
end:
    atomic {
        timeout ->
        assert(over[0] && over[1]);
        assert(!(returned & ~delivered));
        assert(front >= tail);
        do
        :: i < CAP -> assert(!out[i]); i++
        :: else -> break
        od
    }
}

init {
    atomic { run sender(0); run sender(1) }
}
