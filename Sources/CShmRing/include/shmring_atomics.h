/*
 * shmring_atomics.h - every atomic operation of the library, its order in its name.
 *
 * There is no default order and no other place: code that touches shared bytes uses these, and each
 * use carries a label (SYNC ...) that docs/memory-order.md explains. Plain uint64_t and uint32_t
 * are used, because _Atomic fields vanish when Swift imports a header.
 *
 * Guarantees:
 *   1. load_acquire pairs with store_release, cas and exchange of the same word.
 *   2. exchange_full and fence_full order every access before them against every access after them,
 *      also a store against a later load, on every architecture.
 *   3. Nothing here blocks, allocates or enters the kernel.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SHMRING_INLINE static inline __attribute__((always_inline, unused))
/* Before a loop that waits for one word: it begins a line of code, wherever the linker puts the
 * function. What is measured against such a loop would move with it by 3 to 10 %. */
#if defined(__clang__) && defined(__has_c_attribute)
#if __has_c_attribute(clang::code_align)
#define SHMRING_ALIGNED_LOOP [[clang::code_align(64)]]
#endif
#endif
#ifndef SHMRING_ALIGNED_LOOP
#define SHMRING_ALIGNED_LOOP
#endif
#define shmring_likely(x) __builtin_expect(!!(x), 1)
#define shmring_unlikely(x) __builtin_expect(!!(x), 0)

_Static_assert(__atomic_always_lock_free(8, 0),
               "64-bit atomics must be lock-free: they are shared");
_Static_assert(__atomic_always_lock_free(4, 0),
               "32-bit atomics must be lock-free: they are shared");

SHMRING_INLINE uint64_t shmring_load_relaxed(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

SHMRING_INLINE uint64_t shmring_load_acquire(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

SHMRING_INLINE void shmring_store_relaxed(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

SHMRING_INLINE void shmring_store_release(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Acquire and release when it succeeds, acquire when it fails; *expected then holds what was
 * there. */
SHMRING_INLINE bool shmring_cas_acq_rel(uint64_t *word, uint64_t *expected, uint64_t desired)
{
    return __atomic_compare_exchange_n(word, expected, desired, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

SHMRING_INLINE uint64_t shmring_exchange_acq_rel(uint64_t *word, uint64_t value)
{
    return __atomic_exchange_n(word, value, __ATOMIC_ACQ_REL);
}

SHMRING_INLINE uint64_t shmring_fetch_or_acq_rel(uint64_t *word, uint64_t bits)
{
    return __atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL);
}

SHMRING_INLINE void shmring_fence_full(void)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    /* Any locked instruction is a full barrier; mfence costs 17 ns more. */
    __asm__ volatile("lock addl $0, -4(%%rsp)" ::: "memory", "cc");
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Stands where a clock is read that is not memory: a barrier between memory accesses does not order
 * a counter. Every access before it has completed - stores are visible, loads have their values -
 * before any instruction after it begins. On x86 a locked instruction drains the stores, and the
 * lfence waits for it. */
SHMRING_INLINE void shmring_fence_complete(void)
{
#if defined(__aarch64__)
    __asm__ volatile("dsb ish\n\tisb" ::: "memory");
#elif defined(__x86_64__)
    shmring_fence_full();
    __asm__ volatile("lfence" ::: "memory");
#else
    shmring_fence_full();
#endif
}

/* The other side: no instruction after it begins before the clock read before it has been read. */
SHMRING_INLINE void shmring_fence_clock_read(void)
{
#if defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#elif defined(__x86_64__)
    __asm__ volatile("lfence" ::: "memory");
#else
    shmring_fence_full();
#endif
}

/* An exchange that is also a full barrier. On x86 one instruction is both; elsewhere an atomic
 * exchange does not keep a later load behind its store, so a fence follows. */
SHMRING_INLINE uint64_t shmring_exchange_full(uint64_t *word, uint64_t value)
{
    uint64_t old = __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
#if !defined(__x86_64__)
    shmring_fence_full();
#endif
    return old;
}

/* Likewise an addition. */
SHMRING_INLINE uint64_t shmring_fetch_add_full(uint64_t *word, uint64_t value)
{
    uint64_t old = __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
#if !defined(__x86_64__)
    shmring_fence_full();
#endif
    return old;
}

SHMRING_INLINE uint32_t shmring_load_relaxed_u32(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

SHMRING_INLINE uint32_t shmring_load_acquire_u32(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

SHMRING_INLINE void shmring_store_relaxed_u32(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

SHMRING_INLINE void shmring_store_release_u32(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

SHMRING_INLINE uint32_t shmring_exchange_acq_rel_u32(uint32_t *word, uint32_t value)
{
    return __atomic_exchange_n(word, value, __ATOMIC_ACQ_REL);
}

SHMRING_INLINE bool shmring_cas_acq_rel_u32(uint32_t *word, uint32_t *expected, uint32_t desired)
{
    return __atomic_compare_exchange_n(word, expected, desired, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

SHMRING_INLINE uint32_t shmring_fetch_add_acq_rel_u32(uint32_t *word, uint32_t value)
{
    return __atomic_fetch_add(word, value, __ATOMIC_ACQ_REL);
}

SHMRING_INLINE uint64_t shmring_fetch_add_acq_rel(uint64_t *word, uint64_t value)
{
    return __atomic_fetch_add(word, value, __ATOMIC_ACQ_REL);
}

/* Tells the core that this is a spin loop. Some 26 ns on the machines measured: not for the first
 * turns of a loop that counts nanoseconds. */
SHMRING_INLINE void shmring_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* Asks for the line of `address` for writing before it is written. A hint. */
SHMRING_INLINE void shmring_prefetch_for_write(const void *address)
{
    __builtin_prefetch(address, 1, 3);
}
