/*
 * biased.pml - the lock that leans to one thread: threads come in, by their place if the lock leans
 * to them, else by the lock beside it.
 *
 * Checked: nobody is inside with another one; everybody gets in and out as often as it wants to.
 *
 * Memory: what a thread stores in its gate has a store buffer, which the kernel's barrier empties.
 * The words that change under the lock beside it are stored before such a barrier or after all else.
 *
 * When it leans to whom is left open here: whoever has stopped the others may have it lean to
 * itself, or to nobody from then on.
 */
#ifndef NT
#define NT 3                /* threads */
#endif
#ifndef VISITS
#define VISITS 2            /* of each */
#endif
#define PLACES 2

#ifdef REACH
#define REACHED(what) assert(REACH != what)
#else
#define REACHED(what) skip
#endif
#define SHORT_WAY 1
#define TURNED_BACK 2       /* at its gate already */
#define WAITED 3            /* for one who was inside by its place */
#define LEANS_ANEW 4
#define LEANS_TO_NOBODY 5

/* Shared memory. */
byte open;                  /* the place of who may go in; 0: nobody */
byte place_count;
byte thread_of[PLACES + 1];
bit  beside;                /* taken */
bit  to_nobody;

bit  gate[PLACES + 1];      /* as others see it: somebody is behind it */
bit  stored[PLACES + 1];    /* as its own thread has it */

/* Only the checker knows. */
byte inside, over;

active proctype memory() {
end:
    do
    :: d_step { gate[1] != stored[1] -> gate[1] = stored[1] }
    :: d_step { gate[2] != stored[2] -> gate[2] = stored[2] }
    od
}

inline be_inside() {
    inside++;
    assert(inside == 1);
    inside--
}

proctype visitor(byte self) {
    byte visits, o, last;
    do
    :: visits == VISITS -> break
    :: else ->
        o = open;
        if
        :: o && thread_of[o] == self ->
            stored[o] = 1;
            if
#ifdef NO_SECOND_LOOK
            :: true ->
#else
            :: open == o ->
#endif
                be_inside();
                REACHED(SHORT_WAY);
                stored[o] = 0;
                goto out
#ifndef NO_SECOND_LOOK
            :: else ->
                REACHED(TURNED_BACK);
                stored[o] = 0
#endif
            fi
        :: else
        fi;
        atomic { !beside -> beside = 1 };
        if
        :: to_nobody
        :: !to_nobody && place_count == 0 -> d_step { place_count = 1; thread_of[1] = self }
        :: !to_nobody && place_count && thread_of[place_count] == self
        :: else ->
            last = place_count;
            open = 0;
#ifndef NO_BARRIER
            d_step { gate[1] = stored[1]; gate[2] = stored[2] };
#endif
#ifndef NOT_WAITED
            if :: gate[last] -> REACHED(WAITED) :: else fi;
            gate[last] == 0;
#endif
            if
            :: true
#ifdef ONE_PLACE
            :: thread_of[last] = self; REACHED(LEANS_ANEW)
#else
            :: place_count < PLACES ->
                d_step { place_count++; thread_of[place_count] = self }; REACHED(LEANS_ANEW)
#endif
            :: to_nobody = 1; REACHED(LEANS_TO_NOBODY)
            fi
        fi;
        be_inside();
        if
        :: !to_nobody -> open = place_count
        :: else
        fi;
        beside = 0;
out:    visits++
    od;
    over++
}

init {
    byte i;
    atomic {
        i = 1;
        do
        :: i <= NT -> run visitor(i); i++
        :: else -> break
        od
    };
    over == NT
}
