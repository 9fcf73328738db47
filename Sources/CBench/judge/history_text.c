#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench_history.h"

static const char *const kind_names[BENCH_RECORD_KINDS] = {
    [BENCH_RECORD_NODE] = "node",       [BENCH_RECORD_HANDLE] = "handle",
    [BENCH_RECORD_PUBLISH] = "publish", [BENCH_RECORD_LOOKUP] = "lookup",
    [BENCH_RECORD_SEND] = "send",       [BENCH_RECORD_FAILED] = "failed",
    [BENCH_RECORD_RECEIVE] = "receive", [BENCH_RECORD_DROP] = "drop",
    [BENCH_RECORD_GONE] = "gone",       [BENCH_RECORD_NONE] = "none",
    [BENCH_RECORD_KILLED] = "killed",   [BENCH_RECORD_DRAINED] = "drained",
};
static const char *const item_names[] = {"to", "with", "release", "drop"};

static bool has_items(uint32_t kind)
{
    return kind == BENCH_RECORD_SEND || kind == BENCH_RECORD_FAILED || kind == BENCH_RECORD_RECEIVE;
}

static bool has_node(uint32_t kind)
{
    return !has_items(kind) && kind < BENCH_RECORD_KILLED;
}

/* ---- memory --------------------------------------------------------------------------------- */

/* Whether the records are whole, with the items that their kinds need: a process wrote them that
 * may have been killed or worse. */
static bool are_records(const uint8_t *records, uint64_t byte_count)
{
    for (uint64_t at = 0; at < byte_count;) {
        const struct bench_record *record =
            (const struct bench_record *)(const void *)(records + at);
        if (byte_count - at < sizeof *record || record->item_count > BENCH_ITEMS_MAX ||
            bench_record_bytes(record->item_count) > byte_count - at)
            return false;
        at += bench_record_bytes(record->item_count);
        if (record->begin == 0)
            continue;
        if (record->kind == 0 || record->kind >= BENCH_RECORD_KINDS)
            return false;
        if ((has_node(record->kind) || record->kind == BENCH_RECORD_RECEIVE) &&
            record->item_count == 0)
            return false;
    }
    return true;
}

int bench_histories_add(struct bench_histories *all, uint32_t peer, const void *records,
                        uint64_t byte_count)
{
    if (!are_records(records, byte_count))
        return -EBADMSG;
    struct bench_peer_history *grown =
        realloc(all->peers, (all->peer_count + 1) * sizeof *all->peers);
    if (grown == NULL)
        return -ENOMEM;
    all->peers = grown;
    all->peers[all->peer_count++] =
        (struct bench_peer_history){.peer = peer, .records = records, .byte_count = byte_count};
    return 0;
}

void bench_histories_free(struct bench_histories *all)
{
    for (uint32_t i = 0; i < all->peer_count; i++)
        if (all->peers[i].room > 0)
            free((void *)(uintptr_t)all->peers[i].records);
    free(all->peers);
    *all = (struct bench_histories){0};
}

static int append(struct bench_peer_history *peer, const struct bench_record *record,
                  const uint32_t *items)
{
    uint64_t bytes = bench_record_bytes(record->item_count);
    if (peer->byte_count + bytes > peer->room) {
        uint64_t room = peer->room == 0 ? 1 << 16 : peer->room * 2;
        uint8_t *grown = realloc((void *)(uintptr_t)peer->records, room);
        if (grown == NULL)
            return -ENOMEM;
        peer->records = grown;
        peer->room = room;
    }
    uint8_t *at = (uint8_t *)(uintptr_t)peer->records + peer->byte_count;
    memcpy(at, record, sizeof *record);
    memcpy(at + sizeof *record, items, record->item_count * sizeof *items);
    peer->byte_count += bytes;
    return 0;
}

/* ---- reading -------------------------------------------------------------------------------- */

struct line {
    const char *at, *end;
};

