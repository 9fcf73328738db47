/*
 * ring.pml - one ring: many senders, one receiver, and the broker's verdict about claims of the dead.
 *
 * Checked:
 *   1. a message is delivered at most once, with the body that its sender wrote;
 *   2. if one send returned before another began, it is delivered first;
 *   3. a message whose header became visible is delivered, so none whose send returned is lost;
 *   4. a slot is written by the winner of its position only, after the previous lap was consumed,
 *      and never after the position was buried;
 *   5. in the end nothing holds the head back, and nobody waits for room for ever.
 *
 * NOTE - not here: stamps and commit words (multicast.pml), indices out of service (service.pml),
 * sleeping (doorbell.pml). The ring wraps, positions do not overflow.
 *
 * Memory: a header becomes visible later than it is stored, through a store buffer that the process
 * memory() drains. Exchange and compare-and-swap act on an empty buffer only: they are full
 * barriers. A killed sender's buffer still drains, and the broker knows of a death only after that.
 * Steps that touch one shared word at most are one step: what is private between them is not seen.
 */
#ifndef NS
#define NS 2            /* senders */
#endif
#ifndef NM
#define NM 2            /* messages of each sender */
#endif
#ifndef FEWER
#define FEWER 0         /* ... of which the last sender sends so many fewer */
#endif
#ifndef CAP
#define CAP 2           /* slots */
#endif
#ifndef VOIDS
#define VOIDS 0         /* attempts that each sender may turn into a void slot */
#endif
#ifndef BATCH
#define BATCH 1         /* messages that may be claimed at once: 1 or 2 */
#endif
#ifndef KILLS
#define KILLS 1         /* senders that may be killed */
#endif
#define POSITIONS (NS * (NM + VOIDS))
#define BIT(x) (1 << (x))
#define MESSAGE(s, k) ((s) * NM + (k))
#define LAST(s) (s == NS - 1 -> NM - FEWER : NM)

/* A run with REACH=n must fail: it shows that the model gets there. */
#ifdef REACH
#define REACHED(what) assert(REACH != what)
#else
#define REACHED(what) skip
#endif
#define PASSED_OVER 1       /* delivered while an earlier position was unwritten */
#define REREAD_FOUND 2      /* re-reading found an earlier one written meanwhile */
#define BURIED 3
#define REFUSED 4           /* a dead and a living word named the position */
#define BURIAL_REREAD 5     /* nobody living named it, but it had been written */
#define WAITED 6            /* a sender waited for room */
#define WRAPPED 7
#define VOIDED 8
#define BATCHED 9
#define LOST_RACE 10
#define HALF_BATCH 11       /* the second slot of a batch was buried, the first was written */

/* Shared memory. A header holds position + 1, so that 0 is "never written", and the void mark. */
byte tail, head;
byte header[CAP], body[CAP];
bit  is_void[CAP];
byte claim[NS];         /* position + 1, or 0 */
byte claim_n[NS];       /* the count in the same word */
chan buffer[NS] = [3] of { byte, byte };    /* position + 1, or 0 for "clear the claim word" */

/* Private to the receiver: the first unresolved position, and what is resolved after it. */
byte front;
byte resolved;

/* What only the checker knows. */
bit  killed[NS];
bit  over[NS];          /* the sender's program has ended */
bit  news = 1;          /* something was stored since the receiver looked last */
byte owner[POSITIONS];  /* sender + 1 */
byte before[NS * NM];   /* the messages whose send had returned when this one began */
byte returned, delivered, written, buried;

inline make_visible(s) {
    if
    :: p == 0 -> claim[s] = 0; claim_n[s] = 0
    :: else ->
        assert(owner[p - 1] == s + 1);
        assert(p - 1 < front + CAP);
        assert(!(buried & BIT(p - 1)));
        assert(!(written & BIT(p - 1)));
        header[(p - 1) % CAP] = p;
        is_void[(p - 1) % CAP] = mark;
        written = written | BIT(p - 1)
    fi;
    news = 1; p = 0; mark = 0
}

active proctype memory() {
    byte p, mark;
end:
    do
    :: atomic { buffer[0]?p,mark -> make_visible(0) }
    :: atomic { buffer[1]?p,mark -> make_visible(1) }
#if NS > 2
    :: atomic { buffer[2]?p,mark -> make_visible(2) }
#endif
    od
}

active proctype killer() {
    byte kills;
end:
    do
    :: atomic { kills < KILLS && !killed[0] && !over[0] -> killed[0] = 1; kills++; news = 1 }
    :: atomic { kills < KILLS && !killed[1] && !over[1] -> killed[1] = 1; kills++; news = 1 }
#if NS > 2
    :: atomic { kills < KILLS && !killed[2] && !over[2] -> killed[2] = 1; kills++; news = 1 }
#endif
    od
}

