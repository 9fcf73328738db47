#include <errno.h>

#include "judge.h"

static int add_node(struct judge *judge, uint32_t number, uint32_t owner)
{
    uint32_t existing;
    if (!judge_grow((void **)&judge->nodes, judge->node_count, &judge->node_room,
                    sizeof *judge->nodes))
        return -ENOMEM;
    int result = judge_map_put(&judge->node_ids, number, (uint32_t)judge->node_count, &existing);
    if (result < 0)
        return result;
    if (existing != JUDGE_NOBODY) {
        judge_violation(judge, BENCH_RULE_HISTORY, "node %u was made twice\n", number);
        return 0;
    }
    judge->nodes[judge->node_count++] = (struct judge_node){
        .number = number,
        .owner = owner,
        .released_by = JUDGE_NOBODY,
        .last_delivered = JUDGE_NOBODY,
        .published = JUDGE_NEVER,
    };
    return 0;
}

static int add_act(struct judge *judge, uint32_t peer, const struct bench_record *record)
{
    uint32_t existing;
    if (!judge_grow((void **)&judge->acts, judge->act_count, &judge->act_room,
                    sizeof *judge->acts))
        return -ENOMEM;
    int result = judge_map_put(&judge->act_ids, record->transaction, (uint32_t)judge->act_count,
                               &existing);
    if (result < 0)
        return result;
    if (existing != JUDGE_NOBODY) {
        judge_violation(judge, BENCH_RULE_HISTORY, "transaction %llu stands there twice\n",
                        (unsigned long long)record->transaction);
        return 0;
    }
    struct judge_act *act = &judge->acts[judge->act_count++];
    *act = (struct judge_act){
        .begin = record->begin,
        .known = JUDGE_NEVER,
        .record = record,
        .arrived_at = (uint32_t)judge->item_count,
        .peer = (uint16_t)peer,
        .known_by = (uint16_t)peer,
    };
    judge->item_count += record->item_count;
    if (record->kind == BENCH_RECORD_FAILED) {
        act->flags = JUDGE_FAILED;
    } else if (record->end != 0) {
        act->flags = JUDGE_RETURNED;
        act->known = record->end;
    } else {
        judge->verdict->unfinished++;
    }
    return 0;
}

/* One peer's records, first time: what there is. */
static int collect_peer(struct judge *judge, uint32_t peer)
{
    const struct bench_peer_history *history = &judge->all->peers[peer];
    uint64_t last = 0;
    int result = 0;
    JUDGE_EACH_RECORD(history, record, {
        if (record->begin < last && record->kind != BENCH_RECORD_KILLED)
            judge_violation(judge, BENCH_RULE_HISTORY, "peer %u: time goes back at %llu\n",
                            history->peer, (unsigned long long)record->begin);
        last = record->begin;
        switch (record->kind) {
        case BENCH_RECORD_NODE: result = add_node(judge, record->items[0], peer); break;
        case BENCH_RECORD_SEND:
        case BENCH_RECORD_FAILED: result = add_act(judge, peer, record); break;
        case BENCH_RECORD_KILLED: judge->peers[peer].killed = record->begin; break;
        case BENCH_RECORD_DRAINED: judge->peers[peer].drained = true; break;
        case BENCH_RECORD_RECEIVE:
            judge->verdict->messages++;
            judge->sequence_count++;
            break;
        case BENCH_RECORD_GONE: judge->sequence_count++; /* fall through */
        case BENCH_RECORD_NONE: judge->verdict->notices++; break;
        default: break;
        }
        if (result < 0)
            return result;
    })
    return 0;
}

static struct judge_node *own_node(struct judge *judge, uint32_t peer, uint32_t number)
{
    uint32_t index = judge_map_get(&judge->node_ids, number);
    if (index != JUDGE_NOBODY && judge->nodes[index].owner == peer)
        return &judge->nodes[index];
    judge_violation(judge, BENCH_RULE_HISTORY, "peer %u has no node %u of its own\n",
                    judge_peer_number(judge, peer), number);
    return NULL;
}

