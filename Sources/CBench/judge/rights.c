/* Who held which handle when: authority, and whether notices are due, early, doubled or lost. */
#include <errno.h>

#include "judge.h"

/* What one peer holds to one node. */
struct holding {
    uint32_t peer, node;
    uint32_t count;
    uint64_t since; /* while count > 0 */
};

/* A time in which a handle existed, or was being made. */
struct span {
    uint64_t from, to;
    uint32_t node;
};
struct spans {
    struct span *all;
    uint64_t count, room;
};

struct rights {
    struct judge *judge;
    struct judge_map places;
    struct holding *holdings;
    uint64_t count, room;
    struct spans held;   /* surely held by somebody */
    struct spans making; /* calls that made a handle, or passed one on */
    struct spans told;   /* notices that none is left */
};

static int add_span(struct spans *spans, uint32_t node, uint64_t from, uint64_t to)
{
    if (!judge_grow((void **)&spans->all, spans->count, &spans->room, sizeof *spans->all))
        return -ENOMEM;
    spans->all[spans->count++] = (struct span){.from = from, .to = to, .node = node};
    return 0;
}

static struct holding *holding(struct rights *rights, uint32_t peer, uint32_t node)
{
    uint32_t existing;
    if (!judge_grow((void **)&rights->holdings, rights->count, &rights->room,
                    sizeof *rights->holdings) ||
        judge_map_put(&rights->places, (uint64_t)peer << 32 | node, (uint32_t)rights->count,
                      &existing) < 0)
        return NULL;
    if (existing != JUDGE_NOBODY)
        return &rights->holdings[existing];
    struct holding *one = &rights->holdings[rights->count++];
    *one = (struct holding){.peer = peer, .node = node};
    return one;
}

static int hold(struct rights *rights, uint32_t peer, uint32_t node, uint64_t since)
{
    struct holding *one = holding(rights, peer, node);
    if (one == NULL)
        return -ENOMEM;
    if (one->count++ == 0)
        one->since = since;
    return 0;
}

/* Gives one handle up. 0; 1: there was none; -ENOMEM. */
static int let_go(struct rights *rights, uint32_t peer, uint32_t node, uint64_t time)
{
    struct holding *one = holding(rights, peer, node);
    if (one == NULL)
        return -ENOMEM;
    if (one->count == 0)
        return 1;
    return --one->count == 0 ? add_span(&rights->held, node, one->since, time) : 0;
}

static bool owns(const struct judge *judge, uint32_t peer, uint32_t node)
{
    uint32_t index = judge_map_get(&judge->node_ids, node);
    return index != JUDGE_NOBODY && judge->nodes[index].owner == peer;
}

static int sent(struct rights *rights, uint32_t peer, const struct bench_record *record)
{
    struct judge *judge = rights->judge;
    uint32_t index = judge_map_get(&judge->act_ids, record->transaction);
    int result = 0;
    for (uint32_t i = 0; i < record->item_count && result >= 0; i++) {
        uint32_t kind = judge_item_kind(record->items[i]);
        uint32_t node = judge_item_node(record->items[i]);
        if (kind == BENCH_ITEM_RELEASE)
            continue;
        struct holding *one = holding(rights, peer, node);
        if (one == NULL)
            return -ENOMEM;
        bool may = one->count > 0 || (kind == BENCH_ITEM_WITH && owns(judge, peer, node));
        if (!may) {
            judge->acts[index].flags |= JUDGE_NO_RIGHT;
            if (judge->acts[index].flags & JUDGE_SEEN)
                judge_violation(judge, BENCH_RULE_AUTHORITY,
                                "%s happened, but its sender held no handle to node %u\n",
                                judge_act_name(judge, index), node);
        } else if (kind == BENCH_ITEM_WITH) {
            result = add_span(&rights->making, node, record->begin,
                              record->end == 0 ? JUDGE_NEVER : record->end);
        } else if (kind == BENCH_ITEM_DROP) {
            result = let_go(rights, peer, node, record->begin);
        }
    }
    return result < 0 ? result : 0;
}

