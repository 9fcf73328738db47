/* test_segment.c - what is made, what is refused and why, and what a fork sees. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "CShmRing.h"
#include "check.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#define MIB (UINT64_C(1) << 20)

static bool under_qemu(void)
{
    return getenv("CHECK_RUNNER") != NULL;
}

/* Maps read-only as asked and unmaps: only the outcome counts. */
static int try_map(int fd, enum shmring_segment_kind kind, uint64_t byte_count,
                   bool require_future_write, bool require_blocks)
{
    struct shmring_mapping mapping;
    const int result = shmring_segment_map(fd, kind, SHMRING_READ_ONLY, byte_count,
                                           require_future_write, require_blocks, NULL, NULL,
                                           &mapping);
    CHECK((result == 0) == (mapping.base != NULL));
    shmring_segment_unmap(&mapping);
    CHECK(mapping.base == NULL && mapping.byte_count == 0);
    return result;
}

static uint32_t count_lines(const char *path)
{
    uint32_t lines = 0;
    FILE *file = fopen(path, "re");
    for (int c; file != NULL && (c = fgetc(file)) != EOF;)
        lines += c == '\n';
    if (file != NULL)
        (void)fclose(file);
    return lines;
}

/* The lowest free descriptor: grows when one leaks. */
static int next_fd(void)
{
    const int fd = dup(STDERR_FILENO);
    (void)close(fd);
    return fd;
}

/* ---- making --------------------------------------------------------------------------------- */

static void a_segment_has_the_size_seals_and_blocks_it_was_made_with(void)
{
    int fd = -1;
    struct stat status;
    REQUIRE(shmring_segment_create("test", 5000, true, &fd) == 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 8192);
    CHECK(status.st_blocks * 512 >= 8192);
    CHECK_EQ(status.st_nlink, 0);
    CHECK_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    const int seals = fcntl(fd, F_GET_SEALS);
    CHECK((seals & F_SEAL_SHRINK) != 0 && (seals & F_SEAL_GROW) != 0);
    CHECK((seals & F_SEAL_SEAL) == 0);
    CHECK_EQ(ftruncate(fd, 4096), -1);
    CHECK_EQ(shmring_segment_seal(fd, true), 0);
    CHECK_EQ(shmring_segment_seal(fd, true), 0); /* once more does no harm */
    CHECK((fcntl(fd, F_GET_SEALS) & F_SEAL_FUTURE_WRITE) != 0);
    (void)close(fd);
    CHECK_EQ(shmring_segment_seal(fd, true), -EBADF);
}

static void what_cannot_be_made_is_an_error_and_leaves_nothing_open(void)
{
    const int before = next_fd();
    int fd = 5;
    CHECK_EQ(shmring_segment_create("test", 0, true, &fd), -EINVAL);
    CHECK_EQ(fd, -1);
    CHECK_EQ(shmring_segment_create("test", UINT64_MAX, true, &fd), -EFBIG);
    CHECK_EQ(shmring_segment_create("test", UINT64_C(1) << 60, true, &fd), -ENOMEM);
    CHECK_EQ(fd, -1);
    CHECK_EQ(next_fd(), before);
}

static void a_file_size_limit_is_an_error_and_no_signal(void)
{
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit limit = {MIB, MIB};
        int fd;
        (void)setrlimit(RLIMIT_FSIZE, &limit);
        _exit(shmring_segment_create("test", 2 * MIB, true, &fd) == -EFBIG ? 0 : 1);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

static void ignore_signal(int number)
{
    (void)number;
}

static void a_fast_timer_does_not_keep_a_large_segment_from_being_made(void)
{
    const struct itimerval fast = {{0, 500}, {0, 500}};
    const struct itimerval off = {{0, 0}, {0, 0}};
    struct sigaction action = {.sa_handler = ignore_signal};
    (void)sigaction(SIGVTALRM, &action, NULL);
    (void)setitimer(ITIMER_VIRTUAL, &fast, NULL);
    int fd = -1;
    CHECK_EQ(shmring_segment_create("test", 128 * MIB, true, &fd), 0);
    (void)setitimer(ITIMER_VIRTUAL, &off, NULL);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 128 * MIB, false, true), 0);
    (void)close(fd);
}

