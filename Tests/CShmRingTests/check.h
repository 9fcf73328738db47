/*
 * check.h - a test program in plain C: functions named as sentences, run one after the other.
 *
 *     static void a_thing_does_what_it_says(void) { CHECK(...); CHECK_EQ(a, b); }
 *     CHECK_MAIN(RUN(a_thing_does_what_it_says), RUN(...))
 *
 * A failed check prints file and line and the test goes on. A watchdog ends the program when a test
 * takes longer than CHECK_SECONDS (times CHECK_SLOW, which sanitizers and qemu set). Random tests
 * take their seed from check_seed(), which prints it; CHECK_SEED=n in the environment repeats a
 * run, and the name of a test as argument runs that one alone.
 */
#pragma once

#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef CHECK_SECONDS
#define CHECK_SECONDS 30u
#endif
#ifndef CHECK_SLOW
#define CHECK_SLOW 1u
#endif

struct check_test {
    const char *name;
    void (*run)(void);
};

static uint32_t check_failures; /* of the running test */
static const char *check_current = "";
static const char *check_skipped; /* why, or NULL */

static inline void check_failed(const char *file, int line, const char *text)
{
    /* Threads may fail at once; only 0 or not is asked for. */
    (void)__atomic_fetch_add(&check_failures, 1u, __ATOMIC_RELAXED);
    (void)fprintf(stderr, "%s:%d: %s: %s\n", file, line, check_current, text);
}

static inline bool check_equal(const char *file, int line, const char *text, int64_t left,
                               int64_t right)
{
    if (left == right)
        return true;
    char message[512];
    (void)snprintf(message, sizeof message, "%s: %" PRId64 " is not %" PRId64, text, left, right);
    check_failed(file, line, message);
    return false;
}

/* Both are expressions that say whether the check held. */
#define CHECK(condition) \
    ((condition) ? true : (check_failed(__FILE__, __LINE__, #condition), false))
#define CHECK_EQ(left, right) \
    check_equal(__FILE__, __LINE__, #left " == " #right, (int64_t)(left), (int64_t)(right))
/* For what the rest of a test cannot do without. */
#define REQUIRE(condition)                                    \
    do {                                                      \
        if (!(condition)) {                                   \
            check_failed(__FILE__, __LINE__, "needs " #condition); \
            return;                                           \
        }                                                     \
    } while (0)
#define SKIP(reason)              \
    do {                          \
        check_skipped = (reason); \
        return;                   \
    } while (0)

static inline uint64_t check_seed(void)
{
    const char *given = getenv("CHECK_SEED");
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seed = (uint64_t)now.tv_nsec * 2654435761u ^ (uint64_t)now.tv_sec;
    if (given != NULL)
        seed = strtoull(given, NULL, 0);
    (void)printf("  seed: CHECK_SEED=%" PRIu64 " (%s)\n", seed, check_current);
    (void)fflush(stdout);
    return seed;
}

/* xorshift64*: a test's own random numbers, the same everywhere. */
static inline uint64_t check_random(uint64_t *state)
{
    uint64_t x = *state == 0 ? 88172645463325252u : *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 2685821657736338717u;
}

static inline uint64_t check_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void check_watchdog(int number)
{
    (void)number;
    static const char text[] = "watchdog: took too long: ";
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    (void)!write(STDERR_FILENO, check_current, strlen(check_current));
    (void)!write(STDERR_FILENO, "\n", 1);
    _exit(3);
}

static inline int check_run(const struct check_test *tests, size_t count, int argc, char **argv)
{
    uint32_t passed = 0, failed = 0, skipped = 0;
    (void)signal(SIGALRM, check_watchdog);
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(argv[1], tests[i].name) != 0)
            continue;
        check_current = tests[i].name;
        check_failures = 0;
        check_skipped = NULL;
        (void)alarm(CHECK_SECONDS * CHECK_SLOW);
        tests[i].run();
        (void)alarm(0);
        if (check_failures != 0)
            failed++;
        else if (check_skipped != NULL)
            skipped++;
        else
            passed++;
        if (check_failures != 0)
            (void)printf("FAILED %s\n", check_current);
        else if (check_skipped != NULL)
            (void)printf("skipped %s: %s\n", check_current, check_skipped);
        (void)fflush(stdout);
    }
    const char *name = strrchr(argv[0], '/');
    (void)printf("%s: %u passed, %u failed, %u skipped\n", name == NULL ? argv[0] : name + 1,
                 passed, failed, skipped);
    return failed != 0;
}

#define RUN(test) {#test, test}
#define CHECK_MAIN(...)                                                             \
    int main(int argc, char **argv)                                                 \
    {                                                                               \
        static const struct check_test tests[] = {__VA_ARGS__};                     \
        return check_run(tests, sizeof tests / sizeof tests[0], argc, argv);        \
    }
