/* test_pool.c - what a sender loans from its pool, and what it gives back to the machine. Units. */
#include <errno.h>

#include "pool_kit.h"

/* ---- loans ----------------------------------------------------------------------------------- */

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

/* ---- retirement ------------------------------------------------------------------------------ */

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

CHECK_MAIN(RUN(a_loan_has_room_for_what_was_asked_and_lies_in_its_segment),
           RUN(more_than_the_quota_is_too_large_and_a_used_up_quota_is_full),
           RUN(a_quota_smaller_than_a_segment_still_gives_slices),
           RUN(a_limit_on_file_size_is_an_error_and_no_signal),
           RUN(slices_are_reused_oldest_first_and_only_once_warm),
           RUN(a_huge_slice_is_loaned_again_from_the_same_segment),
           RUN(memory_is_back_once_idle_segments_are_retired),
           RUN(a_burst_is_given_back_while_the_class_is_in_use),
           RUN(a_number_is_not_used_again_for_the_next_segment))