static void sizes_out_of_range_are_refused(void)
{
    int fd;
    CHECK_EQ(shmring_ring_bytes(1024, 64), 4096 + 8192 + 65536);
    CHECK_EQ(shmring_ring_bytes(16, 64), 4096 + 4096 + 4096);
    CHECK_EQ(shmring_ring_slots_offset(16), 8192);
    CHECK_EQ(shmring_ring_bytes(8, 64), 0);
    CHECK_EQ(shmring_ring_bytes(1000, 64), 0);
    CHECK_EQ(shmring_ring_bytes(UINT32_C(1) << 21, 64), 0);
    CHECK_EQ(shmring_ring_bytes(1024, 32), 0);
    CHECK_EQ(shmring_ring_bytes(1024, 96), 0);
    CHECK_EQ(shmring_ring_bytes(1024, 2048), 0);
    CHECK_EQ(shmring_claims_bytes(0), 0);
    CHECK_EQ(shmring_claims_bytes(SHMRING_LANES_MAX + 1), 0);
    CHECK_EQ(shmring_outbox_bytes(0), 0);
    CHECK_EQ(shmring_outbox_release_offset(1), 4096 + 4096);
    CHECK_EQ(shmring_outbox_bytes(1),
             8192 + 8 * SHMRING_RELEASE_WORDS + 16 * SHMRING_DROP_WORDS);
    CHECK_EQ(shmring_ring_create(1, 1000, 64, &fd), SHMRING_E_SIZE);
    CHECK_EQ(shmring_claims_create(1, 0, &fd), SHMRING_E_SIZE);
    CHECK_EQ(shmring_outbox_create(1, 65, &fd), SHMRING_E_SIZE);
}

static void each_kind_maps_as_itself_and_as_nothing_else(void)
{
    int fds[5] = {-1, -1, -1, -1, -1};
    CHECK_EQ(shmring_ring_create(3, 64, 64, &fds[0]), 0);
    CHECK_EQ(shmring_claims_create(4, 2, &fds[1]), 0);
    CHECK_EQ(shmring_outbox_create(5, 2, &fds[2]), 0);
    CHECK_EQ(shmring_board_create(6, &fds[3]), 0);
    CHECK_EQ(shmring_bus_page_create(&fds[4]), 0);
    for (int made = 0; made < 5; made++) {
        for (int asked = 0; asked < 5; asked++) {
            const enum shmring_segment_kind kind = (enum shmring_segment_kind)(asked + 1);
            CHECK_EQ(try_map(fds[made], kind, 0, false, false),
                     made == asked ? 0 : SHMRING_E_KIND);
        }
    }
    struct shmring_mapping mapping;
    REQUIRE(shmring_segment_map(fds[0], SHMRING_SEGMENT_RING, SHMRING_READ_WRITE, 0, false, false,
                                NULL, NULL, &mapping) == 0);
    const struct shmring_ring_control *control = mapping.base;
    CHECK_EQ(control->header.id, 3);
    CHECK_EQ(control->header.param_a, 64);
    CHECK_EQ(control->header.param_b, 64);
    CHECK_EQ(control->tail, 64);
    CHECK_EQ(control->head, 64);
    const uint64_t *rest = (const uint64_t *)mapping.base;
    for (uint64_t i = SHMRING_PAGE_BYTES / 8; i < mapping.byte_count / 8; i++)
        CHECK_EQ(rest[i], 0);
    shmring_segment_unmap(&mapping);
    for (int i = 0; i < 5; i++)
        (void)close(fds[i]);
}

/* ---- refusing ------------------------------------------------------------------------------- */

