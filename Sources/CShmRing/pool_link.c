/*
 * pool_link.c - what is lent to whom, and how it comes back.
 *
 * A board is only looked at when the pool needs something: a loan found no free slice, a link has
 * no free word, the pool is trimmed. So a line that the receiver writes is read once for many
 * slices.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pool_private.h"
#include "shmring_faults.h"

#define POOL_WORDS_FIRST 32u

static struct pool_link *find_link(const struct shmring_pool *pool, uint32_t link)
{
    if (link >= pool->link_count || pool->links[link].board == NULL)
        return NULL;
    return &pool->links[link];
}

/* ---- links ---------------------------------------------------------------------------------- */

int shmring_pool_link_add(struct shmring_pool *pool, struct shmring_board *board,
                          uint32_t first_word, uint32_t word_count, uint32_t *link_out)
{
    if (word_count == 0 || word_count > SHMRING_LENDS || first_word > SHMRING_LENDS - word_count)
        return -EINVAL;
    uint32_t index = 0;
    while (index < pool->link_count && pool->links[index].board != NULL)
        index++;
    if (index == pool->link_count) {
        const uint32_t count = index == 0 ? 4 : index * 2;
        struct pool_link *links = realloc(pool->links, count * sizeof *links);
        if (links == NULL)
            return -ENOMEM;
        memset(links + index, 0, (count - index) * sizeof *links);
        pool->links = links;
        pool->link_count = count;
    }
    pool->links[index] = (struct pool_link){
        .board = board,
        .first_word = first_word,
        .word_count = word_count,
        .oldest = POOL_WORD_NONE,
        .newest = POOL_WORD_NONE,
        .free_oldest = POOL_WORD_NONE,
        .free_newest = POOL_WORD_NONE,
        .next_active = POOL_NONE,
        .previous_active = POOL_NONE,
    };
    *link_out = index;
    return 0;
}

static void activate(struct shmring_pool *pool, uint32_t link)
{
    struct pool_link *this = &pool->links[link];
    this->previous_active = POOL_NONE;
    this->next_active = pool->first_active;
    if (pool->first_active != POOL_NONE)
        pool->links[pool->first_active].previous_active = link;
    pool->first_active = link;
}

static void deactivate(struct shmring_pool *pool, uint32_t link)
{
    const struct pool_link *this = &pool->links[link];
    if (this->previous_active != POOL_NONE)
        pool->links[this->previous_active].next_active = this->next_active;
    else
        pool->first_active = this->next_active;
    if (this->next_active != POOL_NONE)
        pool->links[this->next_active].previous_active = this->previous_active;
}

/* ---- words ---------------------------------------------------------------------------------- */

static void push_free(struct pool_link *this, uint16_t index)
{
    this->words[index].lend = 0;
    this->words[index].record = NULL;
    this->words[index].next = POOL_WORD_NONE;
    if (this->free_newest != POOL_WORD_NONE)
        this->words[this->free_newest].next = index;
    else
        this->free_oldest = index;
    this->free_newest = index;
}

static int grow_words(struct pool_link *this)
{
    if (this->words_ready == this->word_count)
        return SHMRING_E_FULL;
    uint32_t ready = this->words_ready == 0 ? POOL_WORDS_FIRST : this->words_ready * 2;
    if (ready > this->word_count)
        ready = this->word_count;
    struct pool_word *words = realloc(this->words, ready * sizeof *words);
    if (words == NULL)
        return -ENOMEM;
    this->words = words;
    for (uint32_t i = this->words_ready; i < ready; i++)
        push_free(this, (uint16_t)i);
    this->words_ready = ready;
    return 0;
}

/* Strikes a word off the list of those that are out. Its slice is free if that was the last. */
static void settle_word(struct shmring_pool *pool, uint32_t link, uint16_t index)
{
    struct pool_link *this = &pool->links[link];
    struct pool_word *word = &this->words[index];
    struct shmring_pool_record *record = word->record;
    if (word->previous != POOL_WORD_NONE)
        this->words[word->previous].next = word->next;
    else
        this->oldest = word->next;
    if (word->next != POOL_WORD_NONE)
        this->words[word->next].previous = word->previous;
    else
        this->newest = word->previous;
    push_free(this, index);
    this->out--;
    pool->lends_out--;
    if (this->out == 0)
        deactivate(pool, link);
    pool_record_drop(pool, record);
}

static uint32_t collect_link(struct shmring_pool *pool, uint32_t link, bool all)
{
    struct pool_link *this = &pool->links[link];
    const uint64_t *board = this->board->lend + this->first_word;
    uint32_t count = 0;
    for (uint16_t index = this->oldest; index != POOL_WORD_NONE;) {
        const uint16_t next = this->words[index].next;
        /* SYNC P2 acquire, pairs with P1 in shmring_board_give_back: the receiver has read the
         * slice to its end. Without it the next payload could overwrite what is still being read.
         * Any other value than the one lent is ignored: the ledger decides. */
        if (shmring_load_acquire(&board[index]) == this->words[index].lend ||
            SHMRING_UNCHECKED(LEDGER)) {
            settle_word(pool, link, index);
            count++;
        } else if (!all) {
            break;
        }
        index = next;
    }
    return count;
}

