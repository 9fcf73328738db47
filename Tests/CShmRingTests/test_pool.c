/* test_pool.c - pools, lends and views: units, one process. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "CShmRing.h"
#include "check.h"

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)

/* A sender's pool, a return board, and a receiver's view, in one process. */
struct fixture {
    struct shmring_pool *pool;
    struct shmring_view *view;
    struct shmring_mapping board_mapping;
    struct shmring_board *board;
    uint32_t link;
};

static struct shmring_board *make_board(struct shmring_mapping *mapping)
{
    int fd = -1;
    if (!CHECK_EQ(shmring_board_create(7, &fd), 0))
        exit(1);
    if (!CHECK_EQ(shmring_segment_map(fd, SHMRING_SEGMENT_BOARD, SHMRING_READ_WRITE, 0, false, true,
                                      NULL, NULL, mapping), 0))
        exit(1);
    (void)close(fd);
    return mapping->base;
}

static struct fixture set_up(uint64_t quota_bytes)
{
    struct fixture f = {0};
    const struct shmring_pool_options options = {
        .quota_bytes = quota_bytes, .placement = {.numa_node = -1}};
    CHECK_EQ(shmring_pool_init(&options, &f.pool), 0);
    CHECK_EQ(shmring_view_init(UINT64_C(1) << 40, &f.view), 0);
    f.board = make_board(&f.board_mapping);
    CHECK_EQ(shmring_pool_link_add(f.pool, f.board, 0, SHMRING_LENDS, &f.link), 0);
    return f;
}

static void tear_down(struct fixture *f)
{
    shmring_pool_deinit(f->pool);
    shmring_view_deinit(f->view);
    shmring_segment_unmap(&f->board_mapping);
}

/* Lends a slice and makes sure that the view has its segment. */
static struct shmring_slice_ref lend(struct fixture *f, const struct shmring_slice *slice,
                                     uint64_t byte_count)
{
    struct shmring_slice_ref ref = {0};
    if (!shmring_pool_is_announced(f->pool, f->link, slice->segment)) {
        int fd = -1;
        uint64_t segment_bytes = 0;
        CHECK_EQ(shmring_pool_segment(f->pool, slice->segment, &fd, &segment_bytes), 0);
        CHECK_EQ(shmring_view_attach(f->view, slice->segment, fd, segment_bytes, true), 0);
        CHECK_EQ(shmring_pool_announced(f->pool, f->link, slice->segment), 0);
    }
    CHECK_EQ(shmring_pool_lend(f->pool, f->link, slice, byte_count, &ref), 0);
    return ref;
}

static struct shmring_pool_usage usage_of(const struct fixture *f)
{
    struct shmring_pool_usage usage;
    shmring_pool_usage(f->pool, &usage);
    return usage;
}

/* ---- loans ---------------------------------------------------------------------------------- */

static void a_loan_has_room_for_what_was_asked_and_lies_in_its_segment(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    const uint64_t sizes[] = {0, 1, 255, 256, 257, 4096, 65535, 65536, 65537, MIB, MIB + 1,
                              3 * MIB, 5 * MIB + 123, 64 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct shmring_slice slice;
        int fd;
        uint64_t segment_bytes;
        REQUIRE(shmring_pool_loan(f.pool, sizes[i], &slice) == 0);
        CHECK(slice.capacity_bytes >= sizes[i]);
        CHECK(sizes[i] <= MIB || slice.capacity_bytes <= sizes[i] + sizes[i] / 8);
        CHECK_EQ(shmring_pool_segment(f.pool, slice.segment, &fd, &segment_bytes), 0);
        CHECK(slice.offset + slice.capacity_bytes <= segment_bytes);
        CHECK_EQ((uintptr_t)slice.base % 256, 0);
        memset(slice.base, 0x5a, sizes[i]);
        shmring_pool_end(f.pool, &slice);
    }
    CHECK_EQ(usage_of(&f).used_bytes, 0);
    tear_down(&f);
}