static void what_is_no_memfd_is_refused(void)
{
    int pipes[2];
    REQUIRE(pipe2(pipes, O_CLOEXEC) == 0);
    CHECK_EQ(try_map(pipes[0], SHMRING_SEGMENT_POOL, 4096, false, false), SHMRING_E_KIND);
    (void)close(pipes[0]);
    (void)close(pipes[1]);
    const int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
    CHECK_EQ(try_map(zero, SHMRING_SEGMENT_POOL, 0, false, false), SHMRING_E_KIND);
    (void)close(zero);
    const int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CHECK_EQ(try_map(self, SHMRING_SEGMENT_POOL, 0, false, false), SHMRING_E_KIND);
    (void)close(self);
    char path[64];
    (void)snprintf(path, sizeof path, "/dev/shm/bus1-test-%d", (int)getpid());
    const int named = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (named >= 0) {
        CHECK_EQ(ftruncate(named, 4096), 0);
        CHECK_EQ(try_map(named, SHMRING_SEGMENT_POOL, 4096, false, false), SHMRING_E_KIND);
        (void)unlink(path); /* without a name it still cannot be sealed */
        CHECK_EQ(try_map(named, SHMRING_SEGMENT_POOL, 4096, false, false), SHMRING_E_SEALS);
        (void)close(named);
    }
    CHECK_EQ(try_map(-1, SHMRING_SEGMENT_POOL, 4096, false, false), -EBADF);
}

static void wrong_seals_are_refused(void)
{
    const int seals[] = {0, F_SEAL_SHRINK, F_SEAL_GROW,
                         F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE};
    for (size_t i = 0; i < sizeof seals / sizeof seals[0]; i++) {
        const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK_EQ(ftruncate(fd, 4096), 0);
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
        CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 4096, false, false), SHMRING_E_SEALS);
        (void)close(fd);
    }
    int fd = -1;
    REQUIRE(shmring_segment_create("test", 4096, true, &fd) == 0);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 4096, false, true), 0);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 4096, true, true), SHMRING_E_SEALS);
    CHECK_EQ(shmring_segment_seal(fd, true), 0);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 4096, true, true), 0);
    (void)close(fd);
}

static void wrong_sizes_are_refused(void)
{
    const off_t sizes[] = {0, 1, 4095, 4097};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK_EQ(ftruncate(fd, sizes[i]), 0);
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 0, false, false), SHMRING_E_SIZE);
        (void)close(fd);
    }
    int fd = -1;
    REQUIRE(shmring_segment_create("test", 8192, true, &fd) == 0);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 4096, false, true), SHMRING_E_SIZE);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 12288, false, true), SHMRING_E_SIZE);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 8192, false, true), 0);
    (void)close(fd);
}

static void sparse_segments_are_refused_where_blocks_are_asked_for(void)
{
    int fd = -1;
    REQUIRE(shmring_segment_create("test", 16 * 4096, false, &fd) == 0);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 0, false, false), 0);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 0, false, true), SHMRING_E_SPARSE);
    CHECK_EQ(fallocate(fd, 0, 0, 15 * 4096), 0);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 0, false, true), SHMRING_E_SPARSE);
    CHECK_EQ(fallocate(fd, 0, 0, 16 * 4096), 0);
    CHECK_EQ(try_map(fd, SHMRING_SEGMENT_POOL, 0, false, true), 0);
    (void)close(fd);
}

static void headers_are_checked_field_by_field(void)
{
    const struct shmring_header good = {
        .magic = SHMRING_MAGIC,
        .layout_version = SHMRING_LAYOUT_VERSION,
        .kind = SHMRING_SEGMENT_OUTBOX,
        .byte_count = 8192,
    };
    struct shmring_header bad[6] = {good, good, good, good, good, good};
    bad[1].magic++;
    bad[2].layout_version = SHMRING_LAYOUT_VERSION_MIN - 1;
    bad[3].layout_version = SHMRING_LAYOUT_VERSION + 1;
    bad[4].kind = SHMRING_SEGMENT_RING;
    bad[5].byte_count = 4096;
    const int expected[6] = {0, SHMRING_E_KIND, SHMRING_E_VERSION, SHMRING_E_VERSION,
                             SHMRING_E_KIND, SHMRING_E_SIZE};
    const int before = next_fd();
    const uint32_t maps_before = count_lines("/proc/self/maps");
    for (int i = 0; i < 6; i++) {
        int fd = -1;
        CHECK_EQ(shmring_segment_create("test", 8192, true, &fd), 0);
        CHECK_EQ(pwrite(fd, &bad[i], sizeof bad[i], 0), sizeof bad[i]);
        CHECK_EQ(try_map(fd, SHMRING_SEGMENT_OUTBOX, 0, false, true), expected[i]);
        (void)close(fd);
    }
    CHECK_EQ(next_fd(), before);
    CHECK(count_lines("/proc/self/maps") <= maps_before + 1); /* the heap may have split an area */
}

