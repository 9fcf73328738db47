/*
 * test_pool_model.c - random operations on a pool against a plain reference.
 *
 * The reference is a list: which slices are referred to, by how many lends and whether by a loan,
 * and what was written into each. After every operation the pool must agree on how much is in use;
 * no two slices in use may overlap (each keeps the bytes written into it); a request within the
 * quota must succeed when nothing is in use.
 */
#include <errno.h>

#include "CShmRing.h"
#include "check.h"

#define LINKS 4u
#define LIVE_MAX 600u
#define LENDS_MAX 1200u

struct live {
    bool loaned;
    uint32_t lends;
    uint64_t mark; /* written to its first and last 8 bytes */
    uint64_t byte_count;
    struct shmring_slice slice;
};

struct lent {
    uint32_t link; /* index into model.links */
    struct live *live;
    bool given_back; /* on the board, not yet collected */
    struct shmring_slice_ref ref;
};

struct model {
    uint64_t random;
    struct shmring_pool *pool;
    uint64_t quota_bytes;
    struct shmring_mapping mappings[LINKS];
    struct shmring_board *boards[LINKS];
    uint32_t links[LINKS];
    struct live *live[LIVE_MAX];
    uint32_t live_count;
    struct lent lent[LENDS_MAX];
    uint32_t lent_count;
    uint64_t last_lend;
    uint64_t now_ns;
    uint64_t loans, full, retired;
};

static uint32_t pick(struct model *m, uint32_t below)
{
    return (uint32_t)(check_random(&m->random) % below);
}

static void write_mark(struct live *live)
{
    char *base = live->slice.base;
    memcpy(base, &live->mark, 8);
    memcpy(base + live->byte_count - 8, &live->mark, 8);
}

static void check_mark(const struct live *live)
{
    const char *base = live->slice.base;
    CHECK(memcmp(base, &live->mark, 8) == 0);
    CHECK(memcmp(base + live->byte_count - 8, &live->mark, 8) == 0);
}

/* Forgets a slice that nothing refers to any more. Its memory may be anybody's by now, or unmapped.
 * */
static void settle(struct model *m, struct live *live)
{
    if (live->loaned || live->lends != 0) {
        check_mark(live);
        return;
    }
    for (uint32_t i = 0; i < m->live_count; i++) {
        if (m->live[i] != live)
            continue;
        m->live[i] = m->live[--m->live_count];
        free(live);
        return;
    }
    check_failed(__FILE__, __LINE__, "a slice that the model does not know");
}

/* Everything on the boards has been seen by the pool: first all lends, then what that leaves free.
 * */
static void settle_given_back(struct model *m)
{
    for (uint32_t i = 0; i < m->lent_count;) {
        if (!m->lent[i].given_back) {
            i++;
            continue;
        }
        m->lent[i].live->lends--;
        m->lent[i] = m->lent[--m->lent_count];
    }
    for (uint32_t i = m->live_count; i-- > 0;)
        settle(m, m->live[i]);
}

static void collect_all(struct model *m)
{
    uint32_t expected = 0;
    for (uint32_t i = 0; i < m->lent_count; i++)
        expected += m->lent[i].given_back;
    CHECK(shmring_pool_collect(m->pool, true) <= expected); /* a loan may have collected some */
    settle_given_back(m);
}

static void check_agreement(struct model *m)
{
    struct shmring_pool_usage usage;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < m->live_count; i++)
        bytes += m->live[i]->slice.capacity_bytes;
    shmring_pool_usage(m->pool, &usage);
    CHECK_EQ(usage.used_bytes, bytes);
    CHECK_EQ(usage.lends, m->lent_count);
    CHECK(usage.charged_bytes <= m->quota_bytes);
    CHECK(usage.used_bytes <= usage.charged_bytes);
}

/* Segments that went may hold nothing in use. */
static void check_retired(struct model *m)
{
    uint32_t number;
    while (shmring_pool_take_retired(m->pool, &number, 1) == 1) {
        int fd;
        uint64_t size;
        m->retired++;
        CHECK_EQ(shmring_pool_segment(m->pool, number, &fd, &size), -ENOENT);
        for (uint32_t i = 0; i < m->live_count; i++)
            CHECK(m->live[i]->slice.segment != number);
    }
}