/* A sender writes its body before its header, which is a release store, so the body is written here
   at once: nobody looks at it earlier. */
inline write_slot(s, q, message, mark) {
#ifdef HEADER_RELAXED
    buffer[s]!q + 1,mark;
    body[(q) % CAP] = message
#else
    d_step { body[(q) % CAP] = message; buffer[s]!q + 1,mark }
#endif
}

inline end_attempt() {
    d_step {
        if
        :: mark -> mark = 0
        :: else ->
            returned = returned | BIT(MESSAGE(s, k));
            if
            :: n == 2 -> returned = returned | BIT(MESSAGE(s, k) + 1)
            :: else
            fi;
            k = k + n
        fi;
        p = 0; n = 0
    }
}

proctype sender(byte s) {
    byte k, p, known_head, n, voids;
    bit mark;
    {
        do
        :: k == LAST(s) -> break
        :: k < LAST(s) ->
            atomic {
                if
                :: n = 1
                :: voids < VOIDS -> n = 1; mark = 1; voids++
                :: BATCH > 1 && k + 2 <= LAST(s) -> n = 2
                fi;
                /* "Began" is as late as it can be, and "returned" as early: the strongest claim. */
                before[MESSAGE(s, k)] = returned;
                if
                :: n == 2 -> before[MESSAGE(s, k) + 1] = returned | BIT(MESSAGE(s, k))
                :: else
                fi;
attempt:        p = tail
            };
            if
            :: p + n - known_head <= CAP -> skip
            :: atomic { p + n - known_head > CAP && head != known_head -> known_head = head };
                goto attempt
            :: atomic { p + n - known_head > CAP && head == known_head -> REACHED(WAITED) };
                /* Waiting with a claim word that names a position lost to another would keep the
                   broker from burying it, and the head would wait for us. */
#ifndef KEEP_LOST_CLAIM
                if
                :: claim[s] -> d_step { claim[s] = 0; claim_n[s] = 0; news = 1 }
                :: else
                fi;
#endif
                head != known_head;
                goto attempt
            fi;
#ifndef CLAIM_AFTER
            d_step { claim[s] = p + 1; claim_n[s] = n; news = 1 };
#endif
            if
            :: d_step { len(buffer[s]) == 0 && tail == p ->
                tail = p + n;
                owner[p] = s + 1;
                if :: n == 2 -> owner[p + 1] = s + 1 :: else fi }
            :: atomic { tail != p -> REACHED(LOST_RACE) }; goto attempt
            fi;
#ifdef CLAIM_AFTER
            d_step { claim[s] = p + 1; claim_n[s] = n; news = 1 };
#endif
#ifdef CLEAR_RELAXED
            /* The clear may overtake the header. */
            if
            :: d_step { claim[s] = 0; claim_n[s] = 0; news = 1 };
                write_slot(s, p, MESSAGE(s, k), mark)
            :: write_slot(s, p, MESSAGE(s, k), mark);
                d_step { len(buffer[s]) == 0 -> claim[s] = 0; claim_n[s] = 0; news = 1 }
            fi;
            len(buffer[s]) == 0;
#else
            write_slot(s, p, MESSAGE(s, k), mark);
            if
            :: n == 2 -> write_slot(s, p + 1, MESSAGE(s, k) + 1, 0)
            :: else
            fi;
#ifdef CLEAR_RELEASE
            buffer[s]!0,0;
#else
            d_step { len(buffer[s]) == 0 -> claim[s] = 0; claim_n[s] = 0; news = 1 };
#endif
#endif
            end_attempt()
        od
    } unless { killed[s] };
    over[s] = 1
}

#ifdef HEADER_NOT_COMPARED
#define WRITTEN(q) (header[(q) % CAP] != 0)
#else
#define WRITTEN(q) (header[(q) % CAP] == (q) + 1)
#endif
#define UNRESOLVED(q) (!(resolved & BIT(q)))

inline resolve(q) {
    resolved = resolved | BIT(q);
    do
    :: resolved & BIT(front) -> front++
    :: else -> break
    od
}

/* One part of the broker's answer about position q: whether s lives, and then its claim word. That a
   dead one's word is final, and that the owner's word names q from before its compare-and-swap
   until it has written, is all that the answer rests on. */