/* ---- mapping -------------------------------------------------------------------------------- */

static void who_mapped_before_the_seal_writes_and_nobody_after_it(void)
{
    int fd = -1;
    struct shmring_mapping writer, reader, late;
    REQUIRE(shmring_segment_create("test", 8192, true, &fd) == 0);
    REQUIRE(shmring_segment_map(fd, SHMRING_SEGMENT_POOL, SHMRING_READ_WRITE, 8192, false, true,
                                NULL, NULL, &writer) == 0);
    REQUIRE(shmring_segment_seal(fd, true) == 0);
    REQUIRE(shmring_segment_map(fd, SHMRING_SEGMENT_POOL, SHMRING_READ_ONLY, 8192, true, true, NULL,
                                NULL, &reader) == 0);
    CHECK_EQ(shmring_segment_map(fd, SHMRING_SEGMENT_POOL, SHMRING_READ_WRITE, 8192, true, true,
                                 NULL, NULL, &late), -EPERM);
    CHECK_EQ(mprotect(reader.base, 8192, PROT_READ | PROT_WRITE), -1);
    memcpy(writer.base, "written", 8);
    CHECK(memcmp(reader.base, "written", 8) == 0);
    shmring_segment_unmap(&writer);
    shmring_segment_unmap(&reader);
    (void)close(fd);
}

static void wishes_are_met_or_reported(void)
{
    int fd = -1;
    struct shmring_mapping mapping;
    struct shmring_placement_report report;
    const struct shmring_placement none = {.numa_node = -1};
    const struct shmring_placement all = {
        .prefault = true, .lock = true, .huge = true, .numa_node = 0};
    const struct shmring_placement nowhere = {.numa_node = 1023};
    REQUIRE(shmring_segment_create("test", 4 * MIB, true, &fd) == 0);
    CHECK_EQ(shmring_segment_map(fd, SHMRING_SEGMENT_POOL, SHMRING_READ_WRITE, 0, false, true,
                                 &none, &report, &mapping), 0);
    CHECK(!report.prefaulted && !report.locked);
    CHECK_EQ(report.lock_errno, 0);
    CHECK_EQ(report.huge_errno, 0);
    CHECK_EQ(report.numa_errno, 0);
    shmring_segment_unmap(&mapping);
    for (int access = 0; access < 2; access++) {
        CHECK_EQ(shmring_segment_map(fd, SHMRING_SEGMENT_POOL, (enum shmring_access)access, 0,
                                     false, true, &all, &report, &mapping), 0);
        CHECK(report.prefaulted || under_qemu());
        CHECK(report.locked == (report.lock_errno == 0));
        CHECK((report.huge_bytes != 0) == (report.huge_errno == 0));
        CHECK(report.huge_bytes == 0 || (uintptr_t)mapping.base % (2 * MIB) == 0);
#ifdef SHMRING_WITH_NUMA
        CHECK(report.numa_errno != 0 || report.numa_node == 0);
#else
        CHECK_EQ(report.numa_errno, ENOTSUP);
#endif
        CHECK_EQ(((const volatile uint8_t *)mapping.base)[4 * MIB - 1], 0);
        shmring_segment_unmap(&mapping);
    }
    CHECK_EQ(shmring_segment_map(fd, SHMRING_SEGMENT_POOL, SHMRING_READ_WRITE, 0, false, true,
                                 &nowhere, &report, &mapping), 0);
    CHECK(report.numa_errno != 0);
    shmring_segment_unmap(&mapping);
    (void)close(fd);
}

/* ---- fork ----------------------------------------------------------------------------------- */

