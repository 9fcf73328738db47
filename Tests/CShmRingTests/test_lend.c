/* test_lend.c - slices lent, given back and lent on. Units. */
#include <errno.h>

#include "pool_kit.h"

/* ---- lends ----------------------------------------------------------------------------------- */

static void a_lent_slice_is_free_when_it_is_given_back(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice;
    struct shmring_held held;
    REQUIRE(shmring_pool_loan(f.pool, 1000, &slice) == 0);
    memset(slice.base, 0x77, 1000);
    const struct shmring_slice_ref ref = lend(&f, &slice, 1000);
    shmring_pool_end(f.pool, &slice);
    CHECK(usage_of(&f).used_bytes != 0);
    CHECK_EQ(shmring_pool_collect(f.pool, true), 0);
    REQUIRE(shmring_view_hold(f.view, f.board, &ref, &held) == 0);
    CHECK_EQ(held.byte_count, 1000);
    CHECK(((const uint8_t *)held.base)[999] == 0x77);
    shmring_held_give_back(&held);
    CHECK(held.base == NULL);
    shmring_held_give_back(&held); /* empty: nothing happens */
    CHECK_EQ(shmring_pool_collect(f.pool, false), 1);
    CHECK_EQ(usage_of(&f).used_bytes, 0);
    CHECK_EQ(usage_of(&f).lends, 0);
    tear_down(&f);
}

static void a_slice_lent_to_several_is_free_when_the_last_gives_back(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_mapping mappings[3];
    struct shmring_board *boards[3];
    uint32_t links[3];
    struct shmring_slice_ref refs[3];
    struct shmring_slice slice;
    REQUIRE(shmring_pool_loan(f.pool, 4096, &slice) == 0);
    for (uint32_t i = 0; i < 3; i++) {
        boards[i] = make_board(&mappings[i]);
        CHECK_EQ(shmring_pool_link_add(f.pool, boards[i], 0, SHMRING_LENDS, &links[i]), 0);
        CHECK_EQ(shmring_pool_announced(f.pool, links[i], slice.segment), 0);
        CHECK_EQ(shmring_pool_lend(f.pool, links[i], &slice, 4096, &refs[i]), 0);
    }
    CHECK(refs[0].lend != refs[1].lend && refs[1].lend != refs[2].lend);
    shmring_pool_end(f.pool, &slice);
    shmring_board_give_back(boards[1], refs[1].lend_index, refs[1].lend);
    shmring_board_give_back(boards[1], refs[1].lend_index, refs[1].lend);
    CHECK_EQ(shmring_pool_collect(f.pool, true), 1);
    CHECK(usage_of(&f).used_bytes != 0);
    shmring_board_give_back(boards[0], refs[0].lend_index, refs[0].lend);
    CHECK_EQ(shmring_pool_collect(f.pool, true), 1);
    CHECK(usage_of(&f).used_bytes != 0);
    /* The third dies. */
    CHECK_EQ(shmring_pool_link_remove(f.pool, links[2]), 1);
    CHECK_EQ(usage_of(&f).used_bytes, 0);
    CHECK_EQ(shmring_pool_link_remove(f.pool, links[2]), 0);
    tear_down(&f);
    for (uint32_t i = 0; i < 3; i++)
        shmring_segment_unmap(&mappings[i]);
}

static void an_unsent_lend_is_taken_back_once(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice;
    REQUIRE(shmring_pool_loan(f.pool, 4096, &slice) == 0);
    const struct shmring_slice_ref ref = lend(&f, &slice, 4096);
    struct shmring_slice_ref wrong = ref;
    wrong.lend++;
    CHECK_EQ(shmring_pool_take_back(f.pool, f.link, &wrong), -ENOENT);
    wrong = ref;
    wrong.lend_index = UINT32_MAX;
    CHECK_EQ(shmring_pool_take_back(f.pool, f.link, &wrong), -ENOENT);
    CHECK_EQ(shmring_pool_take_back(f.pool, f.link, &ref), 0);
    CHECK_EQ(shmring_pool_take_back(f.pool, f.link, &ref), -ENOENT);
    shmring_pool_end(f.pool, &slice);
    CHECK_EQ(usage_of(&f).used_bytes, 0);
    /* The receiver gives it back nevertheless: the word belongs to another lend by now. */
    REQUIRE(shmring_pool_loan(f.pool, 4096, &slice) == 0);
    const struct shmring_slice_ref next = lend(&f, &slice, 4096);
    shmring_pool_end(f.pool, &slice);
    shmring_board_give_back(f.board, ref.lend_index, ref.lend);
    shmring_board_give_back(f.board, next.lend_index, ref.lend);
    CHECK_EQ(shmring_pool_collect(f.pool, true), 0);
    tear_down(&f);
}