static void more_than_the_quota_is_too_large_and_a_used_up_quota_is_full(void)
{
    struct fixture f = set_up(8 * MIB);
    struct shmring_slice large, slice;
    CHECK_EQ(shmring_pool_loan(f.pool, 8 * MIB + 1, &large), SHMRING_E_TOO_LARGE);
    CHECK_EQ(shmring_pool_loan(f.pool, UINT64_MAX, &large), SHMRING_E_TOO_LARGE);
    REQUIRE(shmring_pool_loan(f.pool, 8 * MIB, &large) == 0);
    CHECK_EQ(shmring_pool_loan(f.pool, 1, &slice), SHMRING_E_FULL);
    CHECK(usage_of(&f).charged_bytes <= 8 * MIB);
    shmring_pool_end(f.pool, &large);
    /* What is free elsewhere makes room. */
    CHECK_EQ(shmring_pool_loan(f.pool, 1, &slice), 0);
    uint32_t retired = 0;
    CHECK_EQ(shmring_pool_take_retired(f.pool, &retired, 1), 1);
    CHECK_EQ(retired, large.segment);
    shmring_pool_end(f.pool, &slice);
    tear_down(&f);
}

static void a_quota_smaller_than_a_segment_still_gives_slices(void)
{
    struct fixture f = set_up(8 * KIB);
    struct shmring_slice slices[32];
    uint32_t count = 0;
    while (count < 32 && shmring_pool_loan(f.pool, 256, &slices[count]) == 0)
        count++;
    CHECK_EQ(count, 32);
    CHECK_EQ(usage_of(&f).charged_bytes, 8 * KIB);
    struct shmring_slice more;
    CHECK_EQ(shmring_pool_loan(f.pool, 256, &more), SHMRING_E_FULL);
    for (uint32_t i = 0; i < count; i++)
        shmring_pool_end(f.pool, &slices[i]);
    /* Not a power of two, and the rounded size of its class would not fit. */
    CHECK_EQ(shmring_pool_loan(f.pool, 7 * KIB, &more), 0);
    shmring_pool_end(f.pool, &more);
    tear_down(&f);
}

static void a_limit_on_file_size_is_an_error_and_no_signal(void)
{
    struct fixture f = set_up(UINT64_C(1) << 62);
    struct shmring_slice slice;
    /* More than any machine has: refused before it is tried. */
    CHECK_EQ(shmring_pool_loan(f.pool, UINT64_C(1) << 46, &slice), -ENOMEM);
    CHECK_EQ(usage_of(&f).charged_bytes, 0);
    tear_down(&f);
}

static void slices_are_reused_oldest_first_and_only_once_warm(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice;
    void *seen[64];
    /* 4 MiB of 64 KiB slices are touched before the first comes again. */
    for (uint32_t i = 0; i < 64; i++) {
        REQUIRE(shmring_pool_loan(f.pool, 64 * KIB, &slice) == 0);
        seen[i] = slice.base;
        for (uint32_t j = 0; j < i; j++)
            CHECK(seen[j] != slice.base);
        shmring_pool_end(f.pool, &slice);
    }
    for (uint32_t i = 0; i < 128; i++) {
        REQUIRE(shmring_pool_loan(f.pool, 64 * KIB, &slice) == 0);
        CHECK(slice.base == seen[i % 64]);
        shmring_pool_end(f.pool, &slice);
    }
    tear_down(&f);
}

static void a_huge_slice_is_loaned_again_from_the_same_segment(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice first, again;
    REQUIRE(shmring_pool_loan(f.pool, 64 * MIB, &first) == 0);
    shmring_pool_end(f.pool, &first);
    for (uint32_t i = 0; i < 100; i++) {
        REQUIRE(shmring_pool_loan(f.pool, 64 * MIB, &again) == 0);
        CHECK(again.segment == first.segment && again.base == first.base);
        const struct shmring_slice_ref ref = lend(&f, &again, 64 * MIB);
        shmring_pool_end(f.pool, &again);
        shmring_board_give_back(f.board, ref.lend_index, ref.lend);
    }
    tear_down(&f);
}

/* ---- lends ---------------------------------------------------------------------------------- */

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

/* ---- views ---------------------------------------------------------------------------------- */

