/*
 * The judge of `bus1-bench check`: a trace as text, read, judged, written and read again; and as it
 * lies in memory that a peer's process wrote. The first byte says which.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "bench_judge.h"
#include "fuzz.h"

static int text_fd, copy_fd;
static char text_path[64], copy_path[64];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    text_fd = memfd_create("text", MFD_CLOEXEC);
    copy_fd = memfd_create("copy", MFD_CLOEXEC);
    FUZZ_CHECK(text_fd >= 0 && copy_fd >= 0);
    (void)snprintf(text_path, sizeof text_path, "/proc/self/fd/%d", text_fd);
    (void)snprintf(copy_path, sizeof copy_path, "/proc/self/fd/%d", copy_fd);
    return 0;
}

static uint64_t judge(const struct bench_histories *all)
{
    struct bench_verdict verdict = {0};
    FUZZ_MUST(bench_judge(all, &verdict));
    FUZZ_CHECK((verdict.violations == 0) == (verdict.text == NULL || *verdict.text == 0));
    free(verdict.text);
    return verdict.violations;
}

static void as_text(const uint8_t *data, size_t size)
{
    struct bench_histories all = {0}, again = {0};
    const char *wrong = NULL;
    FUZZ_CHECK(ftruncate(text_fd, 0) == 0 && pwrite(text_fd, data, size, 0) == (ssize_t)size);
    int64_t result = bench_histories_read(&all, text_path, &wrong);
    FUZZ_CHECK(result >= 0 && (result == 0 || (wrong != NULL && *wrong != 0)));
    if (result == 0) {
        uint64_t violations = judge(&all);
        FUZZ_MUST(bench_histories_write(&all, copy_path));
        FUZZ_CHECK(bench_histories_read(&again, copy_path, &wrong) == 0);
        FUZZ_CHECK(judge(&again) == violations);
        bench_histories_free(&again);
    }
    bench_histories_free(&all);
}

static void as_memory(const uint8_t *data, size_t size)
{
    struct bench_histories all = {0};
    size_t half = size / 2 & ~(size_t)7, rest = size - half;
    uint8_t *first = malloc(half + 1), *second = malloc(rest + 1);
    FUZZ_CHECK(first != NULL && second != NULL);
    memcpy(first, data, half);
    memcpy(second, data + half, rest);
    if (bench_histories_add(&all, 1, first, half) == 0 &&
        bench_histories_add(&all, 2, second, rest) == 0)
        (void)judge(&all);
    bench_histories_free(&all);
    free(first);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] == 0xff)
        as_memory(data + 1, size - 1);
    else
        as_text(data, size);
    return 0;
}
