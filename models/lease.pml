/*
 * lease.pml - a commit word whose sender stands still: receivers ask, the broker counts and aborts, the
 * sender begins again. One sender with one commit word, two receivers, each with a ring of its own.
 *
 * Checked:
 *   1. a transaction is delivered to both receivers, and once, however often it was aborted and
 *      begun again, and wherever its sender was stopped meanwhile;
 *   2. while the sender stands still nobody waits for ever;
 *   3. what is aborted is the try that the broker had seen when its lease began, never a younger one.
 *
 * NOTE - not here: memory order, stamps and what else stands in the rings (multicast.pml). The commit
 * word is one word: state and generation are read, compared and swapped as one. A stamp bears no
 * generation.
 */
#ifndef NT
#define NT 2                /* transactions */
#endif
#ifndef ABORTS
#define ABORTS 2            /* of a sender that does not stand still, in all */
#endif
#ifndef STOPS
#define STOPS 1
#endif
#define P (NT + ABORTS + STOPS) /* tries, and positions of a ring */
#define BIT(x) (1 << (x))

#ifdef REACH
#define REACHED(what) assert(REACH != what)
#else
#define REACHED(what) skip
#endif
#define BEGUN_AGAIN 1
#define COMMITTED_FIRST 2   /* when the lease was over, the word was final */
#define WAITED 3            /* a receiver, for a sender that stood still */
#define WRITTEN_LATE 4      /* a slot of a try that had been aborted before it was written */
#define LEASE_PASSED_ON 5   /* a younger try of the same word was pending by then */

#define FREE 0
#define PENDING 1
#define ABORTED 2
#define COMMITTED 3

byte state, generation;
byte slot[2 * P];           /* generation, 0 is unwritten */
byte what[2 * P];           /* transaction */
byte front[2];
bit  waits[2];
byte asked;                 /* a generation, 0 for none */
bit  stopped;
byte stops;

/* What only the checker knows. */
byte try;
byte delivered[2];
bit  over;

/* Somebody waits for a word that is pending in this generation; with NAG, for whatever there is. */
#ifdef NAG
#define ASKED (state == PENDING)
#else
#define ASKED (asked && state == PENDING && generation == asked)
#endif

active proctype broker() {
    byte seen, seen_try, aborts;
end:
    do
    :: atomic { ASKED && (aborts < ABORTS || stopped) ->
        seen = generation; seen_try = try; asked = 0 };
#ifndef NO_LEASE
        /* The lease is over: some time, or none, has passed. */
        atomic {
            if
            :: state != PENDING -> REACHED(COMMITTED_FIRST)
            :: state == PENDING && generation != seen -> REACHED(LEASE_PASSED_ON)
            :: else
            fi;
            if
#ifdef ABORT_STORED
            :: true ->
#else
#ifdef GENERATION_NOT_COMPARED
            :: state == PENDING ->
#else
            :: state == PENDING && generation == seen ->
#endif
#endif
                assert(state != PENDING || try == seen_try);
                if :: !stopped -> aborts++ :: else fi;
                state = ABORTED
#ifndef ABORT_STORED
            :: else
#endif
            fi;
            seen = 0; seen_try = 0
        }
#endif
    od
}

active proctype sender() {
    byte k, own, position;
    do
    :: k == NT -> break
    :: k < NT ->
again:
#ifndef REUSED_EARLY
        /* The word serves another try when both have dealt with the slots of the one before. */
        atomic { !stopped && front[0] >= position && front[1] >= position };
#endif
        atomic { !stopped ->
#ifdef GENERATION_REUSED
            if :: generation == 0 -> generation = 1 :: else fi;
#else
            generation++;
#endif
            own = generation; state = PENDING; try++; position++ };
        atomic { !stopped ->
            if :: state != PENDING -> REACHED(WRITTEN_LATE) :: else fi;
            slot[position - 1] = own; what[position - 1] = k };
        atomic { !stopped -> slot[P + position - 1] = own; what[P + position - 1] = k };
        atomic { !stopped ->
            if
#ifdef COMMIT_STORED
            :: true ->
#else
            :: state == PENDING && generation == own ->
#endif
                state = COMMITTED; k++
#ifndef COMMIT_STORED
            :: else -> REACHED(BEGUN_AGAIN); goto again
#endif
            fi }
    od;
    over = 1
}

proctype receiver(byte r) {
    byte g;
end:
    do
    :: atomic { front[r] < P && slot[r * P + front[r]] -> g = slot[r * P + front[r]] };
again:
        atomic {
            if
            :: state == PENDING && generation == g ->
                asked = g; waits[r] = 1;
                if :: stopped -> REACHED(WAITED) :: else fi;
                !(state == PENDING && generation == g);
                waits[r] = 0; goto again
            :: state == COMMITTED ->
                assert(!(delivered[r] & BIT(what[r * P + front[r]])));
                delivered[r] = delivered[r] | BIT(what[r * P + front[r]])
            :: else
            fi;
            front[r]++; g = 0
        }
    od
}

/* At any moment, and until nothing else can move. */
active proctype stopper() {
end:
    do
    :: atomic { !stopped && stops < STOPS && !over -> stopped = 1; stops++ }
    od
}

active proctype monitor() {
end:
    do
    :: atomic { timeout ->
        assert(!waits[0] && !waits[1]);
        if
        :: stopped -> stopped = 0
        :: else ->
            assert(over);
            assert(delivered[0] == BIT(NT) - 1 && delivered[1] == BIT(NT) - 1);
            break
        fi }
    od
}

init {
    atomic { run receiver(0); run receiver(1) }
}