static void do_loan(struct model *m)
{
    if (m->live_count == LIVE_MAX)
        return;
    uint64_t byte_count = check_random(&m->random);
    byte_count = 16 + (byte_count >> (40 + pick(m, 20)));
    if (pick(m, 50) == 0)
        byte_count = 16 + check_random(&m->random) % (m->quota_bytes - 16);
    struct shmring_slice slice;
    const int result = shmring_pool_loan(m->pool, byte_count, &slice);
    if (byte_count > m->quota_bytes) {
        CHECK_EQ(result, SHMRING_E_TOO_LARGE);
        return;
    }
    if (result != 0) {
        CHECK_EQ(result, SHMRING_E_FULL);
        collect_all(m);
        check_retired(m);
        CHECK(m->live_count != 0);
        m->full++;
        return;
    }
    struct live *live = calloc(1, sizeof *live);
    *live = (struct live){
        .loaned = true, .mark = check_random(&m->random), .byte_count = byte_count, .slice = slice};
    CHECK(slice.capacity_bytes >= byte_count);
    collect_all(m); /* before writing: what the loan was made of must be free in the model, too */
    write_mark(live);
    m->live[m->live_count++] = live;
    m->loans++;
    check_retired(m);
}

static void do_lend(struct model *m)
{
    if (m->live_count == 0 || m->lent_count == LENDS_MAX)
        return;
    struct live *live = m->live[pick(m, m->live_count)];
    if (!live->loaned)
        return;
    struct lent *lent = &m->lent[m->lent_count];
    *lent = (struct lent){.link = pick(m, LINKS), .live = live};
    const int result = shmring_pool_lend(m->pool, m->links[lent->link], &live->slice,
                                         live->byte_count, &lent->ref);
    if (result != 0) {
        CHECK_EQ(result, SHMRING_E_FULL);
        return;
    }
    CHECK(lent->ref.lend > m->last_lend);
    m->last_lend = lent->ref.lend;
    CHECK_EQ(lent->ref.offset, live->slice.offset);
    CHECK_EQ(lent->ref.segment, live->slice.segment);
    live->lends++;
    m->lent_count++;
    collect_all(m); /* lending may have collected */
}

static void do_end(struct model *m)
{
    if (m->live_count == 0)
        return;
    struct live *live = m->live[pick(m, m->live_count)];
    if (!live->loaned)
        return;
    check_mark(live);
    live->loaned = false;
    shmring_pool_end(m->pool, &live->slice);
    settle(m, live);
}

static void do_give_back(struct model *m)
{
    if (m->lent_count == 0)
        return;
    struct lent *lent = &m->lent[pick(m, m->lent_count)];
    if (lent->given_back)
        return;
    check_mark(lent->live);
    shmring_board_give_back(m->boards[lent->link], lent->ref.lend_index, lent->ref.lend);
    lent->given_back = true;
}

static void do_take_back(struct model *m)
{
    if (m->lent_count == 0)
        return;
    const uint32_t i = pick(m, m->lent_count);
    struct live *live = m->lent[i].live;
    if (m->lent[i].given_back)
        return;
    CHECK_EQ(shmring_pool_take_back(m->pool, m->links[m->lent[i].link], &m->lent[i].ref), 0);
    m->lent[i] = m->lent[--m->lent_count];
    live->lends--;
    settle(m, live);
}

static void do_sever(struct model *m)
{
    const uint32_t link = pick(m, LINKS);
    uint32_t expected = 0;
    for (uint32_t i = 0; i < m->lent_count; i++) {
        if (m->lent[i].link == link) {
            m->lent[i].given_back = true;
            expected++;
        }
    }
    CHECK_EQ(shmring_pool_link_remove(m->pool, m->links[link]), expected);
    /* Of the other links only what the model had given back is still out. */
    for (uint32_t i = 0; i < m->lent_count;) {
        if (m->lent[i].link != link) {
            i++;
            continue;
        }
        struct live *live = m->lent[i].live;
        m->lent[i] = m->lent[--m->lent_count];
        live->lends--;
        settle(m, live);
    }
    const uint32_t first = pick(m, 2) * 100;
    CHECK_EQ(shmring_pool_link_add(m->pool, m->boards[link], first, SHMRING_LENDS - first,
                                   &m->links[link]), 0);
}

/* What a hostile receiver writes; never the very number that is out in that word. */
static void do_harm(struct model *m)
{
    const uint32_t link = pick(m, LINKS);
    const uint32_t index = pick(m, SHMRING_LENDS);
    const uint64_t value = pick(m, 2) ? check_random(&m->random) : m->last_lend + 1 + pick(m, 3);
    for (uint32_t i = 0; i < m->lent_count; i++) {
        if (m->lent[i].link == link && m->lent[i].ref.lend_index == index)
            return; /* it may have been given back already */
    }
    if (value > m->last_lend + 3)
        m->boards[link]->lend[index] = value;
    m->boards[link]->waiters = (uint32_t)value;
}