/* An act that no record describes. */
static int add_end(struct judge *judge, uint32_t peer, uint64_t begin, uint32_t *index)
{
    if (!judge_grow((void **)&judge->acts, judge->act_count, &judge->act_room,
                    sizeof *judge->acts))
        return -ENOMEM;
    *index = (uint32_t)judge->act_count++;
    judge->acts[*index] = (struct judge_act){
        .begin = begin, .known = JUDGE_NEVER, .peer = (uint16_t)peer, .flags = JUDGE_DEATH};
    return 0;
}

/* Which nodes are published, and what released them. */
static int collect_ends(struct judge *judge, uint32_t peer)
{
    const struct bench_peer_history *history = &judge->all->peers[peer];
    int result = 0;
    JUDGE_EACH_RECORD(history, record, {
        if (record->kind == BENCH_RECORD_PUBLISH) {
            struct judge_node *node = own_node(judge, peer, record->items[0]);
            if (node != NULL)
                node->published = record->begin;
        }
        for (uint32_t i = 0; record->kind == BENCH_RECORD_SEND && i < record->item_count; i++) {
            if (judge_item_kind(record->items[i]) != BENCH_ITEM_RELEASE)
                continue;
            struct judge_node *node = own_node(judge, peer, judge_item_node(record->items[i]));
            if (node == NULL || node->released_by != JUDGE_NOBODY)
                continue;
            /* Cut off by a kill: it or the death did it, at some moment since then. */
            if (record->end == 0)
                result = add_end(judge, peer, record->begin, &node->released_by);
            else
                node->released_by = judge_map_get(&judge->act_ids, record->transaction);
            if (result < 0)
                return result;
        }
    })
    return 0;
}

int judge_collect(struct judge *judge)
{
    uint32_t peers = judge->all->peer_count;
    judge->peers = calloc(peers + 1, sizeof *judge->peers);
    if (judge->peers == NULL)
        return -ENOMEM;
    for (uint32_t p = 0; p < peers; p++) {
        judge->peers[p].killed = JUDGE_NEVER;
        int result = collect_peer(judge, p);
        if (result < 0)
            return result;
    }
    for (uint32_t p = 0; p < peers; p++) {
        judge->peers[p].death = JUDGE_NOBODY;
        int result = collect_ends(judge, p);
        if (result == 0 && judge->peers[p].killed != JUDGE_NEVER)
            result = add_end(judge, p, judge->peers[p].killed, &judge->peers[p].death);
        if (result < 0)
            return result;
    }
    for (uint64_t n = 0; n < judge->node_count; n++)
        if (judge->nodes[n].released_by == JUDGE_NOBODY)
            judge->nodes[n].released_by = judge->peers[judge->nodes[n].owner].death;
    judge->arrived = calloc(judge->item_count / 8 + 1, 1);
    judge->sequence_count += peers; /* the end of each */
    judge->sequence = malloc(judge->sequence_count * sizeof *judge->sequence);
    return judge->arrived == NULL || judge->sequence == NULL ? -ENOMEM : 0;
}

/* ---- receipts -------------------------------------------------------------------------------- */

static void note_known(struct judge_act *act, uint32_t peer, uint64_t time)
{
    act->flags |= JUDGE_SEEN;
    if (time >= act->known)
        return;
    act->known = time;
    act->known_by = (uint16_t)peer;
    act->flags |= JUDGE_BY_RECEIPT;
}

