/*
 * pool_view.c - the receiver's side: which segments of one sender are mapped here, and what of them
 * is held.
 *
 * A sender may say that a segment is retired while a slice of it is still held here. Its word is
 * taken - no new slice is found there - but the mapping stays until the last holder has given back:
 * otherwise a hostile sender could pull memory from under a reader.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "placement.h"
#include "pool_private.h"

/* One reference belongs to the view, one to each held slice. */
struct shmring_view_segment {
    struct shmring_mapping mapping;
    int fd; /* -1 unless forwarding needs it */
    uint32_t number;
    uint32_t references; /* atomic: holders give back on any thread */
};

struct view_lane {
    struct shmring_view_segment **segments;
    uint32_t count;
};

struct shmring_view {
    uint64_t limit_bytes, mapped_bytes;
    struct view_lane lanes[SHMRING_LANES_MAX];
};

int shmring_view_init(uint64_t limit_bytes, struct shmring_view **view_out)
{
    *view_out = calloc(1, sizeof **view_out);
    if (*view_out == NULL)
        return -ENOMEM;
    (*view_out)->limit_bytes = limit_bytes;
    return 0;
}

void shmring_view_segment_drop(struct shmring_view_segment *segment)
{
    /* SYNC P8 acq_rel, pairs with itself in the other holders: who brings the count to 0 comes
     * after every read of the segment, and unmaps it. */
    if (shmring_fetch_add_acq_rel_u32(&segment->references, UINT32_MAX) != 1)
        return;
    shmring_segment_unmap(&segment->mapping);
    if (segment->fd >= 0)
        (void)close(segment->fd);
    free(segment);
}

void shmring_view_segment_keep(struct shmring_view_segment *segment)
{
    /* SYNC P9 acq_rel, more than is needed: the caller has a reference already - the view's own, on
     * the one thread that also detaches, or that of a held slice - so the count is above 0. */
    (void)shmring_fetch_add_acq_rel_u32(&segment->references, 1);
}

void shmring_view_deinit(struct shmring_view *view)
{
    if (view == NULL)
        return;
    for (uint32_t lane = 0; lane < SHMRING_LANES_MAX; lane++) {
        for (uint32_t i = 0; i < view->lanes[lane].count; i++) {
            if (view->lanes[lane].segments[i] != NULL)
                shmring_view_segment_drop(view->lanes[lane].segments[i]);
        }
        free(view->lanes[lane].segments);
    }
    free(view);
}

/* The place of a number in its lane's table, or NULL beyond what the table has. */
static struct shmring_view_segment **find_place(struct shmring_view *view, uint32_t number)
{
    struct view_lane *lane = &view->lanes[SHMRING_SEGMENT_LANE(number)];
    const uint32_t index = SHMRING_SEGMENT_INDEX(number);
    return shmring_likely(index < lane->count) ? &lane->segments[index] : NULL;
}

/* Grows to what the number needs: at most SHMRING_SEGMENTS_MAX pointers, whatever it says. */
static int make_place(struct shmring_view *view, uint32_t number)
{
    struct view_lane *lane = &view->lanes[SHMRING_SEGMENT_LANE(number)];
    uint32_t count = lane->count == 0 ? 8 : lane->count;
    while (count <= SHMRING_SEGMENT_INDEX(number))
        count *= 2;
    struct shmring_view_segment **segments = realloc(lane->segments, count * sizeof(*segments));
    if (segments == NULL)
        return -ENOMEM;
    for (uint32_t i = lane->count; i < count; i++)
        segments[i] = NULL;
    lane->segments = segments;
    lane->count = count;
    return 0;
}

/*
 * Maps a segment only when every page of it is there. Its blocks alone do not prove that: a sender
 * may have reserved as many beyond the file's end before it sealed it. Once it is sealed, no hole
 * can be made any more: hence the order.
 */
static int map_whole(int fd, uint64_t byte_count, struct shmring_mapping *mapping)
{
    const struct shmring_placement touch = {.prefault = true, .numa_node = -1};
    const int result = shmring_segment_map(fd, SHMRING_SEGMENT_POOL, SHMRING_READ_ONLY, byte_count,
                                           true, true, NULL, NULL, mapping);
    if (result != 0)
        return result;
    const off_t hole = lseek(fd, 0, SEEK_HOLE);
    if ((hole < 0 || (uint64_t)hole < byte_count) && !SHMRING_UNCHECKED(HOLES)) {
        const int error = hole < 0 ? -errno : SHMRING_E_SPARSE;
        shmring_segment_unmap(mapping);
        return error;
    }
    shmring_placement_apply(mapping, SHMRING_READ_ONLY, &touch, NULL);
    return 0;
}