static void a_hostile_reference_is_corrupt_and_holds_nothing(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice;
    struct shmring_held held;
    REQUIRE(shmring_pool_loan(f.pool, 4096, &slice) == 0);
    const struct shmring_slice_ref good = lend(&f, &slice, 4096);
    int fd;
    uint64_t size;
    REQUIRE(shmring_pool_segment(f.pool, slice.segment, &fd, &size) == 0);
    struct shmring_slice_ref bad[10];
    for (size_t i = 0; i < 10; i++)
        bad[i] = good;
    bad[0].segment = 0;
    bad[1].segment = good.segment + 1;
    bad[2].segment = UINT32_MAX;
    bad[3].offset = size + 1;
    bad[4].offset = UINT64_MAX - 100;
    bad[5].byte_count = UINT64_MAX;
    bad[6].offset = size - 10, bad[6].byte_count = 11;
    bad[7].lend_index = SHMRING_LENDS;
    bad[8].lend = 0;
    bad[9].offset = 8, bad[9].byte_count = UINT64_MAX - 4; /* their sum wraps to 3 */
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_EQ(shmring_view_hold(f.view, f.board, &bad[i], &held), SHMRING_E_CORRUPT);
        CHECK(held.segment == NULL && held.base == NULL);
    }
    uint64_t seed = check_seed();
    for (uint32_t i = 0; i < 100000; i++) {
        struct shmring_slice_ref ref = good;
        if (check_random(&seed) % 2)
            ref.segment = (uint32_t)check_random(&seed);
        ref.offset = check_random(&seed) >> check_random(&seed) % 64;
        ref.byte_count = check_random(&seed) >> check_random(&seed) % 64;
        if (shmring_view_hold(f.view, f.board, &ref, &held) != 0)
            continue;
        CHECK(ref.offset <= size && ref.byte_count <= size && ref.offset + ref.byte_count <= size);
        shmring_held_give_back(&held);
    }
    tear_down(&f);
}

static void a_view_refuses_numbers_that_are_taken_or_none(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice;
    struct shmring_view *small;
    int fd;
    uint64_t size;
    REQUIRE(shmring_pool_loan(f.pool, 4096, &slice) == 0);
    REQUIRE(shmring_pool_segment(f.pool, slice.segment, &fd, &size) == 0);
    CHECK_EQ(shmring_view_attach(f.view, 0, fd, size, false), SHMRING_E_CORRUPT);
    CHECK_EQ(shmring_view_attach(f.view, 5, fd, size, false), SHMRING_E_CORRUPT);
    CHECK_EQ(shmring_view_attach(f.view, slice.segment, fd, size + 4096, false), SHMRING_E_SIZE);
    CHECK_EQ(shmring_view_attach(f.view, slice.segment, fd, 0, false), SHMRING_E_SIZE);
    CHECK_EQ(shmring_view_attach(f.view, slice.segment, fd, size, false), 0);
    CHECK_EQ(shmring_view_attach(f.view, slice.segment, fd, size, false), SHMRING_E_CORRUPT);
    CHECK_EQ(shmring_view_detach(f.view, slice.segment + 1), SHMRING_E_CORRUPT);
    CHECK_EQ(shmring_view_detach(f.view, slice.segment), 0);
    CHECK_EQ(shmring_view_detach(f.view, slice.segment), SHMRING_E_CORRUPT);
    CHECK_EQ(shmring_view_attach(f.view, UINT32_MAX, fd, size, false), 0);
    REQUIRE(shmring_view_init(size - 1, &small) == 0);
    CHECK_EQ(shmring_view_attach(small, slice.segment, fd, size, false), SHMRING_E_FULL);
    shmring_view_deinit(small);
    /* What its maker could still map for writing, or has not paid for, is refused. */
    int open_fd = -1, sparse_fd = -1;
    CHECK_EQ(shmring_segment_create("t", 4096, true, &open_fd), 0);
    CHECK_EQ(shmring_view_attach(f.view, slice.segment, open_fd, 4096, false), SHMRING_E_SEALS);
    CHECK_EQ(shmring_segment_create("t", 8192, false, &sparse_fd), 0);
    CHECK_EQ(shmring_segment_seal(sparse_fd, true), 0);
    CHECK_EQ(shmring_view_attach(f.view, slice.segment, sparse_fd, 8192, false), SHMRING_E_SPARSE);
    (void)close(open_fd);
    (void)close(sparse_fd);
    tear_down(&f);
}

