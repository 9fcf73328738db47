/*
 * doorbell.pml - sleeping: a receiver that parks on several rings, and senders that wait for room.
 *
 * Checked, when nothing can move any more: no written message is left whose sender returned or died,
 * and no living sender waits for room. So nobody sleeps while there is something to do and nobody
 * left who would wake it - also if a sender was killed between any two steps (then the broker wakes
 * all), or stopped for ever with nothing claimed and unwritten (then nobody wakes anybody for it, and
 * the others' messages must be delivered all the same).
 *
 * NOTE - no wait has a time limit here: the limits of the implementation are a second line. Not
 * here: claim words; what a dead sender had claimed is resolved at once when the receiver looks.
 * A sender waiting for room behind a stopped one is not covered: only a time limit helps it.
 *
 * Memory: the four pairs in which each side stores and then looks at what the other stores (Dekker)
 * have store buffers: parked against header, head against waiters. A futex sleeps only if its word
 * still has the value that was read before; that check and falling asleep are one step.
 *
 * To keep the states few, a doorbell is not a counter but "has rung since the receiver read it", and a
 * new park number is the smallest that no sender still has in hand.
 */
#ifndef NS
#define NS 2                /* senders; sender s sends into ring s mod RINGS */
#endif
#ifndef NM
#define NM 2                /* messages of each */
#endif
#ifndef FEWER
#define FEWER 0             /* messages that the last sender sends less */
#endif
#ifndef RINGS
#define RINGS 2
#endif
#ifndef CAP
#define CAP 1               /* slots of a ring: 1 or 2 */
#endif
#ifndef KILLS
#define KILLS 0             /* senders that may be killed */
#endif
#ifndef STOPS
#define STOPS 0             /* senders that may be stopped for ever */
#endif
#define BIT(x) (1 << (x))
#define RING(s) ((s) % RINGS)
#define LAST(s) (s == NS - 1 -> NM - FEWER : NM)

#ifdef REACH
#define REACHED(what) assert(REACH != what)
#else
#define REACHED(what) skip
#endif
#define SLEPT 1             /* parked, slept, and was woken by a ring */
#define SECOND_LOOK 2       /* found something */
#define BELL_CHANGED 3      /* did not fall asleep, because the doorbell had rung */
#define STALE_NUMBER 4      /* a sender's compare-and-swap met another park number */
#define WAITER_SLEPT 5      /* for room, and was woken */
#define WAITER_LOOKED 6     /* and had no need to sleep */
#define DEATH_WOKE 7
#define TWO_RANG 8          /* for the same park number */

/* Shared memory. */
byte tail[RINGS], head[RINGS], parked[RINGS];
bit  bell[RINGS];           /* has rung since the receiver read it */
bit  waiters[RINGS];
byte header[RINGS * CAP];
bit  room_changed[NS];      /* the room count has moved since this sender read it */

/* Store buffers. */
bit  header_stored[NS];
byte header_position[NS];   /* position + 1, claimed, until the header is visible */
bit  waiters_stored[NS];
bit  park_stored[RINGS];
byte park_value[RINGS];
bit  head_stored[RINGS];

/* Private to the receiver. */
byte front[RINGS];
bit  ahead[RINGS];          /* the slot behind the front is consumed, the one in front not yet */

/* The kernel, and what only the checker knows. */
bit  asleep, sleeping[NS];
bit  killed[NS], stopped[NS], over[NS];
bit  death_to_tell;
byte returned[RINGS], delivered[RINGS];
byte n[NS];                 /* the park number that a sender has in hand */
#ifdef REACH
byte rang[RINGS];
#endif

#define SLOT(r, q) header[(r) * CAP + (q) % CAP]
#define WRITTEN(r, q) (SLOT(r, q) == (q) + 1)
#define EMPTY(s) (!header_stored[s] && !waiters_stored[s])

#define SENDER_STORES(s) \
    :: d_step { header_stored[s] -> header_stored[s] = 0; \
        SLOT(RING(s), header_position[s] - 1) = header_position[s]; header_position[s] = 0 } \
    :: d_step { waiters_stored[s] -> waiters_stored[s] = 0; waiters[RING(s)] = 1 }
#define RECEIVER_STORES(r) \
    :: d_step { park_stored[r] -> park_stored[r] = 0; parked[r] = park_value[r] } \
    :: d_step { head_stored[r] -> head_stored[r] = 0; head[r] = front[r] }
active proctype memory() {
end:
    do
    SENDER_STORES(0)
    SENDER_STORES(1)
#if NS > 2
    SENDER_STORES(2)
#endif
    RECEIVER_STORES(0)
#if RINGS > 1
    RECEIVER_STORES(1)
#endif
    od
}

#define KILL(s) \
    :: d_step { kills < KILLS && !killed[s] && !stopped[s] && !over[s] -> \
        killed[s] = 1; kills++; sleeping[s] = 0; death_to_tell = 1 }