#define DEAD(s) (killed[s] && len(buffer[s]) == 0)
#define NAMES(s, q) (claim[s] && claim[s] <= (q) + 1 && (q) + 1 < claim[s] + claim_n[s])
inline ask_about(q, s) {
    atomic {
        if
        :: NAMES(s, q) && DEAD(s) -> dead_names = 1
#ifndef LIVING_IGNORED
        :: NAMES(s, q) && !DEAD(s) -> living_names = 1
#endif
        :: else
        fi
    }
}
#ifdef ANY_UNNAMED
/* The simpler rule: no living word names it. Who died does not matter. */
#define BURY (!living_names)
#else
#define BURY (dead_names && !living_names)
#endif
#if NS > 2
#define SOMEBODY_DIED (killed[0] || killed[1] || killed[2])
#else
#define SOMEBODY_DIED (killed[0] || killed[1])
#endif

active proctype receiver() {
    byte q, c;
    bit living_names, dead_names;
look:
    /* In position order; what is unwritten is passed over, whether it is claimed or not. */
    q = front;
    do
    :: atomic { q < front + CAP && q < POSITIONS ->
        if
        :: UNRESOLVED(q) && WRITTEN(q) -> c = q + 1; break
        :: else -> q++
        fi }
    :: atomic { q == front + CAP || q == POSITIONS -> break }
    od;
    if
    :: c ->
#ifndef NO_REREAD
        /* What is found starts the re-reading again. For sends of different threads one ascending pass
           would do, since all that stands before c was claimed before c was seen; but of a batch the
           second message could be found where the first was still unwritten. */
        q = front;
        do
        :: atomic { q < c - 1 ->
            if
            :: UNRESOLVED(q) && WRITTEN(q) ->
                c = q + 1;
#ifndef REREAD_ONCE
                q = front;
#endif
                REACHED(REREAD_FOUND)
            :: else -> q++
            fi }
        :: atomic { q >= c - 1 -> break }
        od;
#endif
        atomic {
            q = c - 1; c = 0;
            if
            :: is_void[q % CAP] -> REACHED(VOIDED)
            :: else ->
                c = body[q % CAP];
                assert(MESSAGE(owner[q] - 1, 0) <= c && c < MESSAGE(owner[q], 0));
                assert(!(delivered & BIT(c)));
                assert(!(before[c] & ~delivered));
                delivered = delivered | BIT(c);
                if :: front < q -> REACHED(PASSED_OVER) :: else fi;
                if :: q >= CAP -> REACHED(WRAPPED) :: else fi;
                if :: c % 2 && claim_n[owner[q] - 1] == 2 -> REACHED(BATCHED) :: else fi
            fi;
            resolve(q);
            q = 0; c = 0
        };
        if
        :: head = front
        :: skip
        fi;
        goto look
    :: else
    fi;

    /* Nothing is written. Ask the broker about what is claimed, if somebody died. */
    q = front;
    do
    :: q < tail && SOMEBODY_DIED ->
        if
        :: UNRESOLVED(q) ->
            ask_about(q, 0);
            ask_about(q, 1);
#if NS > 2
            ask_about(q, 2);
#endif
            atomic {
                if :: dead_names && living_names -> REACHED(REFUSED) :: else fi;
                if
                :: BURY -> dead_names = 0; living_names = 0
                :: else -> dead_names = 0; living_names = 0; q++; goto next
                fi
            };
            atomic {
#ifndef NO_REREAD_BURIAL
                if
                :: WRITTEN(q) -> REACHED(BURIAL_REREAD); q = 0; goto look
                :: else
                fi;
#endif
                assert(!(written & BIT(q)));
                buried = buried | BIT(q);
                REACHED(BURIED);
                if
                :: claim_n[owner[q] - 1] == 2 && q > 0 && (written & BIT(q - 1)) &&
                   owner[q - 1] == owner[q] -> REACHED(HALF_BATCH)
                :: else
                fi;
                resolve(q);
                q = 0
            };
            goto look
        :: else -> q++
        fi;
next:   skip
    :: else -> break
    od;
    q = 0;
    /* The head is published before idling, or a sender would wait for ever. */
    if
    :: head != front -> head = front
    :: else
    fi;
end:
    atomic { news -> news = 0; goto look }
}

/* When nothing can move any more. */
active proctype monitor() {
    byte i;
end:
    atomic {
        timeout ->
        do
        :: i < NS -> assert(over[i]); i++
        :: else -> break
        od;
        assert(front == tail);
        assert(!(returned & ~delivered));
        assert(!(written & ~resolved))
    }
}

init {
    atomic { run sender(0); run sender(1);
#if NS > 2
        run sender(2);
#endif
    }
}
