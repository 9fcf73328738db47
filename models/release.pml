/*
 * release.pml - a node's release: a word in its owner's outbox, a flag in each holder's ring, a notice
 * that takes its place in the order of messages.
 *
 * Without HANDOVER both receivers hold a handle, and a sender sends them multicasts and unicasts
 * meanwhile. With HANDOVER the only transaction passes a handle to receiver 0; its other destination
 * is the owner's own ring, in which the owner looks for holders that it does not know yet.
 *
 * With LOOKUP receiver 0 is given a handle by the broker meanwhile, which counts that in the owner's
 * outbox before it tells the new holder. The owner reads of it when it likes: if it finds one counted
 * of whom it has not read, it has the broker set the flag. What was released before something that the
 * receiver has delivered is no handle.
 *
 * Checked:
 *   1. messages and the notice have one order that both receivers see and that agrees with real time
 *      (no cycle, as in multicast.pml);
 *   2. every holder is told of a committed release, once; nobody of an aborted one;
 *   3. nobody waits for ever, also if the owner or the sender is killed between any two steps.
 *
 * With ABORTS the living owner's release is aborted, too, and it begins again: words back to nothing,
 * another generation, holders looked for and flags set anew.
 *
 * NOTE - not here: deaths as obituaries (obituary.pml), a commit word used again for something else,
 * several releases or several words of one release, several rings at one receiver. There is one
 * sender, so its messages stand in each ring in the order in which it sent them.
 *
 * Memory: headers, the release word and the flags become visible late and in any order, until the
 * barrier of who stored them. The clock is that of multicast.pml.
 */
#ifndef NT
#define NT 2                /* transactions of the sender */
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef ABORTS
#define ABORTS 0            /* of the release of a living owner */
#endif
#ifdef HANDOVER
#define SCRIPTED(x) MULTI
#else
#ifndef SCRIPT
#define SCRIPT 0            /* destinations of each transaction, two bits for each; 0 leaves it open */
#endif
#define SCRIPTED(x) ((SCRIPT >> (2 * (x))) & 3)
#endif
#define N (NT + 1)
#define RELEASE NT          /* the number of the release among the transactions */
#define BIT(x) (1 << (x))
#define NOTHING 255

#ifdef REACH
#define REACHED(what) assert(REACH != what)
#else
#define REACHED(what) skip
#endif
#define TOLD 1
#define TOLD_FIRST 2        /* the notice went before a message that had been read before it */
#define MESSAGE_FIRST 3     /* the look of a notice found a message of a lower stamp */
#define UNICAST_LOOKED 4    /* a unicast found the flag or a notice in hand */
#define UNICAST_HELD 5      /* ... that was pending */
#define HOLDER_FOUND 6      /* the owner found a hand-over, still pending */
#define NO_HOLDER 7         /* it found none, and the new holder read the word itself */
#define INVALID 8           /* the handle was received after the release */
#define RELEASE_ABORTED 9   /* and a holder had seen it pending */
#define BEGUN_AGAIN 10      /* and a holder was told */
#define FOUND_AGAIN 11      /* a holder was found only when the release was begun again */
#define NOT_WAITED_FOR 12   /* begun again while a look waited for the aborted one */
#define BROKER_ASKED 13     /* a newcomer was counted and not read of */
#define READ_OF 14          /* the owner had read of it, and flags it itself */
#define FOUND_ITSELF 15     /* not counted yet: it finds the release when it is given the handle */
#define OVER 16             /* it is given none: what was released before something it has received */

#define PENDING 1
#define ABORTED 2
#define COMMITTED 3         /* + stamp */
#define MULTI 3

/* Shared memory. */
byte tail[2];
byte slot[2 * NT];          /* transaction + 1, 0 is unwritten */
byte stamp_of[NT];          /* in the slot of a unicast */
byte word[N];               /* commit words, one for each transaction */
byte points;                /* the release word: 0, or the generation of the release's commit word */
byte generation;            /* of that commit word */
bit  flag[2];
byte clock = 1;
bit  clock_was_read;

/* Store buffers. */
bit  stored[2];
byte position[2];
byte storing;
bit  points_stored, flag_stored[2];
byte points_storing;

byte front[2];