static int child_status(pid_t child)
{
    int status = -1;
    CHECK(child > 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void a_child_knows_that_it_was_forked_and_its_child_too(void)
{
    CHECK(!shmring_forked());
    pid_t child = fork();
    if (child == 0) {
        if (!shmring_forked())
            _exit(1);
        const pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(shmring_forked() ? 0 : 2);
        int status = -1;
        (void)waitpid(grandchild, &status, 0);
        _exit(status == 0 ? 0 : 3);
    }
    CHECK_EQ(child_status(child), 0);
    CHECK(!shmring_forked());
}

static void a_child_of_a_bare_clone_knows_it_too(void)
{
    if (under_qemu())
        SKIP("qemu does not pass on MADV_WIPEONFORK");
    const pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0)
        _exit(shmring_forked() ? 0 : 1);
    CHECK_EQ(child_status(child), 0);
}

static void a_child_has_no_mapping_and_unmaps_nothing(void)
{
    if (under_qemu())
        SKIP("qemu does not pass on MADV_DONTFORK");
    int fd = -1;
    struct shmring_mapping mapping;
    REQUIRE(shmring_board_create(1, &fd) == 0);
    REQUIRE(shmring_segment_map(fd, SHMRING_SEGMENT_BOARD, SHMRING_READ_WRITE, 0, false, true, NULL,
                                NULL, &mapping) == 0);
    const pid_t child = fork();
    if (child == 0) {
        unsigned char resident;
        if (mincore(mapping.base, 4096, &resident) != -1 || errno != ENOMEM)
            _exit(1);
        /* What the child has put there since is not touched. */
        char *own = mmap(mapping.base, 4096, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (own != mapping.base)
            _exit(2);
        *own = 1;
        shmring_board_give_back((struct shmring_board *)(void *)own, 3, 77);
        shmring_segment_unmap(&mapping);
        _exit(*own == 1 && own[offsetof(struct shmring_board, lend) + 24] == 0 ? 0 : 3);
    }
    CHECK_EQ(child_status(child), 0);
    shmring_segment_unmap(&mapping);
    (void)close(fd);
}

static void a_pool_says_that_it_was_forked(void)
{
    const struct shmring_pool_options options = {
        .quota_bytes = MIB, .placement = {.numa_node = -1}};
    struct shmring_pool *pool;
    struct shmring_slice slice, again;
    REQUIRE(shmring_pool_init(&options, &pool) == 0);
    REQUIRE(shmring_pool_loan(pool, 100, &slice) == 0);
    const pid_t child = fork();
    if (child == 0) {
        if (shmring_pool_loan(pool, 100, &again) != SHMRING_E_FORKED)
            _exit(1);
        if (shmring_pool_wait(pool, 0) != SHMRING_E_FORKED)
            _exit(2);
        if (shmring_pool_trim(pool, 1, 0) != 0)
            _exit(3);
        shmring_pool_deinit(pool);
        _exit(0);
    }
    CHECK_EQ(child_status(child), 0);
    shmring_pool_deinit(pool);
}

CHECK_MAIN(RUN(a_segment_has_the_size_seals_and_blocks_it_was_made_with),
           RUN(what_cannot_be_made_is_an_error_and_leaves_nothing_open),
           RUN(a_file_size_limit_is_an_error_and_no_signal),
           RUN(a_fast_timer_does_not_keep_a_large_segment_from_being_made),
           RUN(sizes_out_of_range_are_refused), RUN(each_kind_maps_as_itself_and_as_nothing_else),
           RUN(what_is_no_memfd_is_refused), RUN(wrong_seals_are_refused),
           RUN(wrong_sizes_are_refused),
           RUN(sparse_segments_are_refused_where_blocks_are_asked_for),
           RUN(headers_are_checked_field_by_field),
           RUN(who_mapped_before_the_seal_writes_and_nobody_after_it),
           RUN(wishes_are_met_or_reported),
           RUN(a_child_knows_that_it_was_forked_and_its_child_too),
           RUN(a_child_of_a_bare_clone_knows_it_too),
           RUN(a_child_has_no_mapping_and_unmaps_nothing), RUN(a_pool_says_that_it_was_forked))
