/*
 * bus1_sys_sealed.h - memory that nobody can change any more, by its descriptor.
 *
 * Guarantees:
 *   1. What bus1_sys_sealed_map returns is the same for ever: no process can write it, shrink it,
 *      or take pages from it, and reading it needs no memory that is not there.
 *   2. Results are 0 or -errno, or one of enum bus1_sys_sealed_fault.
 */
#pragma once

#include <stdint.h>

enum bus1_sys_sealed_fault {
    BUS1_SYS_SEALED_NO_MEMORY_FILE = 1, /* a file of another kind */
    BUS1_SYS_SEALED_WRITABLE,           /* F_SEAL_WRITE or F_SEAL_SHRINK is missing */
    BUS1_SYS_SEALED_SHORT,              /* fewer bytes than are wanted */
    BUS1_SYS_SEALED_SPARSE,             /* a reader would pay for its pages */
};

/* Maps all of a memfd to be filled in, every page of it. */
int bus1_sys_sealed_prepare(int fd, uint64_t byte_count, void **base_out);
/* Unmaps it and seals it, for ever. */
int bus1_sys_sealed_seal(int fd, void *base, uint64_t byte_count);
/* Checks a descriptor that came from anybody. */
int bus1_sys_sealed_check(int fd, uint64_t byte_count);
/* The same, and maps so many bytes to be read. None: base is NULL. */
int bus1_sys_sealed_map(int fd, uint64_t byte_count, const void **base_out);
void bus1_sys_sealed_unmap(const void *base, uint64_t byte_count);