#define STOP(s) \
    :: d_step { stops < STOPS && !killed[s] && !stopped[s] && !over[s] && !header_position[s] -> \
        stopped[s] = 1; stops++ }
#define GONE(s) (!killed[s] || EMPTY(s))
active proctype broker() {
    byte kills, stops;
end:
    do
    KILL(0) KILL(1)
    STOP(0) STOP(1)
#if NS > 2
    KILL(2) STOP(2)
#endif
#ifndef NO_DEATH_WAKE
    :: atomic { death_to_tell && GONE(0) && GONE(1) && GONE(NS - 1) ->
        death_to_tell = 0;
        bell[0] = 1;
#if RINGS > 1
        bell[1] = 1;
#endif
        if :: asleep -> asleep = 0; REACHED(DEATH_WOKE) :: else fi }
#endif
    od
}

inline wake() {
    atomic { if :: asleep -> asleep = 0; REACHED(SLEPT) :: else fi }
}

inline ring(s) {
    n[s] = parked[RING(s)];
    if
    :: n[s] ->
#ifdef CLEAR_THEN_RING
        d_step { if :: parked[RING(s)] == n[s] -> parked[RING(s)] = 0 :: else fi };
#endif
        atomic {
            bell[RING(s)] = 1;
#ifdef REACH
            if :: rang[RING(s)] == n[s] -> REACHED(TWO_RANG) :: else fi;
            rang[RING(s)] = n[s]
#endif
        };
        wake();
#ifndef CLEAR_THEN_RING
        atomic {
#ifdef FLAG_NOT_NUMBER
            parked[RING(s)] = 0;
#else
            if
            :: parked[RING(s)] == n[s] -> parked[RING(s)] = 0
            :: parked[RING(s)] != n[s] && parked[RING(s)] != 0 -> REACHED(STALE_NUMBER)
            :: else
            fi;
#endif
            n[s] = 0
        }
#else
        n[s] = 0
#endif
    :: else
    fi
}

#ifdef SLEEP_ON_HEAD
#define ROOM_UNCHANGED(s) (head[RING(s)] == known_head)
#else
#define ROOM_UNCHANGED(s) (!room_changed[s])
#endif

proctype sender(byte s) {
    byte k, known_head;
    {
        do
        :: k == LAST(s) -> break
        :: k < LAST(s) ->
attempt:
            if
            :: d_step { tail[RING(s)] - known_head < CAP ->
                header_position[s] = tail[RING(s)] + 1; tail[RING(s)]++ }
            :: atomic { tail[RING(s)] - known_head >= CAP && head[RING(s)] != known_head ->
                known_head = head[RING(s)]; goto attempt }
            :: tail[RING(s)] - known_head >= CAP && head[RING(s)] == known_head ->
#ifndef ROOM_READ_LATE
                room_changed[s] = 0;
#endif
                waiters_stored[s] = 1;
#ifndef NO_BARRIER_WAITER
                EMPTY(s);
#endif
#ifdef ROOM_READ_LATE
                if :: head[RING(s)] != known_head -> goto attempt :: else fi;
                room_changed[s] = 0;
#endif
                if
                :: atomic { head[RING(s)] != known_head -> REACHED(WAITER_LOOKED) }
                :: head[RING(s)] == known_head ->
                    if
                    :: d_step { ROOM_UNCHANGED(s) -> sleeping[s] = 1 };
                        atomic { !sleeping[s] -> REACHED(WAITER_SLEPT) }
                    :: !ROOM_UNCHANGED(s)
                    fi
                fi;
                goto attempt
            fi;
            header_stored[s] = 1;
#ifndef NO_BARRIER_SENDER
            EMPTY(s);
#endif
            ring(s);
            d_step { EMPTY(s) -> k++; returned[RING(s)]++ }
        od
    } unless { killed[s] || stopped[s] };
    atomic { over[s] = 1; n[s] = 0 }
}

/* Publishes the head of ring r, and wakes who waits for it. That waiters is cleared before the count
   moves lets nobody be struck out who read the new count. */
inline publish(r) {
    head_stored[r] = 1;
#ifndef NO_BARRIER_HEAD
    !head_stored[r];
#endif
    if
    :: waiters[r] ->
#ifdef CLEARED_AFTER_COUNT
        count_room(r);
        waiters[r] = 0;
#else
        waiters[r] = 0;
        count_room(r);
#endif
        wake_waiters(r)
    :: else
    fi;
    !head_stored[r]
}
inline count_room(r) {
    d_step {
        if :: RING(0) == r -> room_changed[0] = 1 :: else fi;
        if :: RING(1) == r -> room_changed[1] = 1 :: else fi;
        if :: RING(NS - 1) == r -> room_changed[NS - 1] = 1 :: else fi
    }
}
inline wake_waiters(r) {
#ifdef WAKE_ONE
    if
    :: atomic { sleeping[0] && RING(0) == r -> sleeping[0] = 0 }
    :: atomic { sleeping[1] && RING(1) == r -> sleeping[1] = 0 }
    :: atomic { sleeping[NS - 1] && RING(NS - 1) == r -> sleeping[NS - 1] = 0 }
    :: else
    fi
#else
    d_step {
        if :: RING(0) == r -> sleeping[0] = 0 :: else fi;
        if :: RING(1) == r -> sleeping[1] = 0 :: else fi;
        if :: RING(NS - 1) == r -> sleeping[NS - 1] = 0 :: else fi
    }
#endif
}