static void do_trim(struct model *m)
{
    m->now_ns += pick(m, 100);
    (void)shmring_pool_trim(m->pool, m->now_ns, pick(m, 10) == 0 ? 0 : 50 + pick(m, 200));
    settle_given_back(m);
    check_retired(m);
}

static void end_all(struct model *m)
{
    for (uint32_t i = 0; i < m->lent_count; i++) {
        if (!m->lent[i].given_back)
            shmring_board_give_back(m->boards[m->lent[i].link], m->lent[i].ref.lend_index,
                                    m->lent[i].ref.lend);
        m->lent[i].given_back = true;
    }
    collect_all(m);
    while (m->live_count != 0)
        do_end(m);
    check_agreement(m);
    struct shmring_slice slice;
    CHECK_EQ(shmring_pool_loan(m->pool, m->quota_bytes, &slice), 0);
    shmring_pool_end(m->pool, &slice);
    (void)shmring_pool_trim(m->pool, m->now_ns, 0);
    check_retired(m);
    struct shmring_pool_usage usage;
    shmring_pool_usage(m->pool, &usage);
    CHECK_EQ(usage.charged_bytes, 0);
    CHECK_EQ(usage.segments, 0);
}

static void run_model(uint64_t seed, uint64_t quota_bytes, uint32_t steps)
{
    static struct model model;
    struct model *m = &model;
    *m = (struct model){.random = seed, .quota_bytes = quota_bytes / 4096 * 4096};
    const struct shmring_pool_options options = {
        .quota_bytes = quota_bytes,
        .warm_bytes = UINT64_C(1) << 20,
        .warm_small_bytes = 65536,
        .lane = pick(m, SHMRING_LANES_MAX),
        .placement = {.numa_node = -1},
    };
    REQUIRE(shmring_pool_init(&options, &m->pool) == 0);
    for (uint32_t i = 0; i < LINKS; i++) {
        int fd;
        REQUIRE(shmring_board_create(i, &fd) == 0);
        REQUIRE(shmring_segment_map(fd, SHMRING_SEGMENT_BOARD, SHMRING_READ_WRITE, 0, false, true,
                                    NULL, NULL, &m->mappings[i]) == 0);
        (void)close(fd);
        m->boards[i] = m->mappings[i].base;
        REQUIRE(shmring_pool_link_add(m->pool, m->boards[i], 0, SHMRING_LENDS, &m->links[i]) == 0);
    }
    for (uint32_t step = 0; step < steps && check_failures == 0; step++) {
        const uint32_t phase = step / 500 % 3; /* fill, even, drain */
        const uint32_t dice = pick(m, 100);
        if (dice < (phase == 0 ? 45u : 25u))
            do_loan(m);
        else if (dice < 60)
            do_lend(m);
        else if (dice < (phase == 2 ? 80u : 70u))
            do_end(m);
        else if (dice < 92)
            do_give_back(m);
        else if (dice < 94)
            do_take_back(m);
        else if (dice < 95)
            do_sever(m);
        else if (dice < 97)
            do_harm(m);
        else if (dice < 98)
            do_trim(m);
        else
            collect_all(m);
        if (step % 16 == 0) {
            collect_all(m);
            check_agreement(m);
        }
        if (check_failures != 0)
            (void)fprintf(stderr, "  at step %u\n", step);
    }
    end_all(m);
    (void)printf("  %" PRIu64 " KiB quota: %" PRIu64 " loans, %" PRIu64 " full, %" PRIu64
                 " segments retired\n",
                 quota_bytes / 1024, m->loans, m->full, m->retired);
    shmring_pool_deinit(m->pool);
    for (uint32_t i = 0; i < LINKS; i++)
        shmring_segment_unmap(&m->mappings[i]);
}

static void a_pool_with_room_agrees_with_the_reference(void)
{
    run_model(check_seed(), UINT64_C(256) << 20, 20000);
}

static void a_pool_that_is_often_full_agrees_with_the_reference(void)
{
    run_model(check_seed(), UINT64_C(6) << 20, 20000);
}

static void a_pool_with_a_tiny_odd_quota_agrees_with_the_reference(void)
{
    run_model(check_seed(), 77777, 20000);
}

CHECK_MAIN(RUN(a_pool_with_room_agrees_with_the_reference),
           RUN(a_pool_that_is_often_full_agrees_with_the_reference),
           RUN(a_pool_with_a_tiny_odd_quota_agrees_with_the_reference))