static struct line next_word(struct line *rest)
{
    while (rest->at < rest->end && (*rest->at == ' ' || *rest->at == '\t' || *rest->at == '\r'))
        rest->at++;
    struct line word = {.at = rest->at, .end = rest->at};
    while (word.end < rest->end && *word.end != ' ' && *word.end != '\t' && *word.end != '\r')
        word.end++;
    rest->at = word.end;
    return word;
}

static bool is_word(struct line word, const char *text)
{
    size_t length = strlen(text);
    return (size_t)(word.end - word.at) == length && memcmp(word.at, text, length) == 0;
}

static bool read_number(struct line *rest, uint64_t max, uint64_t *number)
{
    struct line word = next_word(rest);
    *number = 0;
    if (word.at == word.end)
        return false;
    for (; word.at < word.end; word.at++) {
        uint32_t digit = (uint32_t)(*word.at - '0');
        if (digit > 9 || *number > (max - digit) / 10)
            return false;
        *number = *number * 10 + digit;
    }
    return true;
}

/* Reads the items of a transaction or message; NULL, or what is wrong. */
static const char *read_items(struct line *rest, struct bench_record *record, uint32_t *items)
{
    uint64_t node;
    if (record->kind == BENCH_RECORD_RECEIVE) {
        if (!is_word(next_word(rest), "at") || !read_number(rest, BENCH_NODE_MAX, &node))
            return "expected 'at NODE'";
        items[record->item_count++] = (uint32_t)node;
    }
    for (;;) {
        struct line word = next_word(rest);
        if (word.at == word.end)
            return NULL;
        uint32_t item = 0;
        while (item < 4 && !is_word(word, item_names[item]))
            item++;
        if (item == 4 || (record->kind == BENCH_RECORD_RECEIVE && item != BENCH_ITEM_WITH) ||
            (record->item_count == 0 && item == BENCH_ITEM_WITH))
            return "expected 'to', 'with', 'release' or 'drop' where they belong";
        if (!read_number(rest, BENCH_NODE_MAX, &node) || record->item_count == BENCH_ITEMS_MAX)
            return "expected a node's number below 2^30, 1024 at most";
        items[record->item_count++] = item << BENCH_ITEM_SHIFT | (uint32_t)node;
    }
}

/* Reads one line after its first word; NULL, or what is wrong. */
static const char *read_record(struct line word, struct line *rest, struct bench_record *record,
                               uint32_t *items)
{
    *record = (struct bench_record){0};
    record->kind = 1;
    while (record->kind < BENCH_RECORD_KINDS && !is_word(word, kind_names[record->kind]))
        record->kind++;
    if (record->kind == BENCH_RECORD_KINDS)
        return "no such kind of record";
    if (!read_number(rest, UINT64_MAX, &record->begin) || record->begin == 0)
        return "expected a time, above 0";
    if (record->kind >= BENCH_RECORD_KILLED) {
        record->end = record->begin;
    } else {
        struct line before = *rest;
        if (!is_word(next_word(rest), "-")) {
            *rest = before;
            if (!read_number(rest, UINT64_MAX, &record->end) || record->end < record->begin)
                return "expected the call's end, not before its begin, or '-'";
        }
    }
    if (has_items(record->kind)) {
        if (!read_number(rest, UINT64_MAX, &record->transaction))
            return "expected the transaction's number";
        return read_items(rest, record, items);
    }
    uint64_t node;
    if (has_node(record->kind)) {
        if (!read_number(rest, BENCH_NODE_MAX, &node))
            return "expected a node's number below 2^30";
        items[record->item_count++] = (uint32_t)node;
    }
    return next_word(rest).at < rest->end ? "expected the end of the line" : NULL;
}