static void a_link_lends_as_many_slices_as_it_has_words(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice_ref refs[SHMRING_LENDS];
    struct shmring_slice slice;
    REQUIRE(shmring_pool_loan(f.pool, 256, &slice) == 0);
    for (uint32_t i = 0; i < SHMRING_LENDS; i++)
        refs[i] = lend(&f, &slice, 256);
    struct shmring_slice_ref more;
    CHECK_EQ(shmring_pool_lend(f.pool, f.link, &slice, 256, &more), SHMRING_E_FULL);
    /* Out of order: the oldest is still out. */
    shmring_board_give_back(f.board, refs[200].lend_index, refs[200].lend);
    CHECK_EQ(shmring_pool_lend(f.pool, f.link, &slice, 256, &more), 0);
    CHECK_EQ(more.lend_index, refs[200].lend_index);
    CHECK(more.lend > refs[SHMRING_LENDS - 1].lend);
    CHECK_EQ(shmring_pool_lend(f.pool, f.link, &slice, 257, &more), -EINVAL);
    CHECK_EQ(shmring_pool_lend(f.pool, f.link + 1, &slice, 256, &more), -EINVAL);
    tear_down(&f);
}

static void lanes_divide_a_board_between_them(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_mapping mapping;
    struct shmring_board *board = make_board(&mapping);
    struct shmring_slice slice;
    struct shmring_slice_ref ref;
    uint32_t link;
    CHECK_EQ(shmring_pool_link_add(f.pool, board, 400, 81, &link), -EINVAL);
    CHECK_EQ(shmring_pool_link_add(f.pool, board, UINT32_MAX, 2, &link), -EINVAL);
    CHECK_EQ(shmring_pool_link_add(f.pool, board, 400, 0, &link), -EINVAL);
    REQUIRE(shmring_pool_link_add(f.pool, board, 400, 80, &link) == 0);
    REQUIRE(shmring_pool_loan(f.pool, 256, &slice) == 0);
    for (uint32_t i = 0; i < 80; i++) {
        CHECK_EQ(shmring_pool_lend(f.pool, link, &slice, 256, &ref), 0);
        CHECK(ref.lend_index >= 400 && ref.lend_index < 480);
    }
    CHECK_EQ(shmring_pool_lend(f.pool, link, &slice, 256, &ref), SHMRING_E_FULL);
    tear_down(&f);
    shmring_segment_unmap(&mapping);
}

static void a_hostile_board_frees_nothing_but_what_was_lent_there(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    uint64_t seed = check_seed();
    struct shmring_mapping mapping;
    struct shmring_board *hostile = make_board(&mapping);
    uint32_t hostile_link;
    REQUIRE(shmring_pool_link_add(f.pool, hostile, 0, SHMRING_LENDS, &hostile_link) == 0);
    struct shmring_slice honest_slice, hostile_slice;
    REQUIRE(shmring_pool_loan(f.pool, 256, &honest_slice) == 0);
    REQUIRE(shmring_pool_loan(f.pool, 256, &hostile_slice) == 0);
    const struct shmring_slice_ref ref = lend(&f, &honest_slice, 256);
    struct shmring_slice_ref bad;
    REQUIRE(shmring_pool_lend(f.pool, hostile_link, &hostile_slice, 256, &bad) == 0);
    shmring_pool_end(f.pool, &honest_slice);
    shmring_pool_end(f.pool, &hostile_slice);
    for (uint32_t round = 0; round < 2000; round++) {
        for (uint32_t i = 0; i < SHMRING_LENDS; i++) {
            uint64_t value = round < 1000 ? check_random(&seed) : check_random(&seed) % 8;
            if (i == bad.lend_index && value == bad.lend)
                value = 0;
            hostile->lend[i] = value;
        }
        hostile->waiters = (uint32_t)check_random(&seed);
        hostile->returned = (uint32_t)check_random(&seed);
        CHECK_EQ(shmring_pool_collect(f.pool, true), 0);
        CHECK_EQ(usage_of(&f).lends, 2);
    }
    /* Everything it could ever write, the honest one's number in every word too. */
    for (uint32_t i = 0; i < SHMRING_LENDS; i++)
        hostile->lend[i] = i == bad.lend_index ? bad.lend : ref.lend;
    CHECK_EQ(shmring_pool_collect(f.pool, true), 1);
    CHECK_EQ(usage_of(&f).lends, 1);
    shmring_board_give_back(f.board, SHMRING_LENDS, ref.lend); /* beyond the board */
    shmring_board_give_back(f.board, UINT32_MAX, ref.lend);
    CHECK_EQ(shmring_pool_collect(f.pool, true), 0);
    tear_down(&f);
    shmring_segment_unmap(&mapping);
}

/* ---- forwarding ------------------------------------------------------------------------------ */