static void holes_hidden_by_blocks_beyond_the_end_are_refused(void)
{
    struct fixture f = set_up(MIB);
    const uint32_t number = UINT32_C(1) << 20;
    struct stat status;
    const int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK_EQ(ftruncate(fd, 65536), 0);
    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    CHECK_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 65536, 65536), 0);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    CHECK_EQ(shmring_segment_seal(fd, true), 0);
    CHECK_EQ(fstat(fd, &status), 0);
    const blkcnt_t blocks = status.st_blocks;
    CHECK(blocks * 512 >= 65536);
    CHECK_EQ(shmring_view_attach(f.view, number, fd, 65536, false), SHMRING_E_SPARSE);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_blocks, blocks); /* nothing was paid for */
    (void)close(fd);
    tear_down(&f);
}

static void a_receiver_cannot_write_what_it_was_sent(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice;
    int fd;
    uint64_t size;
    REQUIRE(shmring_pool_loan(f.pool, 4096, &slice) == 0);
    REQUIRE(shmring_pool_segment(f.pool, slice.segment, &fd, &size) == 0);
    CHECK(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    CHECK_EQ(pwrite(fd, "x", 1, 0), -1);
    memset(slice.base, 1, 4096); /* the sender still can */
    tear_down(&f);
}

static void a_held_slice_stays_mapped_against_the_senders_word(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice;
    struct shmring_held held, again;
    REQUIRE(shmring_pool_loan(f.pool, 4096, &slice) == 0);
    memset(slice.base, 0x42, 4096);
    const struct shmring_slice_ref ref = lend(&f, &slice, 4096);
    REQUIRE(shmring_view_hold(f.view, f.board, &ref, &held) == 0);
    CHECK_EQ(shmring_view_detach(f.view, slice.segment), 0);
    CHECK_EQ(shmring_view_hold(f.view, f.board, &ref, &again), SHMRING_E_CORRUPT);
    shmring_view_deinit(f.view);
    f.view = NULL;
    shmring_pool_deinit(f.pool);
    f.pool = NULL;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 4096; i++)
        sum += ((const uint8_t *)held.base)[i];
    CHECK_EQ(sum, 0x42 * 4096);
    shmring_held_give_back(&held);
    tear_down(&f);
}

/* ---- retirement ----------------------------------------------------------------------------- */

static uint64_t shmem_bytes(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "Shmem: %llu kB", &kib) == 1)
            break;
    }
    if (file != NULL)
        (void)fclose(file);
    return (uint64_t)kib * 1024;
}

static void memory_is_back_once_idle_segments_are_retired(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice;
    const uint64_t before = shmem_bytes();
    REQUIRE(shmring_pool_loan(f.pool, 200 * MIB, &slice) == 0);
    const struct shmring_slice_ref ref = lend(&f, &slice, 200 * MIB);
    shmring_pool_end(f.pool, &slice);
    const uint64_t during = shmem_bytes();
    CHECK(during >= before + 150 * MIB); /* others on this machine come and go */
    const uint64_t ms = 1000000;
    /* Lent: nothing goes, however long it lasts. */
    CHECK_EQ(shmring_pool_trim(f.pool, 1000 * ms, 50 * ms), 0);
    CHECK_EQ(shmring_pool_trim(f.pool, 2000 * ms, 50 * ms), 0);
    shmring_board_give_back(f.board, ref.lend_index, ref.lend);
    CHECK_EQ(shmring_pool_trim(f.pool, 3000 * ms, 50 * ms), 0);
    CHECK_EQ(shmring_pool_trim(f.pool, 3040 * ms, 50 * ms), 0);
    CHECK_EQ(shmring_pool_trim(f.pool, 3050 * ms, 50 * ms), 1);
    uint32_t number = 0;
    CHECK_EQ(shmring_pool_take_retired(f.pool, &number, 1), 1);
    CHECK_EQ(shmring_pool_take_retired(f.pool, &number, 1), 0);
    CHECK_EQ(number, slice.segment);
    CHECK(shmring_pool_withdraw(f.pool, f.link, number));
    CHECK(!shmring_pool_withdraw(f.pool, f.link, number));
    CHECK_EQ(shmring_view_detach(f.view, number), 0);
    CHECK(shmem_bytes() + 150 * MIB <= during);
    CHECK_EQ(usage_of(&f).charged_bytes, 0);
    CHECK_EQ(usage_of(&f).segments, 0);
    tear_down(&f);
}

