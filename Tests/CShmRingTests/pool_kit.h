/* pool_kit.h - what the unit tests of pools, lends and views have in common. */
#pragma once

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

static inline struct shmring_board *make_board(struct shmring_mapping *mapping)
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

static inline struct fixture set_up(uint64_t quota_bytes)
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

static inline void tear_down(struct fixture *f)
{
    shmring_pool_deinit(f->pool);
    shmring_view_deinit(f->view);
    shmring_segment_unmap(&f->board_mapping);
}

/* Lends a slice and makes sure that the view has its segment. */
static inline struct shmring_slice_ref lend(struct fixture *f, const struct shmring_slice *slice,
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

static inline struct shmring_pool_usage usage_of(const struct fixture *f)
{
    struct shmring_pool_usage usage;
    shmring_pool_usage(f->pool, &usage);
    return usage;
}
