#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "bench_shared.h"
#include "bench_work.h"

int bench_memory_create(const char *label, uint64_t byte_count)
{
    int fd = memfd_create(label, MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = posix_fallocate(fd, 0, (off_t)byte_count);
    if (error != 0) {
        close(fd);
        return -error;
    }
    return fd;
}

void *bench_memory_map(int fd, uint64_t byte_count)
{
    void *base =
        mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

void bench_memory_unmap(void *base, uint64_t byte_count)
{
    munmap(base, byte_count);
}

void bench_stage_meet(struct bench_stage *stage, uint32_t target)
{
    /* First sleep until all have come: a count of system calls must not depend on who came when.
     * Then, since waking takes a while, meet again without sleeping, so that all begin together. */
    uint32_t seen = __atomic_add_fetch(&stage->arrived, 1, __ATOMIC_ACQ_REL);
    syscall(SYS_futex, &stage->arrived, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    while ((int32_t)(seen - target) < 0) {
        syscall(SYS_futex, &stage->arrived, FUTEX_WAIT, seen, NULL, NULL, 0);
        seen = __atomic_load_n(&stage->arrived, __ATOMIC_ACQUIRE);
    }
    __atomic_fetch_add(&stage->ready, 1, __ATOMIC_ACQ_REL);
    for (uint64_t turns = 0;
         (int32_t)(__atomic_load_n(&stage->ready, __ATOMIC_ACQUIRE) - target) < 0; turns++)
        if (turns > 100000)
            usleep(50); /* workers may share a core */
}

/* ---- futex ---------------------------------------------------------------------------------- */

struct futex_pair {
    uint32_t ping;
    uint32_t pad0[31];
    uint32_t pong;
    uint32_t pad1[31];
};

static int futex_set(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
    return syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0) < 0 ? -errno : 0;
}

static int futex_await(uint32_t *word, uint32_t value)
{
    uint32_t seen;
    while ((seen = __atomic_load_n(word, __ATOMIC_SEQ_CST)) != value)
        if (syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0) < 0 && errno != EAGAIN &&
            errno != EINTR)
            return -errno;
    return 0;
}

int bench_futex_ping(void *base, const struct bench_job *job, struct bench_outcome *outcome)
{
    struct futex_pair *pair = base;
    uint32_t value = pair->ping;
    uint64_t before = outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count; i++) {
        if (job->interval_ticks)
            before = bench_pace(job, outcome->begin, i);
        int error = futex_set(&pair->ping, ++value);
        if (error == 0)
            error = futex_await(&pair->pong, value);
        if (error != 0)
            return error;
        before = bench_sample(job, i, before);
    }
    outcome->end = bench_ticks();
    outcome->messages = job->count;
    return 0;
}

int bench_futex_pong(void *base, const struct bench_job *job, struct bench_outcome *outcome)
{
    struct futex_pair *pair = base;
    uint32_t value = pair->pong;
    for (uint64_t i = 0; i < job->count; i++) {
        int error = futex_await(&pair->ping, ++value);
        if (error == 0)
            error = futex_set(&pair->pong, value);
        if (error != 0)
            return error;
    }
    outcome->messages = job->count;
    return 0;
}

/* ---- bare in-place hand-off ------------------------------------------------------------------ */

struct handoff_control {
    uint64_t tail; /* sender: payloads handed over */
    uint64_t pad0[15];
    uint64_t head; /* receiver: payloads done with */
    uint64_t pad1[15];
};
#define HANDOFF_OFFSET 4096u

uint64_t bench_handoff_bytes(uint32_t slots, uint64_t payload_bytes)
{
    return HANDOFF_OFFSET + slots * payload_bytes;
}

void bench_handoff_send(void *base, uint32_t slots, const struct bench_job *job,
                        struct bench_outcome *outcome)
{
    struct handoff_control *control = base;
    char *payloads = (char *)base + HANDOFF_OFFSET;
    uint64_t tail = control->tail, head = __atomic_load_n(&control->head, __ATOMIC_ACQUIRE);
    uint64_t sum = 0, index = tail % slots;
    outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count; i++) {
        while (tail - head >= slots)
            head = __atomic_load_n(&control->head, __ATOMIC_ACQUIRE);
        sum += bench_fill(payloads + index * job->payload_bytes, job->payload_bytes,
                          job->first_sequence + i);
        __atomic_store_n(&control->tail, ++tail, __ATOMIC_RELEASE);
        index = index + 1 == slots ? 0 : index + 1;
    }
    outcome->end = bench_ticks();
    outcome->sum = sum;
    outcome->messages = job->count;
}

void bench_handoff_receive(void *base, uint32_t slots, const struct bench_job *job,
                           struct bench_outcome *outcome)
{
    struct handoff_control *control = base;
    const char *payloads = (const char *)base + HANDOFF_OFFSET;
    uint64_t head = control->head, tail = head, index = head % slots;
    struct bench_check check;
    bench_check_begin(&check, job);
    while (check.remaining) {
        while (tail == head)
            tail = __atomic_load_n(&control->tail, __ATOMIC_ACQUIRE);
        uint64_t sequence;
        uint64_t sum = bench_read(payloads + index * job->payload_bytes, job->payload_bytes,
                                  &sequence);
        bench_check_note(&check, sequence, sum);
        __atomic_store_n(&control->head, ++head, __ATOMIC_RELEASE);
        index = index + 1 == slots ? 0 : index + 1;
    }
    outcome->end = bench_ticks();
    bench_check_end(&check, outcome);
}

void bench_memory_read(const void *base, uint64_t byte_count, const struct bench_job *job,
                       struct bench_outcome *outcome)
{
    uint64_t sum = 0, offset = 0, bytes = job->payload_bytes;
    outcome->begin = bench_ticks();
    for (uint64_t i = 0; i < job->count; i++) {
        sum += bench_read_part((const char *)base + offset, 0, bytes, bytes);
        offset = offset + 2 * bytes <= byte_count ? offset + bytes : 0;
    }
    outcome->end = bench_ticks();
    __asm__ volatile("" : : "r"(sum)); /* used */
    outcome->messages = job->count;
}