/* What only the checker knows. */
bit  sender_killed, owner_killed, sender_over, owner_over;
byte destinations[N];
byte earlier[N], returned, committed, delivered[2];
byte told[2];
bit  new_holder;            /* the owner has found one */
#ifdef LOOKUP
bit  counted, given, listed;    /* in the owner's outbox; told to the holder; read by the owner */
bit  refused;                   /* released before it was given */

active proctype giver() {
    counted = 1;
    given = 1
}

/* The owner's receiving thread. The lock keeps it out of a release under way. */
active proctype reader() {
    atomic {
        counted && word[RELEASE] != PENDING ->
        listed = 1;
        /* Too late for its place, but told. */
        if :: word[RELEASE] >= COMMITTED -> flag[0] = 1 :: else fi
    }
}
#endif

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

#define VISIBLE(r) d_step { stored[r] -> stored[r] = 0; slot[r * NT + position[r]] = storing }
#define SENDER_QUIET (!stored[0] && !stored[1])
#define OWNER_QUIET (!points_stored && !flag_stored[0] && !flag_stored[1])
active proctype memory() {
end:
    do
    :: VISIBLE(0)
    :: VISIBLE(1)
    :: d_step { sender_killed && stored[0] -> stored[0] = 0 }   /* killed before it stored it */
    :: d_step { sender_killed && stored[1] -> stored[1] = 0 }
    :: d_step { points_stored -> points_stored = 0; points = points_storing }
    :: d_step { flag_stored[0] -> flag_stored[0] = 0; flag[0] = 1 }
    :: d_step { flag_stored[1] -> flag_stored[1] = 0; flag[1] = 1 }
    :: d_step { owner_killed && flag_stored[0] -> flag_stored[0] = 0 }
    :: d_step { owner_killed && flag_stored[1] -> flag_stored[1] = 0 }
    :: d_step { clock_was_read -> clock++; clock_was_read = 0 }
    od
}

#define ABORT_OF_DEAD(x) d_step { word[x] == PENDING && sender_killed && SENDER_QUIET -> \
    word[x] = ABORTED }
active proctype broker() {
    byte kills, aborts;
end:
    do
    :: d_step { aborts < ABORTS && word[RELEASE] == PENDING -> word[RELEASE] = ABORTED; aborts++ }
    :: d_step { kills < KILLS && !sender_killed && !sender_over -> sender_killed = 1; kills++ }
    :: d_step { kills < KILLS && !owner_killed && !owner_over -> owner_killed = 1; kills++ }
    :: d_step { word[RELEASE] == PENDING && owner_killed && OWNER_QUIET -> word[RELEASE] = ABORTED }
    :: ABORT_OF_DEAD(0)
#if NT > 1
    :: ABORT_OF_DEAD(1)
#endif
#if NT > 2
    :: ABORT_OF_DEAD(2)
#endif
    od
}

active proctype sender() {
    byte x, stamp, set, j;
    {
        do
        :: x == NT -> break
        :: x < NT ->
            atomic {
                if
                :: SCRIPTED(x) -> destinations[x] = SCRIPTED(x)
                :: !SCRIPTED(x) -> destinations[x] = MULTI
                :: !SCRIPTED(x) -> destinations[x] = 1
                :: !SCRIPTED(x) -> destinations[x] = 2
                fi;
                order(returned, x);
                storing = x + 1;
                if
                :: destinations[x] & 1 -> position[0] = tail[0]; tail[0]++
                :: else
                fi
            };
            d_step {
                if
                :: destinations[x] & 2 -> position[1] = tail[1]; tail[1]++
                :: else
                fi
            };
            if
            :: destinations[x] == MULTI ->
                d_step { word[x] = PENDING; stored[0] = 1; stored[1] = 1 };
                d_step { SENDER_QUIET -> stamp = clock; clock_was_read = 1 };
                d_step {
                    clock > stamp && word[x] == PENDING ->
                    word[x] = COMMITTED + stamp;
                    committed = committed | BIT(x);
                    returned = returned | BIT(x)
                }
            :: else ->
                d_step { stamp = clock; clock_was_read = 1 };
                d_step {
                    clock > stamp ->
                    stamp_of[x] = stamp;
                    stored[destinations[x] - 1] = 1
                };
                d_step { SENDER_QUIET -> returned = returned | BIT(x) }
            fi;
            atomic { stamp = 0; x++ }
        od
    } unless { sender_killed };
    sender_over = 1
}

