/* test_arena.c - private cells: kept, given back by any thread, outliving their arena. */
#include <pthread.h>
#include <sched.h>

#include "ring_kit.h"

#define BODY_BYTES 40u
#define KEPT 1000u

/* As a receiver does: fills the current cell and keeps it. */
static struct shmring_cell *keep(struct shmring_arena *arena, uint64_t value)
{
    struct shmring_cell *cell = arena->current;
    cell->message.body[0] = value;
    cell->message.length = 8;
    cell->give_back = NULL;
    shmring_cell_fill(cell, value, value + 1, 1000, 4711);
    KIT_MUST(shmring_arena_keep(arena));
    return cell;
}

static void two_cells_take_turns_as_long_as_one_message_lives(void)
{
    struct shmring_arena *arena = shmring_arena_create(BODY_BYTES);
    REQUIRE(arena != NULL);
    struct shmring_cell *first = arena->current, *second = NULL;
    for (uint64_t i = 0; i < 1000; i++) {
        struct shmring_cell *cell = keep(arena, i);
        if (i == 1)
            second = cell;
        CHECK(cell == (i % 2 ? second : first));
        CHECK_EQ(cell->byte_count, 8);
        CHECK(cell->payload == cell->message.body);
        CHECK(arena->current != cell);
        shmring_cell_give_back(cell);
    }
    CHECK_EQ(arena->chunk_count, 1);
    shmring_arena_close(arena);
}

static void many_kept_cells_are_all_different_and_stay_as_they_are(void)
{
    struct shmring_arena *arena = shmring_arena_create(BODY_BYTES);
    static struct shmring_cell *cells[KEPT];
    uint64_t seed = check_seed();
    REQUIRE(arena != NULL);
    for (uint64_t i = 0; i < KEPT; i++)
        cells[i] = keep(arena, i);
    uint32_t chunks = arena->chunk_count;
    for (uint64_t turn = 0; turn < 20000; turn++) {
        uint64_t i = check_random(&seed) % KEPT;
        CHECK_EQ(cells[i]->message.body[0] % KEPT, i);
        CHECK_EQ(cells[i]->node, cells[i]->message.body[0]);
        CHECK_EQ((uintptr_t)cells[i] % SHMRING_LINE_BYTES, 0);
        shmring_cell_give_back(cells[i]);
        cells[i] = keep(arena, i + KEPT * turn);
    }
    CHECK(arena->chunk_count <= chunks + 1);
    for (uint64_t i = 0; i < KEPT; i++)
        shmring_cell_give_back(cells[i]);
    shmring_arena_close(arena);
}

static uint32_t slices_given_back;

static void give_slice_back(struct shmring_cell *cell)
{
    CHECK(cell->owner == &slices_given_back);
    (void)__atomic_add_fetch(&slices_given_back, 1, __ATOMIC_RELAXED);
}

static void a_slice_is_given_back_once_with_its_cell(void)
{
    struct shmring_arena *arena = shmring_arena_create(BODY_BYTES);
    REQUIRE(arena != NULL);
    slices_given_back = 0;
    for (uint64_t i = 0; i < 10; i++) {
        struct shmring_cell *cell = keep(arena, i);
        if (i % 2) {
            cell->owner = &slices_given_back;
            cell->give_back = give_slice_back;
        }
        shmring_cell_give_back(cell);
    }
    CHECK_EQ(slices_given_back, 5);
    shmring_arena_close(arena);
}

/* One thread takes, others give back: a queue of one place for each of them. */
#define GIVERS 3u
struct handing {
    struct shmring_cell *cell[GIVERS];
    uint32_t over;
};

struct giver {
    struct handing *handing;
    uint32_t number;
    uint64_t sum;
};

static void *give_back_what_comes(void *context)
{
    struct giver *giver = context;
    struct shmring_cell **place = &giver->handing->cell[giver->number];
    for (;;) {
        bool over = __atomic_load_n(&giver->handing->over, __ATOMIC_ACQUIRE) != 0;
        struct shmring_cell *cell = __atomic_exchange_n(place, NULL, __ATOMIC_ACQ_REL);
        if (cell == NULL && over)
            return NULL;
        if (cell == NULL) {
            (void)sched_yield();
            continue;
        }
        giver->sum += cell->message.body[0];
        CHECK_EQ(cell->node, cell->message.body[0]);
        shmring_cell_give_back(cell);
    }
}