/* The handles that a message brought. */
static int received(struct rights *rights, uint32_t peer, const struct bench_record *record)
{
    struct judge *judge = rights->judge;
    uint32_t index = judge_map_get(&judge->act_ids, record->transaction);
    if (record->item_count < 2 || index == JUDGE_NOBODY)
        return 0;
    const struct judge_act *act = &judge->acts[index];
    const struct bench_record *send = act->record;
    uint32_t at = 0;
    while (at < send->item_count && send->items[at] != record->items[0])
        at++;
    for (uint32_t i = 1; i < record->item_count; i++) {
        uint32_t other = at + 1;
        while (other < send->item_count && send->items[other] != record->items[i] &&
               judge_item_kind(send->items[other]) == BENCH_ITEM_WITH)
            other++;
        uint32_t node = judge_item_node(record->items[i]);
        if (other >= send->item_count || send->items[other] != record->items[i])
            judge_violation(judge, BENCH_RULE_AUTHORITY,
                            "peer %u got a handle to node %u from %s, which carried none\n",
                            judge_peer_number(judge, peer), node, judge_act_name(judge, index));
        /* From the moment at which the hand-over had surely happened. */
        int result = hold(rights, peer, node,
                          act->flags & JUDGE_RETURNED && send->end < record->end ? send->end
                                                                                : record->end);
        if (result < 0)
            return result;
    }
    return 0;
}

static int looked_up(struct rights *rights, uint32_t peer, const struct bench_record *record)
{
    struct judge *judge = rights->judge;
    uint32_t index = judge_map_get(&judge->node_ids, record->items[0]);
    if (index == JUDGE_NOBODY || judge->nodes[index].published > record->end)
        judge_violation(judge, BENCH_RULE_AUTHORITY,
                        "peer %u got a handle to node %u by name, which was not published\n",
                        judge_peer_number(judge, peer), record->items[0]);
    int result = add_span(&rights->making, record->items[0], record->begin, record->end);
    return result < 0 ? result : hold(rights, peer, record->items[0], record->end);
}

static int made(struct rights *rights, uint32_t peer, const struct bench_record *record)
{
    if (!owns(rights->judge, peer, record->items[0]))
        judge_violation(rights->judge, BENCH_RULE_AUTHORITY,
                        "peer %u made a handle to node %u, which is not its own\n",
                        judge_peer_number(rights->judge, peer), record->items[0]);
    int result = add_span(&rights->making, record->items[0], record->begin, record->end);
    return result < 0 ? result : hold(rights, peer, record->items[0], record->end);
}

static int walk(struct rights *rights, uint32_t peer)
{
    struct judge *judge = rights->judge;
    uint32_t number = judge_peer_number(judge, peer);
    int result = 0;
    JUDGE_EACH_RECORD(&judge->all->peers[peer], record, {
        uint32_t node = record->item_count > 0 ? judge_item_node(record->items[0]) : 0;
        bool returned = record->end != 0;
        switch (record->kind) {
        case BENCH_RECORD_HANDLE: result = returned ? made(rights, peer, record) : 0; break;
        case BENCH_RECORD_LOOKUP:
            /* Cut off by a kill: it may have held one, at any time until its death was known. */
            result = returned ? looked_up(rights, peer, record)
                              : add_span(&rights->making, node, record->begin, JUDGE_NEVER);
            break;
        case BENCH_RECORD_SEND: result = sent(rights, peer, record); break;
        case BENCH_RECORD_RECEIVE: result = received(rights, peer, record); break;
        case BENCH_RECORD_DROP:
            result = let_go(rights, peer, node, record->begin);
            if (result > 0)
                judge_violation(judge, BENCH_RULE_HISTORY,
                                "peer %u released a handle to node %u without holding one\n",
                                number, node);
            break;
        case BENCH_RECORD_GONE:
            result = let_go(rights, peer, node, record->begin);
            if (result > 0)
                judge_violation(judge, BENCH_RULE_DOUBLED,
                                "peer %u was told once too often that node %u is released\n",
                                number, node);
            break;
        case BENCH_RECORD_NONE:
            if (!owns(judge, peer, node))
                judge_violation(judge, BENCH_RULE_INVENTED,
                                "peer %u was told that no handles are left to node %u: not its\n",
                                number, node);
            result = add_span(&rights->told, node, record->begin, record->end);
            break;
        default: break;
        }
        if (result < 0)
            return result;
        result = 0;
    })
    return 0;
}

