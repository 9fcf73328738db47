/*
 * fuzz.h - what the fuzz targets have in common: the input as a script, memory in which a step
 * outside is seen, and words of the kind that hostile processes write.
 *
 * A target is one file with LLVMFuzzerTestOneInput. It stands for an honest process; its input says
 * what others write into the memory that they share with it, and which of its own calls come in
 * between. Whatever the input, no call may trap, read or write outside its memory, go on for ever,
 * or break what its header promises: FUZZ_CHECK.
 *
 * NOTE - shared memory is taken from the heap here, where the address sanitizer has its guards.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define FUZZ_CHECK(condition)                                                                    \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            (void)fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);        \
            abort();                                                                             \
        }                                                                                        \
    } while (0)
/* For what the kernel may refuse while a target sets itself up. */
#define FUZZ_MUST(call) FUZZ_CHECK((call) == 0)

/* The rest of the input. Past its end everything is 0. */
struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

static inline uint64_t fuzz_bytes(struct fuzz_input *input, size_t count)
{
    uint64_t value = 0;
    if (count > input->left)
        count = input->left;
    memcpy(&value, input->at, count);
    input->at += count;
    input->left -= count;
    return value;
}

static inline uint8_t fuzz_u8(struct fuzz_input *input)
{
    return (uint8_t)fuzz_bytes(input, 1);
}

static inline uint32_t fuzz_u16(struct fuzz_input *input)
{
    return (uint32_t)fuzz_bytes(input, 2);
}

static inline uint32_t fuzz_below(struct fuzz_input *input, uint32_t limit)
{
    return limit <= 256 ? fuzz_u8(input) % limit : fuzz_u16(input) % limit;
}

/* A word as somebody hostile would choose it: near `base`, near an end, or anything. */
static inline uint64_t fuzz_word(struct fuzz_input *input, uint64_t base)
{
    uint8_t how = fuzz_u8(input);
    uint64_t small = how >> 3;
    switch (how & 7) {
    case 0: return small;
    case 1: return base + small;
    case 2: return base - small;
    case 3: return UINT64_MAX - small;
    case 4: return (UINT64_C(1) << 63 | base) + small;
    case 5: return base + (small << fuzz_below(input, 64));
    case 6: return fuzz_bytes(input, 4);
    default: return fuzz_bytes(input, 8);
    }
}

/* Zeroed memory, on a page's boundary like a mapping, and guarded at both ends. */
static inline void *fuzz_memory(uint64_t byte_count)
{
    void *base = NULL;
    FUZZ_MUST(posix_memalign(&base, 4096, byte_count));
    memset(base, 0, byte_count);
    return base;
}

/* Reads every byte, so that one outside is seen. */
static inline uint64_t fuzz_touch(const void *base, uint64_t byte_count)
{
    const volatile uint8_t *bytes = base;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < byte_count; i++)
        sum += bytes[i];
    return sum;
}
