/*
 * What else has a place in the order: words that end with somebody's transaction, and deaths.
 *
 * A watched word is read by every look, behind its t0 and behind the taking of the flags. Pending,
 * it is waited for like a multicast; with a stamp below t0 it is delivered in its place; later, by
 * the next look. Whatever stands in it that no honest owner writes counts as: has not happened.
 */
#include <errno.h>
#include <stdlib.h>

#include "inbox_private.h"

static struct shmring_watch *find(struct shmring_inbox *inbox, uint32_t kind, uint64_t cookie)
{
    for (uint32_t i = 0; i < inbox->watch_count; i++) {
        struct shmring_watch *watch = &inbox->watches[i];
        if (watch->cookie == cookie && watch->kind == kind && watch->state != WATCH_DONE)
            return watch;
    }
    return NULL;
}

static bool is_stamp(uint64_t word)
{
    return word != 0 && (word & SHMRING_COMMIT_STATE_MASK) == 0;
}

int shmring_inbox_watch(struct shmring_inbox *inbox, enum shmring_watch_kind kind,
                        const uint64_t *word, const uint64_t *commits, uint32_t commit_words,
                        uint32_t owner_id, uint64_t stamp, uint64_t cookie)
{
    /* Deaths are few, and seen both pending and done. */
    struct shmring_watch *watch =
        kind == SHMRING_WATCH_DEATH ? find(inbox, kind, cookie) : NULL;
    if (watch == NULL) {
        if (inbox->watch_count == inbox->watch_capacity) {
            uint32_t capacity = inbox->watch_capacity == 0 ? 16 : 2 * inbox->watch_capacity;
            void *grown = realloc(inbox->watches, capacity * sizeof *inbox->watches);
            if (grown == NULL)
                return -ENOMEM;
            inbox->watches = grown;
            inbox->watch_capacity = capacity;
        }
        watch = &inbox->watches[inbox->watch_count++];
    }
    *watch = (struct shmring_watch){
        .word = kind == SHMRING_WATCH_DEATH && is_stamp(stamp) ? NULL : word,
        .commits = commits,
        .cookie = cookie,
        .stamp = stamp,
        .seen = stamp,
        .commit_words = commit_words,
        .owner_id = owner_id,
        .kind = (uint32_t)kind,
    };
    inbox->unsettled |= UNSETTLED_LOOK;
    /* Between two deliveries: it may belong between those. */
    if (inbox->waiting || inbox->ready_first != inbox->ready_end)
        inbox->unsettled |= UNSETTLED_ANEW;
    shmring_inbox_choose_path(inbox);
    return SHMRING_OK;
}

void shmring_inbox_unwatch(struct shmring_inbox *inbox, enum shmring_watch_kind kind,
                           uint64_t cookie)
{
    struct shmring_watch *watch;
    while ((watch = find(inbox, kind, cookie)) != NULL)
        watch->state = WATCH_DONE;
}

void shmring_inbox_unwatch_words(struct shmring_inbox *inbox, uint32_t owner_id)
{
    for (uint32_t i = 0; i < inbox->watch_count; i++)
        if (inbox->watches[i].kind != SHMRING_WATCH_DEATH && inbox->watches[i].owner_id == owner_id)
            inbox->watches[i].state = WATCH_DONE;
}

void shmring_watches_compact(struct shmring_inbox *inbox)
{
    uint32_t to = 0;
    for (uint32_t i = 0; i < inbox->watch_count; i++)
        if (inbox->watches[i].state != WATCH_DONE)
            inbox->watches[to++] = inbox->watches[i];
    inbox->watch_count = to;
}

/* ---- reading -------------------------------------------------------------------------------- */

static void happened(struct shmring_watch *watch, uint64_t stamp)
{
    watch->state = WATCH_HAPPENED;
    watch->stamp = stamp;
}

static uint64_t read_word(const uint64_t *word)
{
    /* SYNC N5 acquire, pairs with N4, C1 and C4: a reference is later than its pending commit word;
     * a commit word that serves another transaction is later than what the former left in the words
     * that referred to it. */
    return shmring_load_acquire(word);
}

/* `anew`: a look has begun. Else only what that look found pending is still its own. */
static void read_reference(struct shmring_watch *watch, bool anew)
{
    uint64_t value = read_word(watch->word);
    /* An honest owner changes the word between two readings only by ending a transaction, and
     * seldom begins another one at once. */
    for (int tries = 0; tries < 4; tries++) {
        watch->state = WATCH_OPEN;
        if (is_stamp(value)) {
            happened(watch, value);
            return;
        }
        if ((value & SHMRING_COMMIT_STATE_MASK) != SHMRING_RELEASE_REFERS)
            return;
        if (!anew && value != watch->seen)
            break; /* begun after this look had read it: its stamp is later than t0 */
        uint64_t index = value >> 30 & UINT32_MAX;
        uint64_t generation = value & SHMRING_COMMIT_GENERATION_MASK;
        if (index >= watch->commit_words)
            return;
        uint64_t commit = read_word(&watch->commits[index]);
        if (!is_stamp(commit) &&
            (commit >> 32 & SHMRING_COMMIT_GENERATION_MASK) == generation) {
            if ((commit & SHMRING_COMMIT_STATE_MASK) == SHMRING_COMMIT_PENDING) {
                watch->state = WATCH_PENDING;
                watch->seen = value;
            }
            return;
        }
        /* A stamp bears no generation. It is the one referred to if the word refers to it still;
         * else, or if the generation is another one, the word has changed. */
        uint64_t again = read_word(watch->word);
        if (again == value) {
            if (is_stamp(commit))
                happened(watch, commit);
            return;
        }
        value = again;
    }
    watch->state = WATCH_LATER;
}

