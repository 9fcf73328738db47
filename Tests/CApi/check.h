/* What the C tests of the interface share: one check, which says where it failed. */
#ifndef CHECK_H
#define CHECK_H

#include "bus1.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static inline void check_failed(const char *file, int line, const char *what, long long is,
                                long long wanted)
{
    char text[256] = "";
    bus1_last_error_text(text, sizeof(text));
    fprintf(stderr, "%s:%d: %s is %lld, not %lld (%s)\n", file, line, what, is, wanted, text);
    exit(1);
}

#define IS(expression, wanted)                                                                     \
    do {                                                                                           \
        long long is_ = (long long)(expression), wanted_ = (long long)(wanted);                    \
        if (is_ != wanted_) check_failed(__FILE__, __LINE__, #expression, is_, wanted_);           \
    } while (0)
#define OK(expression) IS(expression, 0)
#define TRUE(expression) IS(!!(expression), 1)

/* A test's name is a sentence. */
#define TEST(sentence)                                                                             \
    do {                                                                                           \
        printf("  %s\n", sentence);                                                                \
        fflush(stdout);                                                                            \
    } while (0)

#endif