/* The hand-over in the owner's own ring, if it is written: pending ones count, too. */
#ifdef ONLY_COMMITTED_COUNT
#define HANDED_OVER (slot[NT] && word[0] >= COMMITTED)
#else
#define HANDED_OVER (slot[NT] != 0)
#endif
inline look_for_holders() {
    skip;
#ifdef HANDOVER
    atomic {
        if
        :: HANDED_OVER ->
            if :: word[0] == PENDING -> REACHED(HOLDER_FOUND) :: else fi;
            if :: again && !new_holder -> REACHED(FOUND_AGAIN) :: else fi;
            new_holder = 1
        :: else
        fi
    }
#endif
#ifdef LOOKUP
    atomic {
        if
        :: listed -> new_holder = 1; REACHED(READ_OF)
#ifndef NOT_COUNTED
        :: counted && !listed -> new_holder = 1; REACHED(BROKER_ASKED)
        :: !counted && !listed
#else
        :: !listed
#endif
        fi
    }
#endif
}

active proctype owner() {
    byte stamp, set, j;
    bit again;
    {
        atomic { destinations[RELEASE] = MULTI; order(returned, RELEASE) };
#ifdef HOLDERS_BEFORE_PENDING
        look_for_holders();
#endif
begin:
        atomic {
            generation++;
            word[RELEASE] = PENDING;
            points_storing = generation;
            points_stored = 1
        };
#ifndef NO_BARRIER_BEFORE_LOOK
        OWNER_QUIET;
#endif
#ifdef HOLDERS_NOT_AGAIN
        if :: !again -> look_for_holders() :: else fi;
#elif !defined(HOLDERS_BEFORE_PENDING)
        look_for_holders();
#endif
#ifdef FLAGS_NOT_AGAIN
#define FLAGGED !again
#else
#define FLAGGED 1
#endif
#if defined(HANDOVER) || defined(LOOKUP)
        atomic { flag_stored[0] = new_holder && FLAGGED };
#else
        atomic { flag_stored[0] = FLAGGED; flag_stored[1] = FLAGGED };
#endif
#ifdef STAMP_BEFORE_BARRIER
        d_step { stamp = clock; clock_was_read = 1 };
        OWNER_QUIET;
#else
        d_step { OWNER_QUIET -> stamp = clock; clock_was_read = 1 };
#endif
        if
        :: d_step {
#ifndef NO_COMMIT_WAIT
            clock > stamp &&
#endif
            word[RELEASE] == PENDING ->
            word[RELEASE] = COMMITTED + stamp;
            committed = committed | BIT(RELEASE);
            returned = returned | BIT(RELEASE)
        }
        :: atomic { word[RELEASE] == ABORTED -> points_storing = 0; points_stored = 1; again = 1 };
            /* The commit word is used again only behind what the word was left with. */
            atomic { OWNER_QUIET -> stamp = 0; goto begin }
        fi
    } unless { owner_killed };
    owner_over = 1
}

/* The one that a look has found pending is so no more. Begun again it is another one, and younger
 * than that look: not waited for, or an owner that never ends would stop its holders. */
#ifdef WAITED_FOR_ALL
#define RELEASE_OVER (word[RELEASE] != PENDING)
#else
#define RELEASE_OVER (word[RELEASE] != PENDING || generation != its)
#endif
/* What a receiver knows of the release. */
#define UNKNOWN 0
#define SEEN_PENDING 1
#define IN_HAND 2
#define DONE 3

#define WRITTEN(q) (q < tail[r] && slot[r * NT + q])
#define TRANSACTION(q) (slot[r * NT + q] - 1)
#define IS_MULTI(q) (destinations[TRANSACTION(q)] == MULTI)
#define WORD(q) word[TRANSACTION(q)]
#define KEY(q) (IS_MULTI(q) -> (WORD(q) - COMMITTED) * 2 : stamp_of[TRANSACTION(q)] * 2)
#define NOTICE_KEY ((word[RELEASE] - COMMITTED) * 2 + 1)