static int64_t read_lines(struct bench_histories *all, const char *text, uint64_t length,
                          const char **wrong)
{
    uint32_t items[BENCH_ITEMS_MAX];
    int64_t number = 0, current = -1;
    for (const char *at = text, *end = text + length; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        struct line rest = {.at = at, .end = stop == NULL ? end : stop};
        at = stop == NULL ? end : stop + 1;
        number++;
        struct line word = next_word(&rest);
        uint64_t value;
        struct bench_record record;
        if (number == 1) {
            *wrong = "expected 'bus1-trace 1'";
            if (!is_word(word, "bus1-trace") || !read_number(&rest, 1, &value) || value != 1)
                return number;
        } else if (word.at == word.end || *word.at == '#') {
            continue;
        } else if (is_word(word, "peer")) {
            *wrong = "expected a peer's number below 4096";
            if (!read_number(&rest, BENCH_PEERS_MAX - 1, &value))
                return number;
            /* A peer's lines may stand in several places. */
            for (current = 0; current < (int64_t)all->peer_count; current++)
                if (all->peers[current].peer == value)
                    break;
            if (current == (int64_t)all->peer_count &&
                bench_histories_add(all, (uint32_t)value, NULL, 0) < 0)
                return -ENOMEM;
        } else if (current < 0) {
            *wrong = "expected 'peer NUMBER' first";
            return number;
        } else {
            *wrong = read_record(word, &rest, &record, items);
            if (*wrong != NULL)
                return number;
            if (append(&all->peers[current], &record, items) < 0)
                return -ENOMEM;
        }
    }
    *wrong = "the file is empty";
    return number == 0 ? 1 : 0;
}

int64_t bench_histories_read(struct bench_histories *all, const char *path, const char **wrong)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int64_t result = 0;
    if (fstat(fd, &status) < 0) {
        result = -errno;
    } else if (status.st_size == 0) {
        *wrong = "the file is empty";
        result = 1;
    } else {
        size_t length = (size_t)status.st_size;
        void *text = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
        if (text == MAP_FAILED) {
            result = -errno;
        } else {
            (void)madvise(text, length, MADV_SEQUENTIAL);
            result = read_lines(all, text, length, wrong);
            munmap(text, length);
        }
    }
    close(fd);
    return result;
}

/* ---- writing -------------------------------------------------------------------------------- */

static void write_record(FILE *file, const struct bench_record *record)
{
    fprintf(file, "%s %" PRIu64, kind_names[record->kind], record->begin);
    if (record->kind < BENCH_RECORD_KILLED) {
        if (record->end == 0)
            fputs(" -", file);
        else
            fprintf(file, " %" PRIu64, record->end);
    }
    if (has_items(record->kind))
        fprintf(file, " %" PRIu64, record->transaction);
    for (uint32_t i = 0; i < record->item_count; i++) {
        const char *name = item_names[record->items[i] >> BENCH_ITEM_SHIFT];
        if (record->kind == BENCH_RECORD_RECEIVE && i == 0)
            name = "at";
        if (has_items(record->kind))
            fprintf(file, " %s", name);
        fprintf(file, " %" PRIu32, record->items[i] & BENCH_NODE_MAX);
    }
    fputc('\n', file);
}

int bench_histories_write(const struct bench_histories *all, const char *path)
{
    FILE *file = fopen(path, "we");
    if (file == NULL)
        return -errno;
    fputs("bus1-trace 1\n", file);
    for (uint32_t p = 0; p < all->peer_count; p++) {
        const struct bench_peer_history *peer = &all->peers[p];
        fprintf(file, "peer %" PRIu32 "\n", peer->peer);
        for (uint64_t at = 0; at < peer->byte_count;) {
            const struct bench_record *record =
                (const struct bench_record *)(const void *)(peer->records + at);
            /* A process killed between a record and its first reading. */
            if (record->begin != 0)
                write_record(file, record);
            at += bench_record_bytes(record->item_count);
        }
    }
    bool failed = ferror(file) != 0;
    return fclose(file) != 0 || failed ? -EIO : 0;
}
