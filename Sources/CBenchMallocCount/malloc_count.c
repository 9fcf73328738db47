/*
 * malloc_count.c - counts allocations from outside: preload it (LD_PRELOAD), and each process that
 * ends adds a line with its count to the file that BENCH_MALLOC_COUNT names.
 *
 * NOTE - needs glibc, whose real functions have a second name.
 */
#include "malloc_count.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

extern void *__libc_malloc(size_t byte_count);
extern void *__libc_calloc(size_t count, size_t byte_count);
extern void *__libc_realloc(void *old, size_t byte_count);
extern void *__libc_memalign(size_t alignment, size_t byte_count);

static uint64_t allocations;

static void count_one(void)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
}

uint64_t bench_malloc_count(void)
{
    return __atomic_load_n(&allocations, __ATOMIC_RELAXED);
}

void *malloc(size_t byte_count)
{
    count_one();
    return __libc_malloc(byte_count);
}

void *calloc(size_t count, size_t byte_count)
{
    count_one();
    return __libc_calloc(count, byte_count);
}

void *realloc(void *old, size_t byte_count)
{
    count_one();
    return __libc_realloc(old, byte_count);
}

void *memalign(size_t alignment, size_t byte_count);
void *memalign(size_t alignment, size_t byte_count)
{
    count_one();
    return __libc_memalign(alignment, byte_count);
}

void *aligned_alloc(size_t alignment, size_t byte_count)
{
    count_one();
    return __libc_memalign(alignment, byte_count);
}

int posix_memalign(void **result, size_t alignment, size_t byte_count)
{
    count_one();
    *result = __libc_memalign(alignment, byte_count);
    return *result == NULL ? ENOMEM : 0;
}

__attribute__((destructor)) static void report(void)
{
    const char *path = getenv("BENCH_MALLOC_COUNT");
    char line[32];
    if (path == NULL)
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    int length = snprintf(line, sizeof line, "%llu\n", (unsigned long long)bench_malloc_count());
    if (write(fd, line, (size_t)length) != length)
        _exit(70);
    close(fd);
}