/* Takes the flag with an exchange and then reads the word, or the other way round. */
inline read_word() {
    d_step {
        if
        :: notice < IN_HAND && points && word[RELEASE] >= COMMITTED -> notice = IN_HAND
        :: notice < IN_HAND && points == generation && word[RELEASE] == PENDING ->
            notice = SEEN_PENDING; its = points
        :: notice < IN_HAND && (points != generation || word[RELEASE] == ABORTED) &&
           !(points && word[RELEASE] >= COMMITTED) ->
            notice = UNKNOWN; its = 0
        :: else
        fi
    }
}
inline take_flag() {
#ifdef WORDS_BEFORE_FLAG
    saw = flag[r];
    if :: saw || read_anyway -> read_word() :: else fi;
    atomic { flag[r] = 0; saw = 0; read_anyway = 0 }
#else
    atomic { saw = flag[r]; flag[r] = 0 };
    if
#ifdef LOOKUP
    /* It knows of no handle: there is no word to read. */
    :: !got
    :: got && (saw || read_anyway || notice == SEEN_PENDING) -> read_word()
    :: got && !(saw || read_anyway || notice == SEEN_PENDING)
#else
    :: saw || read_anyway || notice == SEEN_PENDING -> read_word()
    :: else
#endif
    fi;
    atomic { saw = 0; read_anyway = 0 }
#endif
}

inline deliver(q) {
    order(delivered[r], TRANSACTION(q));
    delivered[r] = delivered[r] | BIT(TRANSACTION(q));
#ifdef LOOKUP
    last = KEY(q);
#endif
    front[r]++
}
inline tell() {
    order(delivered[r], RELEASE);
    delivered[r] = delivered[r] | BIT(RELEASE);
    told[r]++;
    notice = DONE; its = 0;
    REACHED(TOLD);
    if :: generation > 1 -> REACHED(BEGUN_AGAIN) :: else fi
}