/* A message that was received: the act that it belongs to, or JUDGE_NOBODY. */
static uint32_t receipt(struct judge *judge, uint32_t peer, const struct bench_record *record)
{
    uint32_t number = judge_peer_number(judge, peer), node = judge_item_node(record->items[0]);
    uint32_t index = judge_map_get(&judge->act_ids, record->transaction);
    if (index == JUDGE_NOBODY) {
        judge_violation(judge, BENCH_RULE_INVENTED,
                        "peer %u received transaction %llu at node %u, which nobody sent\n",
                        number, (unsigned long long)record->transaction, node);
        return JUDGE_NOBODY;
    }
    struct judge_act *act = &judge->acts[index];
    if (record->end < act->begin)
        judge_violation(judge, BENCH_RULE_INVENTED,
                        "peer %u had received %s at %llu, before it was sent at %llu\n", number,
                        judge_act_name(judge, index), (unsigned long long)record->end,
                        (unsigned long long)act->begin);
    if (act->flags & JUDGE_FAILED)
        judge_violation(judge, BENCH_RULE_ATOMICITY,
                        "peer %u received %s, of which the call said that nothing happened\n",
                        number, judge_act_name(judge, index));
    uint32_t own = judge_map_get(&judge->node_ids, node);
    if (own == JUDGE_NOBODY || judge->nodes[own].owner != peer)
        judge_violation(judge, BENCH_RULE_AUTHORITY,
                        "peer %u received %s at node %u, which is not its own\n", number,
                        judge_act_name(judge, index), node);
    else
        judge->nodes[own].last_delivered = index;
    uint32_t i = 0;
    while (i < act->record->item_count && act->record->items[i] != node)
        i++; /* BENCH_ITEM_TO is 0 */
    if (i == act->record->item_count) {
        judge_violation(judge, BENCH_RULE_INVENTED,
                        "peer %u received %s at node %u, where it was not sent\n", number,
                        judge_act_name(judge, index), node);
        return JUDGE_NOBODY;
    }
    uint64_t bit = act->arrived_at + i;
    if (judge_bit(judge->arrived, bit))
        judge_violation(judge, BENCH_RULE_DOUBLED, "peer %u received %s twice at node %u\n",
                        number, judge_act_name(judge, index), node);
    judge->arrived[bit / 8] = (uint8_t)(judge->arrived[bit / 8] | 1 << bit % 8);
    note_known(act, peer, record->end);
    return index;
}

static uint32_t told_gone(struct judge *judge, uint32_t peer, const struct bench_record *record)
{
    uint32_t node = judge_map_get(&judge->node_ids, record->items[0]);
    uint32_t by = node == JUDGE_NOBODY ? JUDGE_NOBODY : judge->nodes[node].released_by;
    if (by == JUDGE_NOBODY) {
        judge_violation(judge, BENCH_RULE_INVENTED,
                        "peer %u was told that node %u is released, which it never was\n",
                        judge_peer_number(judge, peer), record->items[0]);
        return JUDGE_NOBODY;
    }
    if (record->end < judge->acts[by].begin)
        judge_violation(judge, BENCH_RULE_INVENTED,
                        "peer %u was told at %llu that node %u is released, before that began\n",
                        judge_peer_number(judge, peer), (unsigned long long)record->end,
                        record->items[0]);
    note_known(&judge->acts[by], peer, record->end);
    /* Its release was cut off by a kill: that, or the death, has ended it, and in the second case
     * it stands among the others that the death ended. */
    if (judge->acts[by].flags & JUDGE_DEATH &&
        by != judge->peers[judge->nodes[node].owner].death)
        return JUDGE_NOBODY;
    return by;
}

int judge_receipts(struct judge *judge)
{
    uint32_t at = 0;
    for (uint32_t p = 0; p < judge->all->peer_count; p++) {
        judge->peers[p].sequence_first = at;
        JUDGE_EACH_RECORD(&judge->all->peers[p], record, {
            uint32_t act = JUDGE_NOBODY;
            if (record->kind == BENCH_RECORD_RECEIVE)
                act = receipt(judge, p, record);
            else if (record->kind == BENCH_RECORD_GONE)
                act = told_gone(judge, p, record);
            if (act != JUDGE_NOBODY)
                judge->sequence[at++] = act;
        })
        judge->peers[p].sequence_end = at;
        judge->sequence[at++] = JUDGE_NOBODY;
    }
    judge->sequence_count = at;
    return 0;
}