static void a_forwarded_slice_goes_back_along_the_chain(void)
{
    struct fixture origin = set_up(UINT64_C(1) << 30);  /* origin lends to the forwarder */
    struct fixture forward = set_up(UINT64_C(1) << 30); /* forwarder lends to the third */
    struct shmring_slice slice, foreign;
    struct shmring_held held, third;
    REQUIRE(shmring_pool_loan(origin.pool, 4096, &slice) == 0);
    memset(slice.base, 0x33, 4096);
    const struct shmring_slice_ref ref = lend(&origin, &slice, 4000);
    shmring_pool_end(origin.pool, &slice);
    REQUIRE(shmring_view_hold(origin.view, origin.board, &ref, &held) == 0);

    REQUIRE(shmring_pool_adopt(forward.pool, &held, &foreign) == 0);
    CHECK(held.segment == NULL);
    CHECK_EQ(foreign.capacity_bytes, 4000);
    const struct shmring_slice_ref first = lend(&forward, &foreign, 4000);
    const struct shmring_slice_ref second = lend(&forward, &foreign, 100);
    shmring_pool_end(forward.pool, &foreign);
    CHECK_EQ(usage_of(&forward).foreign_segments, 1);
    CHECK_EQ(usage_of(&forward).charged_bytes, 0);

    /* The origin retires the segment for the forwarder's view; the third still reads it. */
    REQUIRE(shmring_view_hold(forward.view, forward.board, &first, &third) == 0);
    CHECK(((const uint8_t *)third.base)[3999] == 0x33);
    shmring_held_give_back(&third);
    CHECK_EQ(shmring_pool_collect(forward.pool, true), 1);
    CHECK_EQ(shmring_pool_collect(origin.pool, true), 0); /* the second lend is still out */
    shmring_board_give_back(forward.board, second.lend_index, second.lend);
    CHECK_EQ(shmring_pool_collect(forward.pool, true), 1);
    CHECK_EQ(shmring_pool_collect(origin.pool, true), 1);
    CHECK_EQ(usage_of(&origin).used_bytes, 0);

    CHECK_EQ(shmring_pool_trim(forward.pool, 1, 0), 1);
    uint32_t number = 0;
    CHECK_EQ(shmring_pool_take_retired(forward.pool, &number, 1), 1);
    CHECK_EQ(number, foreign.segment);
    CHECK_EQ(usage_of(&forward).foreign_segments, 0);
    tear_down(&forward);
    tear_down(&origin);
}

static void a_forwarder_that_ends_gives_back_to_the_origin(void)
{
    struct fixture origin = set_up(UINT64_C(1) << 30);
    struct fixture forward = set_up(UINT64_C(1) << 30);
    for (uint32_t lent = 0; lent < 2; lent++) {
        struct shmring_slice slice, foreign;
        struct shmring_held held;
        REQUIRE(shmring_pool_loan(origin.pool, 4096, &slice) == 0);
        const struct shmring_slice_ref ref = lend(&origin, &slice, 4096);
        shmring_pool_end(origin.pool, &slice);
        REQUIRE(shmring_view_hold(origin.view, origin.board, &ref, &held) == 0);
        REQUIRE(shmring_pool_adopt(forward.pool, &held, &foreign) == 0);
        if (lent == 1) {
            (void)lend(&forward, &foreign, 4096);
            shmring_pool_end(forward.pool, &foreign);
        }
    }
    shmring_pool_deinit(forward.pool);
    forward.pool = NULL;
    CHECK_EQ(shmring_pool_collect(origin.pool, true), 2);
    tear_down(&forward);
    tear_down(&origin);
}

static void forwarding_needs_a_descriptor(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice, foreign;
    struct shmring_slice_ref ref;
    struct shmring_held held;
    int fd;
    uint64_t size;
    REQUIRE(shmring_pool_loan(f.pool, 4096, &slice) == 0);
    REQUIRE(shmring_pool_segment(f.pool, slice.segment, &fd, &size) == 0);
    REQUIRE(shmring_view_attach(f.view, slice.segment, fd, size, false) == 0);
    REQUIRE(shmring_pool_lend(f.pool, f.link, &slice, 4096, &ref) == 0);
    REQUIRE(shmring_view_hold(f.view, f.board, &ref, &held) == 0);
    CHECK_EQ(shmring_pool_adopt(f.pool, &held, &foreign), -EBADF);
    CHECK(held.segment != NULL);
    shmring_held_give_back(&held);
    CHECK_EQ(shmring_pool_adopt(f.pool, &held, &foreign), -EINVAL);
    tear_down(&f);
}

CHECK_MAIN(RUN(a_lent_slice_is_free_when_it_is_given_back),
           RUN(a_slice_lent_to_several_is_free_when_the_last_gives_back),
           RUN(an_unsent_lend_is_taken_back_once),
           RUN(a_link_lends_as_many_slices_as_it_has_words),
           RUN(lanes_divide_a_board_between_them),
           RUN(a_hostile_board_frees_nothing_but_what_was_lent_there),
           RUN(a_forwarded_slice_goes_back_along_the_chain),
           RUN(a_forwarder_that_ends_gives_back_to_the_origin),
           RUN(forwarding_needs_a_descriptor))