int shmring_view_attach(struct shmring_view *view, uint32_t number, int fd, uint64_t byte_count,
                        bool keep_fd)
{
    if (shmring_forked())
        return SHMRING_E_FORKED;
    if (number >> (SHMRING_SEGMENT_INDEX_BITS + SHMRING_SEGMENT_LANE_BITS) == 0)
        return SHMRING_E_CORRUPT;
    struct shmring_view_segment **place = find_place(view, number);
    if (place != NULL && *place != NULL && (*place)->number == number)
        return SHMRING_E_CORRUPT;
    if (byte_count == 0)
        return SHMRING_E_SIZE;
    /* Its sender uses an index again once nothing of the former segment is out; that this one was
     * retired may be told later. Refused, all that is sent in the new one would be lost. */
    if (place != NULL && *place != NULL)
        (void)shmring_view_detach(view, (*place)->number);
    if (byte_count > view->limit_bytes - view->mapped_bytes)
        return SHMRING_E_FULL;
    int result = place == NULL ? make_place(view, number) : 0;
    if (result != 0)
        return result;
    struct shmring_view_segment *segment = calloc(1, sizeof *segment);
    if (segment == NULL)
        return -ENOMEM;
    segment->fd = -1;
    segment->number = number;
    segment->references = 1;
    result = map_whole(fd, byte_count, &segment->mapping);
    if (result == 0 && keep_fd && (segment->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
        result = -errno;
    if (result != 0) {
        shmring_view_segment_drop(segment);
        return result;
    }
    view->mapped_bytes += byte_count;
    *find_place(view, number) = segment;
    return 0;
}

int shmring_view_detach(struct shmring_view *view, uint32_t number)
{
    struct shmring_view_segment **place = find_place(view, number);
    if (place == NULL || *place == NULL || (*place)->number != number)
        return SHMRING_E_CORRUPT;
    struct shmring_view_segment *segment = *place;
    *place = NULL;
    view->mapped_bytes -= segment->mapping.byte_count;
    if (SHMRING_UNCHECKED(HELD))
        shmring_segment_unmap(&segment->mapping);
    shmring_view_segment_drop(segment);
    return 0;
}

int shmring_view_hold(struct shmring_view *view, struct shmring_board *board,
                      const struct shmring_slice_ref *ref, struct shmring_held *held_out)
{
    *held_out = (struct shmring_held){0};
    struct shmring_view_segment **place = find_place(view, ref->segment);
    struct shmring_view_segment *segment = place == NULL ? NULL : *place;
    if (shmring_unlikely(segment == NULL || segment->number != ref->segment || ref->lend == 0 ||
                         ref->lend_index >= SHMRING_LENDS))
        return SHMRING_E_CORRUPT;
    const uint64_t size = segment->mapping.byte_count;
    if (shmring_unlikely(ref->offset > size || ref->byte_count > size - ref->offset) &&
        !SHMRING_UNCHECKED(SLICE))
        return SHMRING_E_CORRUPT;
    if (shmring_unlikely(shmring_forked()))
        return SHMRING_E_FORKED;
    shmring_view_segment_keep(segment);
    *held_out = (struct shmring_held){
        .base = (const char *)segment->mapping.base + ref->offset,
        .byte_count = ref->byte_count,
        .segment = segment,
        .board = board,
        .offset = ref->offset,
        .lend = ref->lend,
        .lend_index = ref->lend_index,
    };
    return SHMRING_OK;
}

void shmring_held_give_back(struct shmring_held *held)
{
    if (held->segment == NULL || shmring_forked())
        return;
    /* The board first: until then the sender keeps the segment, and afterwards nothing is read. */
    shmring_board_give_back(held->board, held->lend_index, held->lend);
    shmring_view_segment_drop(held->segment);
    *held = (struct shmring_held){0};
}

int shmring_view_segment_fd(const struct shmring_view_segment *segment)
{
    return segment->fd;
}

uint64_t shmring_view_segment_bytes(const struct shmring_view_segment *segment)
{
    return segment->mapping.byte_count;
}
