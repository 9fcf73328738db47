/*
 * Payload memory from both sides. A sender's pool whose return boards others write; a receiver's
 * view whose sender announces, retires and refers to slices as it likes.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "CShmRing.h"
#include "fuzz.h"

#define LINKS 2u
#define LOANS 8u
#define HELD 8u
#define FILES 4u
#define QUOTA_BYTES (UINT64_C(1) << 20)

static struct shmring_board *boards[LINKS];
static struct {
    int fd;
    uint64_t byte_count;
} files[FILES];

static struct {
    struct shmring_pool *pool;
    struct shmring_view *view;
    uint32_t link[LINKS];
    bool linked[LINKS];
    struct shmring_slice slices[LOANS];
    uint32_t lends[LOANS][LINKS];
    struct shmring_slice_ref refs[LOANS];
    struct shmring_held held[HELD];
} s;

/* What a sender may hand over: two segments, one that is not sealed, one that is no memfd. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    for (uint32_t i = 0; i < LINKS; i++)
        boards[i] = fuzz_memory(sizeof *boards[i]);
    for (uint32_t i = 0; i < FILES; i++) {
        files[i].byte_count = (i + 1) * SHMRING_PAGE_BYTES;
        if (i == 3) {
            files[i].fd = open("/dev/null", O_RDWR | O_CLOEXEC);
            continue;
        }
        FUZZ_MUST(shmring_segment_create("fuzz", files[i].byte_count, true, &files[i].fd));
        if (i != 2)
            FUZZ_MUST(shmring_segment_seal(files[i].fd, true));
    }
    return 0;
}

static void set_up(void)
{
    const struct shmring_pool_options options = {.quota_bytes = QUOTA_BYTES,
                                                 .warm_bytes = 1,
                                                 .warm_small_bytes = 1,
                                                 .placement = {.numa_node = -1}};
    memset(&s, 0, sizeof s);
    FUZZ_MUST(shmring_pool_init(&options, &s.pool));
    FUZZ_MUST(shmring_view_init(QUOTA_BYTES, &s.view));
    for (uint32_t i = 0; i < LINKS; i++) {
        memset(boards[i], 0, sizeof *boards[i]);
        FUZZ_MUST(shmring_pool_link_add(s.pool, boards[i], 4, 16, &s.link[i]));
        s.linked[i] = true;
    }
}

/* Everything ends; then the sender's ledger must come out even, whatever the boards say. */
static void tear_down(void)
{
    struct shmring_pool_usage usage;
    for (uint32_t i = 0; i < HELD; i++)
        shmring_held_give_back(&s.held[i]);
    for (uint32_t i = 0; i < LINKS; i++)
        if (s.linked[i])
            (void)shmring_pool_link_remove(s.pool, s.link[i]);
    for (uint32_t i = 0; i < LOANS; i++)
        if (s.slices[i].base != NULL)
            shmring_pool_end(s.pool, &s.slices[i]);
    shmring_pool_usage(s.pool, &usage);
    FUZZ_CHECK(usage.used_bytes == 0 && usage.lends == 0);
    FUZZ_CHECK(usage.charged_bytes <= QUOTA_BYTES);
    shmring_pool_deinit(s.pool);
    shmring_view_deinit(s.view);
}

static void lend(struct fuzz_input *input, uint32_t loan, uint32_t link)
{
    struct shmring_slice *slice = &s.slices[loan];
    if (slice->base == NULL || !s.linked[link])
        return;
    uint64_t byte_count = fuzz_word(input, slice->capacity_bytes);
    int result = shmring_pool_lend(s.pool, s.link[link], slice, byte_count, &s.refs[loan]);
    FUZZ_CHECK(result == SHMRING_OK || result == SHMRING_E_FULL || result == -22);
    if (result == SHMRING_OK)
        FUZZ_CHECK(s.refs[loan].lend_index >= 4 && s.refs[loan].lend_index < 20);
}

static void hold(struct fuzz_input *input, uint32_t at)
{
    struct shmring_slice_ref ref = {.segment = 1u << 20 | fuzz_u8(input),
                                    .lend_index = (uint32_t)fuzz_word(input, SHMRING_LENDS),
                                    .lend = fuzz_word(input, 1),
                                    .offset = fuzz_word(input, SHMRING_PAGE_BYTES),
                                    .byte_count = fuzz_word(input, SHMRING_PAGE_BYTES)};
    if (ref.segment & 0x80)
        ref.segment = (uint32_t)fuzz_word(input, 1u << 20);
    shmring_held_give_back(&s.held[at]);
    if (shmring_view_hold(s.view, boards[0], &ref, &s.held[at]) == SHMRING_OK)
        (void)fuzz_touch(s.held[at].base, s.held[at].byte_count);
    else
        FUZZ_CHECK(s.held[at].base == NULL && s.held[at].segment == NULL);
}

static void step(struct fuzz_input *input)
{
    uint8_t operation = fuzz_u8(input);
    uint32_t loan = operation >> 4 & 7, link = operation >> 7;
    struct shmring_slice *slice = &s.slices[loan];
    switch (operation & 15) {
    case 0: case 1: {
        if (slice->base != NULL)
            break;
        uint64_t byte_count = 1 + (fuzz_word(input, 4096) & 0x3ffff);
        int result = shmring_pool_loan(s.pool, byte_count, slice);
        FUZZ_CHECK(result == SHMRING_OK || result == SHMRING_E_FULL);
        if (result == SHMRING_OK)
            memset(slice->base, 0x5a, byte_count);
        else
            slice->base = NULL;
        break;
    }
    case 2: case 3: lend(input, loan, link); break;
    case 4: /* a board: honest, or anything */
        boards[link]->lend[s.refs[loan].lend_index % SHMRING_LENDS] = s.refs[loan].lend;
        break;
    case 5: case 6:
        boards[link]->lend[fuzz_below(input, 24)] = fuzz_word(input, s.refs[loan].lend);
        break;
    case 7: (void)shmring_pool_collect(s.pool, loan & 1); break;
    case 8:
        if (s.linked[link])
            (void)shmring_pool_take_back(s.pool, s.link[link], &s.refs[loan]);
        memset(&s.refs[loan], 0, sizeof s.refs[loan]);
        break;
    case 9:
        if (slice->base != NULL)
            shmring_pool_end(s.pool, slice);
        slice->base = NULL;
        break;
    case 10: {
        uint32_t retired[4];
        (void)shmring_pool_trim(s.pool, 1, 0);
        FUZZ_CHECK(shmring_pool_take_retired(s.pool, retired, 4) <= 4);
        break;
    }
    case 11:
        if (operation & 0x40) {
            if (s.linked[link])
                (void)shmring_pool_link_remove(s.pool, s.link[link]);
            s.linked[link] = false;
        } else {
            boards[link]->waiters = fuzz_u8(input);
            (void)shmring_pool_wait(s.pool, 1);
        }
        break;
    case 12: {
        uint32_t file = fuzz_below(input, FILES), number = 1u << 20 | fuzz_u8(input);
        uint64_t said = operation & 0x40 ? fuzz_word(input, 4096) : files[file].byte_count;
        (void)shmring_view_attach(s.view, number, files[file].fd, said, loan & 1);
        break;
    }
    case 13: (void)shmring_view_detach(s.view, 1u << 20 | fuzz_u8(input)); break;
    default: hold(input, loan);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    set_up();
    for (uint32_t steps = 0; input.left != 0 && steps < 128; steps++)
        step(&input);
    tear_down();
    return 0;
}