uint32_t shmring_pool_collect(struct shmring_pool *pool, bool all)
{
    uint32_t count = 0;
    for (uint32_t link = pool->first_active, next; link != POOL_NONE; link = next) {
        next = pool->links[link].next_active;
        count += collect_link(pool, link, all);
    }
    return count;
}

/* ---- lending -------------------------------------------------------------------------------- */

static int find_free_word(struct shmring_pool *pool, uint32_t link)
{
    struct pool_link *this = &pool->links[link];
    int result = grow_words(this);
    if (result == 0)
        return 0;
    if (collect_link(pool, link, false) != 0 || collect_link(pool, link, true) != 0)
        return 0;
    return result;
}

int shmring_pool_lend(struct shmring_pool *pool, uint32_t link, const struct shmring_slice *slice,
                      uint64_t byte_count, struct shmring_slice_ref *ref_out)
{
    struct pool_link *this = find_link(pool, link);
    if (shmring_unlikely(this == NULL || byte_count > slice->capacity_bytes))
        return -EINVAL;
    if (shmring_unlikely(shmring_forked()))
        return SHMRING_E_FORKED;
    if (shmring_unlikely(this->free_oldest == POOL_WORD_NONE)) {
        const int result = find_free_word(pool, link);
        if (result != 0)
            return result;
    }
    const uint16_t index = this->free_oldest;
    struct pool_word *word = &this->words[index];
    this->free_oldest = word->next;
    if (this->free_oldest == POOL_WORD_NONE)
        this->free_newest = POOL_WORD_NONE;

    word->lend = ++pool->next_lend;
    word->record = slice->record;
    word->next = POOL_WORD_NONE;
    word->previous = this->newest;
    if (this->newest != POOL_WORD_NONE)
        this->words[this->newest].next = index;
    else
        this->oldest = index;
    this->newest = index;
    slice->record->references++;
    pool->lends_out++;
    if (this->out++ == 0)
        activate(pool, link);
    SHMRING_FAULT(LEND_LENT);
    *ref_out = (struct shmring_slice_ref){
        .segment = slice->segment,
        .lend_index = this->first_word + index,
        .lend = word->lend,
        .offset = slice->offset,
        .byte_count = byte_count,
    };
    return SHMRING_OK;
}

int shmring_pool_take_back(struct shmring_pool *pool, uint32_t link,
                           const struct shmring_slice_ref *ref)
{
    const struct pool_link *this = find_link(pool, link);
    if (this == NULL || ref->lend_index < this->first_word || ref->lend == 0)
        return -ENOENT;
    const uint32_t index = ref->lend_index - this->first_word;
    if (index >= this->words_ready || this->words[index].lend != ref->lend)
        return -ENOENT;
    settle_word(pool, link, (uint16_t)index);
    return 0;
}

uint32_t shmring_pool_link_remove(struct shmring_pool *pool, uint32_t link)
{
    struct pool_link *this = find_link(pool, link);
    if (this == NULL)
        return 0;
    uint32_t count = 0;
    for (; this->oldest != POOL_WORD_NONE; count++)
        settle_word(pool, link, this->oldest);
    free(this->words);
    free(this->announced);
    memset(this, 0, sizeof *this);
    return count;
}

/* ---- announcements -------------------------------------------------------------------------- */

bool shmring_pool_is_announced(const struct shmring_pool *pool, uint32_t link, uint32_t number)
{
    const struct pool_link *this = find_link(pool, link);
    const uint32_t index = SHMRING_SEGMENT_INDEX(number);
    return this != NULL && index < this->announced_count && this->announced[index] == number;
}

int shmring_pool_announced(struct shmring_pool *pool, uint32_t link, uint32_t number)
{
    struct pool_link *this = find_link(pool, link);
    if (this == NULL || pool_segment_find(pool, number) == NULL)
        return -ENOENT;
    const uint32_t index = SHMRING_SEGMENT_INDEX(number);
    if (index >= this->announced_count) {
        uint32_t count = this->announced_count == 0 ? 8 : this->announced_count;
        while (count <= index)
            count *= 2;
        uint32_t *announced = realloc(this->announced, count * sizeof *announced);
        if (announced == NULL)
            return -ENOMEM;
        memset(announced + this->announced_count, 0,
               (count - this->announced_count) * sizeof *announced);
        this->announced = announced;
        this->announced_count = count;
    }
    this->announced[index] = number;
    return 0;
}

bool shmring_pool_withdraw(struct shmring_pool *pool, uint32_t link, uint32_t number)
{
    if (!shmring_pool_is_announced(pool, link, number))
        return false;
    pool->links[link].announced[SHMRING_SEGMENT_INDEX(number)] = 0;
    return true;
}