/* What is still held at the end. */
static int close_holdings(struct rights *rights)
{
    struct judge *judge = rights->judge;
    for (uint64_t i = 0; i < rights->count; i++) {
        struct holding *one = &rights->holdings[i];
        const struct judge_peer *peer = &judge->peers[one->peer];
        uint32_t node = judge_map_get(&judge->node_ids, one->node);
        if (one->count == 0)
            continue;
        int result = add_span(&rights->held, one->node, one->since, peer->killed);
        if (result < 0)
            return result;
        if (node == JUDGE_NOBODY || !peer->drained || peer->killed != JUDGE_NEVER ||
            judge->nodes[node].owner == one->peer)
            continue;
        uint32_t by = judge->nodes[node].released_by;
        if (by != JUDGE_NOBODY && (judge->acts[by].flags & (JUDGE_RETURNED | JUDGE_DEATH)))
            judge_violation(judge, BENCH_RULE_LOST,
                            "peer %u holds %u handles to node %u and was not told of its release\n",
                            judge_peer_number(judge, one->peer), one->count, one->node);
    }
    return 0;
}

static int compare_spans(const void *left, const void *right)
{
    const struct span *a = left, *b = right;
    if (a->node != b->node)
        return a->node < b->node ? -1 : 1;
    return a->from < b->from ? -1 : a->from > b->from;
}

/* Sorts, and makes each span's end the latest of its node so far. */
static void settle(struct spans *spans)
{
    if (spans->count > 0)
        qsort(spans->all, spans->count, sizeof *spans->all, compare_spans);
    for (uint64_t i = 1; i < spans->count; i++)
        if (spans->all[i].node == spans->all[i - 1].node &&
            spans->all[i].to < spans->all[i - 1].to)
            spans->all[i].to = spans->all[i - 1].to;
}

/* The latest end among the node's spans that begin before `before`; 0: there is none. */
static uint64_t latest(const struct spans *spans, uint32_t node, uint64_t before)
{
    uint64_t low = 0, high = spans->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const struct span *span = &spans->all[middle];
        if (span->node < node || (span->node == node && span->from < before))
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && spans->all[low - 1].node == node ? spans->all[low - 1].to : 0;
}

/* "No handles left": never while one is held, never twice without a new one, never forgotten. */
static void judge_told(struct rights *rights)
{
    struct judge *judge = rights->judge;
    struct spans *told = &rights->told;
    settle(&rights->held);
    settle(&rights->making);
    if (told->count == 0)
        return;
    qsort(told->all, told->count, sizeof *told->all, compare_spans);
    for (uint64_t i = 0; i < told->count; i++) {
        const struct span *one = &told->all[i], *next = one + 1;
        if (latest(&rights->held, one->node, one->from) > one->to)
            judge_violation(judge, BENCH_RULE_EARLY,
                            "no handles to node %u should be left at %llu, but one was held\n",
                            one->node, (unsigned long long)one->from);
        if (i + 1 < told->count && next->node == one->node &&
            latest(&rights->making, one->node, next->to) < one->from)
            judge_violation(judge, BENCH_RULE_DOUBLED,
                            "no handles to node %u were left at %llu, and again at %llu\n",
                            one->node, (unsigned long long)one->from,
                            (unsigned long long)next->from);
    }
    for (uint64_t n = 0; n < judge->node_count; n++) {
        const struct judge_node *node = &judge->nodes[n];
        const struct judge_peer *owner = &judge->peers[node->owner];
        uint64_t held = latest(&rights->held, node->number, JUDGE_NEVER);
        if (held == 0 || held == JUDGE_NEVER || node->released_by != JUDGE_NOBODY ||
            !owner->drained)
            continue;
        if (latest(told, node->number, JUDGE_NEVER) < held)
            judge_violation(judge, BENCH_RULE_LOST,
                            "the last handle to node %u was given up at %llu, and peer %u was not "
                            "told\n",
                            node->number, (unsigned long long)held,
                            judge_peer_number(judge, node->owner));
    }
}

int judge_rights(struct judge *judge)
{
    struct rights rights = {.judge = judge};
    int result = 0;
    for (uint32_t p = 0; p < judge->all->peer_count && result == 0; p++)
        result = walk(&rights, p);
    if (result == 0)
        result = close_holdings(&rights);
    if (result == 0)
        judge_told(&rights);
    judge_map_free(&rights.places);
    free(rights.holdings);
    free(rights.held.all);
    free(rights.making.all);
    free(rights.told.all);
    return result;
}
