#include "test_storm.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct test_storm {
    pthread_t victim, thunder;
    uint32_t every_us;
    uint32_t over;
};

static uint64_t handled;

static void handle(int signal)
{
    (void)signal;
    (void)__atomic_add_fetch(&handled, 1, __ATOMIC_RELAXED);
}

static void *thunder(void *context)
{
    struct test_storm *storm = context;
    struct timespec pause = {.tv_nsec = (long)storm->every_us * 1000};
    while (!__atomic_load_n(&storm->over, __ATOMIC_ACQUIRE)) {
        (void)pthread_kill(storm->victim, SIGUSR2);
        (void)nanosleep(&pause, NULL);
    }
    return NULL;
}

struct test_storm *test_storm_begin(uint32_t every_us)
{
    struct test_storm *storm = calloc(1, sizeof *storm);
    struct sigaction action = {.sa_handler = handle};
    sigset_t one;
    if (storm == NULL)
        return NULL;
    storm->victim = pthread_self();
    storm->every_us = every_us;
    __atomic_store_n(&handled, 0, __ATOMIC_RELAXED);
    (void)sigaction(SIGUSR2, &action, NULL);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    (void)pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    if (pthread_create(&storm->thunder, NULL, thunder, storm)) {
        free(storm);
        return NULL;
    }
    return storm;
}

uint64_t test_storm_end(struct test_storm *storm)
{
    __atomic_store_n(&storm->over, 1, __ATOMIC_RELEASE);
    (void)pthread_join(storm->thunder, NULL);
    free(storm);
    return __atomic_load_n(&handled, __ATOMIC_RELAXED);
}
