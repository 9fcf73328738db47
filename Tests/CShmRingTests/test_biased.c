/* The lock that leans to one thread: alone inside, whoever it leans to and whoever comes. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "CShmRing.h"
#include "check.h"

/* As the layer above has it: with a lock beside it. */
struct shared {
    struct shmring_biased lock;
    pthread_mutex_t beside;
    uint64_t inside;  /* both plain: the sanitizers and their sums say who was alone */
    uint64_t visits;
};

static void begin(struct shared *shared)
{
    *shared = (struct shared){.inside = 0};
    REQUIRE(pthread_mutex_init(&shared->beside, NULL) == 0);
    shmring_biased_init(&shared->lock);
}

static void visit_inside(struct shared *shared)
{
    CHECK_EQ(shared->inside, 0);
    shared->inside = 1;
    shared->visits++;
    CHECK_EQ(shared->inside, 1);
    shared->inside = 0;
}

/* Whether it went without the lock beside it. */
static bool visit(struct shared *shared)
{
    struct shmring_bias *place = shmring_biased_enter(&shared->lock);
    if (place != NULL) {
        visit_inside(shared);
        shmring_biased_leave(place);
        return true;
    }
    (void)pthread_mutex_lock(&shared->beside);
    shmring_biased_stop(&shared->lock);
    visit_inside(shared);
    shmring_biased_go_on(&shared->lock);
    (void)pthread_mutex_unlock(&shared->beside);
    return false;
}

static void the_first_thread_needs_the_lock_beside_it_once(void)
{
    struct shared shared;
    begin(&shared);
    CHECK(!visit(&shared));
    for (uint32_t i = 0; i < 1000; i++)
        CHECK(visit(&shared));
    CHECK_EQ(shared.lock.stops, 0);
}

struct visitor {
    struct shared *shared;
    uint64_t count, short_ones;
    bool yields;
};

static void *visit_often(void *context)
{
    struct visitor *visitor = context;
    for (uint64_t i = 0; i < visitor->count; i++) {
        visitor->short_ones += visit(visitor->shared);
        if (visitor->yields)
            (void)sched_yield();
    }
    return NULL;
}

static uint64_t short_visits_of_another_thread(struct shared *shared, uint64_t count)
{
    pthread_t thread;
    struct visitor visitor = {.shared = shared, .count = count};
    if (CHECK_EQ(pthread_create(&thread, NULL, visit_often, &visitor), 0))
        (void)pthread_join(thread, NULL);
    return visitor.short_ones;
}

static void it_leans_to_another_thread_that_comes_twice_in_a_row(void)
{
    struct shared shared;
    begin(&shared);
    (void)visit(&shared);
    CHECK_EQ(short_visits_of_another_thread(&shared, 100), 98);
    CHECK_EQ(shared.visits, 101);
    CHECK(shared.lock.stops <= 2);
}

static void threads_that_come_in_turn_get_the_lock_beside_it(void)
{
    struct shared shared;
    begin(&shared);
    (void)visit(&shared);
    for (uint32_t i = 0; i < 2 * SHMRING_BIASED_STOPS; i++) {
        CHECK(short_visits_of_another_thread(&shared, 1) <= 1);
        (void)visit(&shared);
    }
    CHECK_EQ(shared.visits, 4 * SHMRING_BIASED_STOPS + 1);
    CHECK(shared.lock.stops <= SHMRING_BIASED_STOPS);
}

#define VISITORS 3u

static void whoever_is_inside_is_alone(void)
{
    const uint64_t count = 40000 / CHECK_SLOW;
    uint64_t short_ones = 0;
    for (uint32_t round = 0; round < 10; round++) {
        struct shared shared;
        struct visitor visitors[VISITORS];
        pthread_t threads[VISITORS];
        begin(&shared);
        /* One that hardly ever leaves, one that comes now and then, one in between. */
        uint64_t sum = 0;
        for (uint32_t i = 0; i < VISITORS; i++) {
            visitors[i] = (struct visitor){
                .shared = &shared, .count = i == 0 ? count : count / (100 * i), .yields = i > 0};
            sum += visitors[i].count;
            REQUIRE(pthread_create(&threads[i], NULL, visit_often, &visitors[i]) == 0);
        }
        for (uint32_t i = 0; i < VISITORS; i++) {
            (void)pthread_join(threads[i], NULL);
            short_ones += visitors[i].short_ones;
        }
        CHECK_EQ(shared.visits, sum);
    }
    CHECK(short_ones > 0);
}

static int forbid_membarrier(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -errno;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) ? -errno : 0;
}

static void without_the_kernels_barrier_it_leans_to_nobody(void)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        struct shared shared;
        begin(&shared);
        if (forbid_membarrier())
            _exit(2);
        (void)visit(&shared);
        bool is_short = visit(&shared);
        bool is_right = short_visits_of_another_thread(&shared, 100) == 0 && !visit(&shared);
        _exit(is_short && is_right && shared.visits == 103 ? 0 : 1);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        SKIP("no system call filter here");
    CHECK_EQ(status, 0);
}

CHECK_MAIN(RUN(the_first_thread_needs_the_lock_beside_it_once),
           RUN(it_leans_to_another_thread_that_comes_twice_in_a_row),
           RUN(threads_that_come_in_turn_get_the_lock_beside_it), RUN(whoever_is_inside_is_alone),
           RUN(without_the_kernels_barrier_it_leans_to_nobody))