static void other_threads_give_back_while_one_takes_and_while_it_closes(void)
{
    const uint64_t count = CHECK_SLOW > 1 ? 2000 : 10000;
    for (uint32_t round = 0; round < 8; round++) {
        struct shmring_arena *arena = shmring_arena_create(BODY_BYTES);
        struct handing handing = {0};
        struct giver givers[GIVERS];
        pthread_t threads[GIVERS];
        REQUIRE(arena != NULL);
        for (uint32_t i = 0; i < GIVERS; i++) {
            givers[i] = (struct giver){.handing = &handing, .number = i};
            REQUIRE(pthread_create(&threads[i], NULL, give_back_what_comes, &givers[i]) == 0);
        }
        uint64_t sum = 0, given = 0;
        for (uint64_t value = 0; value < count; value++) {
            struct shmring_cell *cell = keep(arena, value);
            sum += value;
            /* What lies there still is given back here: it is not lost. */
            cell = __atomic_exchange_n(&handing.cell[value % GIVERS], cell, __ATOMIC_ACQ_REL);
            if (cell != NULL) {
                given += cell->message.body[0];
                shmring_cell_give_back(cell);
            }
        }
        if (round % 2)
            shmring_arena_close(arena); /* with cells out */
        __atomic_store_n(&handing.over, 1, __ATOMIC_RELEASE);
        for (uint32_t i = 0; i < GIVERS; i++) {
            (void)pthread_join(threads[i], NULL);
            given += givers[i].sum;
        }
        CHECK_EQ(given, sum);
        if (round % 2 == 0)
            shmring_arena_close(arena);
    }
}

static void a_closed_arena_lives_as_long_as_its_last_cell(void)
{
    struct shmring_cell *cells[100];
    for (uint32_t out = 0; out <= 100; out += 25) {
        struct shmring_arena *arena = shmring_arena_create(BODY_BYTES);
        REQUIRE(arena != NULL);
        for (uint32_t i = 0; i < out; i++)
            cells[i] = keep(arena, i);
        shmring_arena_close(arena);
        for (uint32_t i = out; i-- > 0;) { /* the leak and address sanitizers see the rest */
            CHECK_EQ(cells[i]->message.body[0], i);
            shmring_cell_give_back(cells[i]);
        }
    }
}

static uint32_t holds;

static void hold(void *receiver)
{
    CHECK(receiver == &holds);
    (void)__atomic_add_fetch(&holds, 1, __ATOMIC_RELAXED);
}

static void let_go(void *receiver)
{
    CHECK(receiver == &holds);
    (void)__atomic_sub_fetch(&holds, 1, __ATOMIC_RELAXED);
}

static void give_few_back(struct shmring_cell *cell)
{
    shmring_cell_few_end(cell);
}

static struct shmring_cell *keep_few(struct shmring_arena *arena, void *link)
{
    struct shmring_cell *cell = keep(arena, 1);
    cell->few.count = 1;
    cell->few.link = link;
    cell->give_back = give_few_back;
    return cell;
}

static void who_closes_is_held_by_what_needs_it_and_is_still_out(void)
{
    struct shmring_arena *arena = shmring_arena_create(BODY_BYTES);
    REQUIRE(arena != NULL);
    int one_link, other_link;
    struct shmring_cell *plain = keep(arena, 1);
    struct shmring_cell *early = keep_few(arena, &one_link);
    struct shmring_cell *first = keep_few(arena, &one_link);
    struct shmring_cell *second = keep_few(arena, &other_link);
    CHECK(shmring_arena_needs(arena, &one_link));
    shmring_cell_give_back(early);
    CHECK(shmring_arena_needs(arena, &one_link));
    holds = 0;
    shmring_arena_hold(arena, &holds, hold, let_go);
    CHECK_EQ(holds, 2);
    shmring_cell_give_back(first);
    CHECK_EQ(holds, 1);
    CHECK(!shmring_arena_needs(arena, &one_link));
    CHECK(shmring_arena_needs(arena, &other_link));
    shmring_cell_give_back(second);
    CHECK_EQ(holds, 0);
    shmring_cell_give_back(plain);
    CHECK_EQ(holds, 0);
    shmring_arena_close(arena);
}

static void cells_given_back_while_the_receiver_closes_hold_it_or_not(void)
{
    for (uint32_t round = 0; round < 200 / CHECK_SLOW + 10; round++) {
        struct shmring_arena *arena = shmring_arena_create(BODY_BYTES);
        struct handing handing = {0};
        struct giver giver = {.handing = &handing};
        pthread_t thread;
        REQUIRE(arena != NULL);
        holds = 0;
        REQUIRE(pthread_create(&thread, NULL, give_back_what_comes, &giver) == 0);
        for (uint32_t i = 0; i < 40; i++) {
            struct shmring_cell *cell = keep_few(arena, &holds);
            while (__atomic_load_n(&handing.cell[0], __ATOMIC_ACQUIRE) != NULL)
                shmring_pause();
            __atomic_store_n(&handing.cell[0], cell, __ATOMIC_RELEASE);
        }
        shmring_arena_hold(arena, &holds, hold, let_go);
        __atomic_store_n(&handing.over, 1, __ATOMIC_RELEASE);
        (void)pthread_join(thread, NULL);
        CHECK_EQ(holds, 0);
        shmring_arena_close(arena);
    }
}

CHECK_MAIN(RUN(two_cells_take_turns_as_long_as_one_message_lives),
           RUN(many_kept_cells_are_all_different_and_stay_as_they_are),
           RUN(a_slice_is_given_back_once_with_its_cell),
           RUN(other_threads_give_back_while_one_takes_and_while_it_closes),
           RUN(a_closed_arena_lives_as_long_as_its_last_cell),
           RUN(who_closes_is_held_by_what_needs_it_and_is_still_out),
           RUN(cells_given_back_while_the_receiver_closes_hold_it_or_not))