/* One slot that is written, or that a dead sender had claimed and never will write. Slots do not wait
   for each other, but the head moves in order. */
#define DEAD_CLAIM(s, r) (killed[s] && !header_stored[s] && RING(s) == r && \
    header_position[s] == front[r] + 1)
#if NS > 2
#define ANY_DEAD_CLAIM(r) (DEAD_CLAIM(0, r) || DEAD_CLAIM(1, r) || DEAD_CLAIM(2, r))
#else
#define ANY_DEAD_CLAIM(r) (DEAD_CLAIM(0, r) || DEAD_CLAIM(1, r))
#endif
#if CAP > 1
#define CAN_AHEAD(r) (!ahead[r] && WRITTEN(r, front[r] + 1))
#else
#define CAN_AHEAD(r) false
#endif
#define CAN_FRONT(r) (WRITTEN(r, front[r]) || ANY_DEAD_CLAIM(r))
#ifdef SECOND_LOOK_AT_FRONT
#define CAN(r) CAN_FRONT(r)
#else
#define CAN(r) (CAN_FRONT(r) || CAN_AHEAD(r))
#endif
inline consume(r) {
    if
    :: CAN_FRONT(r) ->
        if :: WRITTEN(r, front[r]) -> delivered[r]++ :: else fi;
        front[r] = front[r] + 1 + ahead[r];
        ahead[r] = 0
    :: !CAN_FRONT(r) && CAN_AHEAD(r) -> delivered[r]++; ahead[r] = 1
    fi
}

#if RINGS > 1
#define SILENT (!bell[0] && !bell[1])
#else
#define SILENT (!bell[0])
#endif
proctype receiver() {
    byte number;
look:
    do
    :: atomic { CAN_FRONT(0) || CAN_AHEAD(0) -> consume(0) };
        if :: publish(0) :: skip fi
#if RINGS > 1
    :: atomic { CAN_FRONT(1) || CAN_AHEAD(1) -> consume(1) };
        if :: publish(1) :: skip fi
#endif
    :: else -> break
    od;
    /* Park. The head is published first, or senders would wait for one who sleeps. */
#ifndef HEAD_NOT_PUBLISHED
    if :: head[0] != front[0] -> publish(0) :: else fi;
#if RINGS > 1
    if :: head[1] != front[1] -> publish(1) :: else fi;
#endif
#endif
#ifndef BELL_READ_LATE
    atomic { bell[0] = 0;
#if RINGS > 1
        bell[1] = 0
#endif
    };
#endif
#ifdef FLAG_NOT_NUMBER
    number = 1;
#else
    atomic {
        number = 1;
        do
        :: number == n[0] || number == n[1] || number == n[NS - 1] || number == parked[0] ||
           number == parked[RINGS - 1] -> number++
        :: else -> break
        od
    };
#endif
    d_step { park_value[0] = number; park_stored[0] = 1;
#if RINGS > 1
        park_value[1] = number; park_stored[1] = 1
#endif
    };
#ifndef NO_BARRIER_PARK
    !park_stored[0];
#if RINGS > 1
    !park_stored[1];
#endif
#endif
#ifndef NO_SECOND_LOOK
    if :: atomic { CAN(0) -> REACHED(SECOND_LOOK) }; goto up :: !CAN(0) fi;
#if RINGS > 1
    if :: atomic { CAN(1) -> REACHED(SECOND_LOOK) }; goto up :: !CAN(1) fi;
#endif
#endif
#ifdef BELL_READ_LATE
    d_step { bell[0] = 0;
#if RINGS > 1
        bell[1] = 0
#endif
    };
#endif
    if
    :: d_step { SILENT -> asleep = 1 };
end:    !asleep
    :: atomic { !(SILENT) -> REACHED(BELL_CHANGED) }
    fi;
up:
    atomic { park_value[0] = 0; park_stored[0] = 1;
#if RINGS > 1
        park_value[1] = 0; park_stored[1] = 1;
#endif
        number = 0
    };
    goto look
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
        assert(delivered[0] >= returned[0]);
#if RINGS > 1
        assert(delivered[1] >= returned[1]);
#endif
        /* A stopped sender may leave a message for which nobody rings: it has not returned. */
        assert(STOPS || front[0] == tail[0]);
#if RINGS > 1
        assert(STOPS || front[1] == tail[1]);
#endif
    }
}

init {
    atomic { run receiver(); run sender(0); run sender(1);
#if NS > 2
        run sender(2);
#endif
    }
}
