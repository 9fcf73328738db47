/* test_view.c - what a receiver maps of a pool, and holds. Units. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "pool_kit.h"

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

static void a_segment_takes_the_place_of_one_whose_end_was_not_told(void)
{
    struct fixture f = set_up(UINT64_C(1) << 30);
    struct shmring_slice slice;
    struct shmring_held held;
    int fd;
    uint64_t size;
    REQUIRE(shmring_pool_loan(f.pool, 4096, &slice) == 0);
    REQUIRE(shmring_pool_segment(f.pool, slice.segment, &fd, &size) == 0);
    const uint32_t later =
        slice.segment + (1u << (SHMRING_SEGMENT_INDEX_BITS + SHMRING_SEGMENT_LANE_BITS));
    CHECK_EQ(shmring_view_attach(f.view, slice.segment, fd, size, false), 0);
    CHECK_EQ(shmring_view_attach(f.view, later, fd, size, false), 0);
    struct shmring_slice_ref ref = {.segment = later, .lend = 1, .byte_count = 8};
    CHECK_EQ(shmring_view_hold(f.view, f.board, &ref, &held), 0);
    shmring_held_give_back(&held);
    ref.segment = slice.segment;
    CHECK_EQ(shmring_view_hold(f.view, f.board, &ref, &held), SHMRING_E_CORRUPT);
    /* The news of the first one's end, late. */
    CHECK_EQ(shmring_view_detach(f.view, slice.segment), SHMRING_E_CORRUPT);
    CHECK_EQ(shmring_view_detach(f.view, later), 0);
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

CHECK_MAIN(RUN(a_hostile_reference_is_corrupt_and_holds_nothing),
           RUN(a_view_refuses_numbers_that_are_taken_or_none),
           RUN(a_segment_takes_the_place_of_one_whose_end_was_not_told),
           RUN(holes_hidden_by_blocks_beyond_the_end_are_refused),
           RUN(a_receiver_cannot_write_what_it_was_sent),
           RUN(a_held_slice_stays_mapped_against_the_senders_word))