static void a_burst_is_given_back_while_the_class_is_in_use(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slices[64], one;
    for (uint32_t i = 0; i < 64; i++)
        REQUIRE(shmring_pool_loan(f.pool, MIB, &slices[i]) == 0);
    for (uint32_t i = 0; i < 64; i++)
        shmring_pool_end(f.pool, &slices[i]);
    CHECK_EQ(usage_of(&f).charged_bytes, 64 * MIB);
    const uint64_t ms = 1000000;
    for (uint64_t now = 1000; now < 1300; now += 10) {
        REQUIRE(shmring_pool_loan(f.pool, MIB, &one) == 0);
        shmring_pool_end(f.pool, &one);
        (void)shmring_pool_trim(f.pool, now * ms, 50 * ms);
    }
    /* One slice at a time needs no more than what keeps the class warm: one segment. */
    CHECK_EQ(usage_of(&f).charged_bytes, 4 * MIB);
    tear_down(&f);
}

static void a_number_is_not_used_again_for_the_next_segment(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    uint32_t last = 0;
    for (uint32_t i = 0; i < 5000; i++) {
        struct shmring_slice slice;
        REQUIRE(shmring_pool_loan(f.pool, 256, &slice) == 0);
        CHECK(slice.segment != last && slice.segment != 0);
        last = slice.segment;
        shmring_pool_end(f.pool, &slice);
        CHECK_EQ(shmring_pool_trim(f.pool, i, 0), 1);
        uint32_t number;
        CHECK_EQ(shmring_pool_take_retired(f.pool, &number, 1), 1);
    }
    tear_down(&f);
}

/* ---- forwarding ----------------------------------------------------------------------------- */

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

CHECK_MAIN(RUN(a_loan_has_room_for_what_was_asked_and_lies_in_its_segment),
           RUN(more_than_the_quota_is_too_large_and_a_used_up_quota_is_full),
           RUN(a_quota_smaller_than_a_segment_still_gives_slices),
           RUN(a_limit_on_file_size_is_an_error_and_no_signal),
           RUN(slices_are_reused_oldest_first_and_only_once_warm),
           RUN(a_huge_slice_is_loaned_again_from_the_same_segment),
           RUN(a_lent_slice_is_free_when_it_is_given_back),
           RUN(a_slice_lent_to_several_is_free_when_the_last_gives_back),
           RUN(an_unsent_lend_is_taken_back_once), RUN(a_link_lends_as_many_slices_as_it_has_words),
           RUN(lanes_divide_a_board_between_them),
           RUN(a_hostile_board_frees_nothing_but_what_was_lent_there),
           RUN(a_hostile_reference_is_corrupt_and_holds_nothing),
           RUN(a_view_refuses_numbers_that_are_taken_or_none),
           RUN(holes_hidden_by_blocks_beyond_the_end_are_refused),
           RUN(a_receiver_cannot_write_what_it_was_sent),
           RUN(a_held_slice_stays_mapped_against_the_senders_word),
           RUN(memory_is_back_once_idle_segments_are_retired),
           RUN(a_burst_is_given_back_while_the_class_is_in_use),
           RUN(a_number_is_not_used_again_for_the_next_segment),
           RUN(a_forwarded_slice_goes_back_along_the_chain),
           RUN(a_forwarder_that_ends_gives_back_to_the_origin), RUN(forwarding_needs_a_descriptor))