int shmring_word_state(const uint64_t *word, const uint64_t *commits, uint32_t commit_words,
                       uint64_t *stamp)
{
    struct shmring_watch watch = {.word = word, .commits = commits, .commit_words = commit_words};
    read_reference(&watch, true);
    switch (watch.state) {
    case WATCH_HAPPENED:
        *stamp = watch.stamp;
        return SHMRING_OK;
    case WATCH_OPEN:
        return SHMRING_E_EMPTY;
    default:
        return -EAGAIN;
    }
}

static void read_death(struct shmring_watch *watch)
{
    if (watch->word == NULL) {
        happened(watch, watch->stamp);
        return;
    }
    uint64_t now = read_word(watch->word);
    if (now == watch->seen) {
        watch->state = WATCH_PENDING;
        return;
    }
    /* The stamp is copied to the dead one's outbox before the word serves the next death (B5): not
     * there yet, what the word holds is this one's. */
    uint64_t dead = watch->commits != NULL ? read_word(watch->commits) : 0;
    if (is_stamp(dead))
        happened(watch, dead);
    else if (is_stamp(now))
        happened(watch, now);
    else
        watch->state = WATCH_OPEN; /* aborted: it begins again, and is watched again */
}

static void read_watch(struct shmring_watch *watch, bool anew)
{
    if (watch->kind == SHMRING_WATCH_DEATH)
        read_death(watch);
    else
        read_reference(watch, anew);
}

void shmring_watches_read(struct shmring_inbox *inbox)
{
    for (uint32_t i = 0; i < inbox->watch_count; i++) {
        if (inbox->watches[i].state == WATCH_DONE)
            continue;
        read_watch(&inbox->watches[i], true);
        if (inbox->watches[i].state != WATCH_OPEN)
            inbox->unsettled |= UNSETTLED_LOOK; /* until it is in order: the look may fail */
    }
}

bool shmring_watches_settle(struct shmring_inbox *inbox)
{
    bool settled = true;
    for (uint32_t i = 0; i < inbox->watch_count; i++) {
        if (inbox->watches[i].state != WATCH_PENDING)
            continue;
        read_watch(&inbox->watches[i], false);
        settled &= inbox->watches[i].state != WATCH_PENDING;
    }
    return settled;
}

bool shmring_watches_pending(const struct shmring_inbox *inbox)
{
    for (uint32_t i = 0; i < inbox->watch_count; i++)
        if (inbox->watches[i].state == WATCH_PENDING)
            return true;
    return false;
}

uint32_t shmring_watches_blockers(const struct shmring_inbox *inbox,
                                  struct shmring_blocker *blockers, uint32_t count)
{
    for (uint32_t i = 0; i < inbox->watch_count && count < SHMRING_BLOCKERS_MAX; i++) {
        const struct shmring_watch *watch = &inbox->watches[i];
        if (watch->state != WATCH_PENDING || watch->kind == SHMRING_WATCH_DEATH)
            continue;
        blockers[count++] = (struct shmring_blocker){
            .ring = UINT32_MAX,
            .sender = watch->owner_id,
            .index = (uint32_t)(watch->seen >> 30),
            .generation = (uint32_t)(watch->seen & SHMRING_COMMIT_GENERATION_MASK)};
    }
    return count;
}

void shmring_watches_gather(struct shmring_inbox *inbox)
{
    inbox->unsettled = 0;
    for (uint32_t i = 0; i < inbox->watch_count; i++) {
        struct shmring_watch *watch = &inbox->watches[i];
        if (watch->state == WATCH_HAPPENED && watch->stamp >= inbox->look_t0) {
            if (watch->stamp <= shmring_clock_now(&inbox->clock)) {
                watch->state = WATCH_LATER;
            } else { /* a lie: it misplaces its owner's own */
                watch->stamp = inbox->look_t0 - 1;
                inbox->counts.clamped++;
            }
        }
        if (watch->state == WATCH_LATER)
            inbox->unsettled = UNSETTLED_LOOK;
        if (watch->state != WATCH_HAPPENED)
            continue;
        bool is_death = watch->kind == SHMRING_WATCH_DEATH;
        inbox->ready[inbox->ready_end++] = (struct shmring_ready){
            .stamp = watch->stamp,
            .tie = is_death ? UINT64_MAX : (uint64_t)watch->owner_id << 32 | UINT32_MAX,
            .position = i,
            .ring = UINT32_MAX,
            .index = i | READY_WATCH};
    }
}

void shmring_watches_reset(struct shmring_inbox *inbox)
{
    if (inbox->watch_count != 0)
        inbox->unsettled |= UNSETTLED_LOOK;
}
