/*
 * A clock that goes back (Sources/CShmRing/clock.c): the machine was suspended, or restored somewhere else. Its counter is
 * read by everybody; the broker has written down, not long ago, what it read (floor) and when by the kernel's clock, which
 * never goes back. Who reads less than the floor computes the time from the kernel's clock, at most twice too fast here, until
 * the broker has noticed and written an offset.
 *
 * Asserts that a reading is larger than every one that had ended before it began: all that the order needs of a clock.
 *
 * Good: nothing defined. Must fail: NO_FLOOR; OFFSET_AFTER, loaded behind the counter; NO_RECHECK of the epoch; NO_GAP between
 * what is computed and what the offset goes on with, for what passes until it is written.
 */
#ifndef READERS
#define READERS 2
#endif
#ifndef READINGS
#define READINGS 1
#endif
#ifdef NO_GAP
#define GAP 0
#else
#define GAP 6
#endif
#define BACK 20 /* the jump: to below what was ever read */
#define START 20

byte now = START;  /* true time; each look at a clock takes a tick of it */
byte back;         /* by how much the counter is behind, from the jump on */
bool jumped;
byte greatest;     /* of the readings that have ended */
byte ended;

byte epoch;
byte offset, floor = START; /* what the fast way reads */
byte set_offset[2], set_floor[2], set_at[2];

bool was_slow, was_repaired;

#define COUNTER (now - back)

inline tick() { now++ }

proctype reader()
{
    byte i, before, o, f, raw, stamp, e;
    do
    :: i == READINGS -> break
    :: i < READINGS ->
        i++;
        before = greatest;
#ifndef OFFSET_AFTER
        o = offset;
#endif
        atomic { tick(); raw = COUNTER }
#ifdef OFFSET_AFTER
        o = offset;
#endif
        f = floor;
        stamp = raw + o;
#ifndef NO_FLOOR
        do
        :: stamp >= f -> break
        :: else ->
            was_slow = true;
            e = epoch;
            atomic { o = set_offset[e & 1]; f = set_floor[e & 1] }
            atomic { tick(); stamp = COUNTER + o }
            if
            :: stamp >= f
            /* By the kernel's clock. */
            :: else -> atomic { tick(); stamp = f + 2 * (now - set_at[e & 1]) }
            fi;
#ifdef NO_RECHECK
            break
#else
            if
            :: epoch == e -> break
            :: else -> f = 255; stamp = 0 /* once more */
            fi
#endif
        od;
#endif
        atomic {
            assert(stamp > before);
            if
            :: stamp > greatest -> greatest = stamp
            :: else
            fi
        }
    od;
    ended++
}

/* Tends the clock: raises the floor, or repairs what it finds broken. */
proctype broker()
{
    byte i, raw, at, e, o, f;
    do
    :: i == 2 -> break
    :: i < 2 ->
        i++;
        e = epoch;
        atomic { at = now; raw = COUNTER + offset }
        if
        :: raw >= floor -> o = offset; f = raw
        :: else ->
            was_repaired = true;
            f = set_floor[e & 1] + 2 * (at - set_at[e & 1]) + 1 + GAP;
            o = f - (at - back)
        fi;
        /* One set is read while the other is written. */
        atomic { set_offset[(e + 1) & 1] = o; set_floor[(e + 1) & 1] = f; set_at[(e + 1) & 1] = at }
        epoch = e + 1;
        offset = o;
        floor = f
    od;
    ended++
}

/* Everybody stands still while it happens, at any step. */
proctype machine()
{
    atomic { back = BACK; jumped = true };
    ended++
}

init
{
    byte i;
    atomic {
        set_floor[0] = START; set_at[0] = START;
        do
        :: i < READERS -> run reader(); i++
        :: else -> break
        od;
        run broker();
        run machine();
    }
    ended == READERS + 2;
#if REACH == 1
    assert(REACH != 1 || !was_slow);
#elif REACH == 2
    assert(REACH != 2 || !was_repaired);
#endif
}