proctype receiver(byte r) {
    byte c, q, end_of_look, seen, set, j, notice, its;
    bit saw, read_anyway, was_pending, early_flag;
#ifdef LOOKUP
    bit got;
    byte last;
#endif
look:
#ifdef FLAG_BEFORE_HEADER
    early_flag = flag[r];
#endif
#ifdef WORD_BEFORE_COMMIT
    early_flag = points;
#endif
end:
    atomic {
        if
        :: WRITTEN(front[r]) && !(IS_MULTI(front[r]) && WORD(front[r]) == PENDING) -> c = front[r]
        :: flag[r] -> c = NOTHING; goto ahead
#ifdef LOOKUP
        :: given && !got && !(points == generation && word[RELEASE] == PENDING) ->
            got = 1;
            if
#ifndef NOT_JUDGED
            :: points && word[RELEASE] >= COMMITTED && NOTICE_KEY < last ->
                notice = DONE; refused = 1; REACHED(OVER); goto look
#endif
            :: else -> read_anyway = 1; c = NOTHING; goto ahead
            fi
#endif
        :: notice == SEEN_PENDING && RELEASE_OVER -> c = NOTHING; goto ahead
        :: notice == IN_HAND -> c = NOTHING; goto ahead
#ifdef FLAG_BEFORE_HEADER
        :: early_flag != flag[r] -> early_flag = flag[r]; goto end
#endif
        fi
    };
    atomic {
        if
        :: IS_MULTI(c) && WORD(c) == ABORTED -> front[r]++; c = 0; goto look
        :: IS_MULTI(c) && WORD(c) >= COMMITTED ->
#ifdef HANDOVER
#if defined(WORD_BEFORE_COMMIT)
            read_anyway = early_flag;
#elif !defined(WORD_ONLY_IF_FLAGGED)
            read_anyway = 1;
#endif
#endif
            goto ahead
        :: !IS_MULTI(c) ->
            if
#if defined(FLAG_NOT_READ)
            :: true ->
#elif defined(FLAG_BEFORE_HEADER)
            :: !early_flag && notice != SEEN_PENDING && notice != IN_HAND ->
#else
            :: !flag[r] && notice != SEEN_PENDING && notice != IN_HAND ->
#endif
                deliver(c); c = 0; goto look
#ifndef FLAG_NOT_READ
            :: else -> REACHED(UNICAST_LOOKED)
#endif
            fi
        fi
    };
ahead:
#ifndef LOOK_WITHOUT_FLAG
    take_flag();
#else
    if :: c == NOTHING -> take_flag() :: else fi;
#endif
    atomic { end_of_look = tail[r]; q = front[r]; seen = 0 };
    do
    :: d_step { q < end_of_look ->
        if :: WRITTEN(q) -> seen = seen | BIT(q) :: else fi;
        q++ }
    :: q == end_of_look -> break
    od;
    /* Wait for what was pending in this look. A notice that was pending and on whose account alone we
       look has not been looked behind since its commit: that takes another look. */
    atomic { was_pending = (notice == SEEN_PENDING); q = 0 };
    atomic {
        if
        :: notice == SEEN_PENDING && c != NOTHING && !IS_MULTI(c) -> REACHED(UNICAST_HELD)
        :: else
        fi;
        do
        :: q < NT && (seen & BIT(q)) && IS_MULTI(q) && WORD(q) == PENDING -> WORD(q) != PENDING
        :: q < NT && !((seen & BIT(q)) && IS_MULTI(q) && WORD(q) == PENDING) -> q++
        :: q == NT -> break
        od;
#ifdef PENDING_RELEASE_PASSED
        if
        :: notice == SEEN_PENDING && c != NOTHING && !IS_MULTI(c)
        :: notice == SEEN_PENDING && (c == NOTHING || IS_MULTI(c)) ->
            RELEASE_OVER;
            notice = (word[RELEASE] >= COMMITTED -> IN_HAND : UNKNOWN)
        :: else
        fi;
#else
        if
        :: notice == SEEN_PENDING ->
            RELEASE_OVER;
            if
            :: word[RELEASE] == ABORTED -> REACHED(RELEASE_ABORTED)
            :: word[RELEASE] == PENDING -> REACHED(NOT_WAITED_FOR)
            :: else
            fi;
            notice = (word[RELEASE] >= COMMITTED -> IN_HAND : UNKNOWN); its = 0
        :: else
        fi;
#endif
        q = front[r];
        /* One sender: the first unaborted slot has the lowest stamp of all. */
        do
        :: q < end_of_look && (seen & BIT(q)) && IS_MULTI(q) && WORD(q) == ABORTED -> q++; front[r]++
        :: else -> break
        od;
#ifndef NOT_LOOKED_AGAIN
        if
        :: c == NOTHING && was_pending -> was_pending = 0; q = 0; seen = 0; end_of_look = 0; goto look
        :: else
        fi;
#endif
        was_pending = 0;
        if
        :: q < end_of_look && (seen & BIT(q)) && (notice != IN_HAND || KEY(q) < NOTICE_KEY) ->
            if
            :: c == NOTHING && notice != IN_HAND
            :: else ->
                if :: c == NOTHING -> REACHED(MESSAGE_FIRST) :: else fi;
#ifdef HANDOVER
                if :: notice == IN_HAND && !new_holder -> REACHED(NO_HOLDER) :: else fi;
#endif
                deliver(q)
            fi
        :: notice == IN_HAND && !(q < end_of_look && (seen & BIT(q)) && KEY(q) < NOTICE_KEY) ->
            if :: c != NOTHING -> REACHED(TOLD_FIRST) :: else fi;
#ifdef LOOKUP
            if :: !new_holder -> REACHED(FOUND_ITSELF) :: else fi;
#endif
#ifdef HANDOVER
            if :: c != NOTHING -> REACHED(INVALID) :: else fi;
#endif
            tell()
        :: else
        fi;
        q = 0; seen = 0; end_of_look = 0; c = 0;
        goto look
    }
}

/* When nothing can move any more. */
active proctype monitor() {
    byte r, x;
end:
    atomic {
        timeout ->
        assert(sender_over && owner_over);
#ifdef HANDOVER
        assert(!(delivered[0] & BIT(0)) || !(committed & BIT(RELEASE)) || told[0] == 1);
        assert(!(committed & BIT(0)) == !(delivered[0] & BIT(0)));
#else
        do
#ifdef LOOKUP
        :: r < 1 ->
            assert(told[r] == ((committed & BIT(RELEASE)) && !refused));
#else
        :: r < 2 ->
            assert(told[r] == ((committed & BIT(RELEASE)) != 0));
#endif
            x = 0;
            do
            :: x < NT ->
                if
                :: destinations[x] == MULTI ->
                    assert(!(committed & BIT(x)) == !(delivered[r] & BIT(x)))
                :: destinations[x] == r + 1 && (returned & BIT(x)) -> assert(delivered[r] & BIT(x))
                :: else
                fi;
                x++
            :: else -> break
            od;
            r++
        :: else -> break
        od
#endif
    }
}

init {
#if defined(HANDOVER) || defined(LOOKUP)
    run receiver(0)
#else
    atomic { run receiver(0); run receiver(1) }
#endif
}
