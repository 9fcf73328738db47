#include "judge.h"

#include <errno.h>
#include <stdarg.h>

/* ---- tools ----------------------------------------------------------------------------------- */

/* A place without a value is empty: every key may occur, for a history may come from anybody. */
static uint64_t map_place(const struct judge_map *map, uint64_t key)
{
    uint64_t hash = key * UINT64_C(0x9e3779b97f4a7c15);
    uint64_t place = (hash ^ hash >> 32) & (map->size - 1);
    while (map->values[place] != JUDGE_NOBODY && map->keys[place] != key)
        place = (place + 1) & (map->size - 1);
    return place;
}

static int map_grow(struct judge_map *map)
{
    struct judge_map grown = {.size = map->size == 0 ? 1024 : map->size * 2, .used = map->used};
    grown.keys = malloc(grown.size * sizeof *grown.keys);
    grown.values = malloc(grown.size * sizeof *grown.values);
    if (grown.keys == NULL || grown.values == NULL) {
        judge_map_free(&grown);
        return -ENOMEM;
    }
    memset(grown.values, 0xff, grown.size * sizeof *grown.values);
    for (uint64_t i = 0; i < map->size; i++)
        if (map->values[i] != JUDGE_NOBODY) {
            uint64_t place = map_place(&grown, map->keys[i]);
            grown.keys[place] = map->keys[i];
            grown.values[place] = map->values[i];
        }
    judge_map_free(map);
    *map = grown;
    return 0;
}

int judge_map_put(struct judge_map *map, uint64_t key, uint32_t value, uint32_t *existing)
{
    if (map->used * 2 >= map->size && map_grow(map) < 0)
        return -ENOMEM;
    uint64_t place = map_place(map, key);
    *existing = map->values[place];
    if (*existing != JUDGE_NOBODY)
        return 0;
    map->keys[place] = key;
    map->values[place] = value;
    map->used++;
    return 0;
}

uint32_t judge_map_get(const struct judge_map *map, uint64_t key)
{
    if (map->size == 0)
        return JUDGE_NOBODY;
    return map->values[map_place(map, key)];
}

void judge_map_free(struct judge_map *map)
{
    free(map->keys);
    free(map->values);
    *map = (struct judge_map){0};
}

bool judge_grow(void **array, uint64_t count, uint64_t *room, size_t element)
{
    if (count < *room)
        return true;
    uint64_t larger = *room == 0 ? 1024 : *room * 2;
    void *grown = realloc(*array, larger * element);
    if (grown == NULL)
        return false;
    *array = grown;
    *room = larger;
    return true;
}

static const char *const rule_names[BENCH_RULES] = {
    "O1",        "O2",        "O3",   "O4",      "O5",       "released node", "notices",
    "atomicity", "authority", "lost", "doubled", "invented", "early notice",  "history",
};

const char *bench_rule_name(uint32_t bit)
{
    return bit < BENCH_RULES ? rule_names[bit] : "unknown";
}

void judge_violation(struct judge *judge, uint32_t rules, const char *format, ...)
{
    for (uint32_t bit = 0; bit < BENCH_RULES; bit++)
        judge->verdict->by_rule[bit] += rules >> bit & 1;
    if (judge->verdict->violations++ >= JUDGE_TOLD_MAX)
        return;
    const char *separator = "violation of ";
    for (uint32_t bit = 0; bit < BENCH_RULES; bit++)
        if (rules >> bit & 1) {
            fprintf(judge->text, "%s%s", separator, rule_names[bit]);
            separator = ", ";
        }
    fputs(": ", judge->text);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(judge->text, format, arguments);
    va_end(arguments);
}

uint32_t judge_peer_number(const struct judge *judge, uint32_t peer)
{
    return judge->all->peers[peer].peer;
}

const char *judge_act_name(const struct judge *judge, uint32_t index)
{
    static char texts[4][256];
    static uint32_t turn;
    char *text = texts[turn++ % 4];
    const struct judge_act *act = &judge->acts[index];
    uint32_t number = judge_peer_number(judge, act->peer);
    if (act->record == NULL) {
        snprintf(text, sizeof texts[0], "the death of peer %u", number);
        return text;
    }
    int length = snprintf(text, sizeof texts[0], "transaction %llu of peer %u (",
                          (unsigned long long)act->record->transaction, number);
    static const char *const words[] = {"to", "with", "release", "drop"};
    for (uint32_t i = 0; i < act->record->item_count && length < 200; i++)
        length += snprintf(text + length, sizeof texts[0] - (size_t)length, "%s%s %u",
                           i == 0 ? "" : " ", words[judge_item_kind(act->record->items[i])],
                           judge_item_node(act->record->items[i]));
    snprintf(text + length, sizeof texts[0] - (size_t)length,
             act->record->item_count > 0 && length >= 200 ? " ...)" : ")");
    return text;
}

int judge_link_add(struct judge *judge, uint32_t from, uint32_t to, uint32_t kind, uint32_t node)
{
    if (from == to)
        return 0;
    if (!judge_grow((void **)&judge->links, judge->link_count, &judge->link_room,
                    sizeof *judge->links))
        return -ENOMEM;
    judge->links[judge->link_count++] =
        (struct judge_link){.from = from, .to = to, .kind = kind, .node = node};
    return 0;
}

/* ---- the judge ------------------------------------------------------------------------------- */

/* A destination that a transaction did not reach: with reason, or lost. */
static int missing(struct judge *judge, uint32_t index, uint32_t item, uint32_t *half)
{
    const struct judge_act *act = &judge->acts[index];
    uint32_t number = judge_item_node(act->record->items[item]);
    uint32_t found = judge_map_get(&judge->node_ids, number);
    if (found == JUDGE_NOBODY || act->flags & JUDGE_NO_RIGHT)
        return 0;
    const struct judge_node *node = &judge->nodes[found];
    const struct judge_peer *owner = &judge->peers[node->owner];
    if (owner->killed != JUDGE_NEVER || !owner->drained)
        return 0;
    if (node->released_by != JUDGE_NOBODY)
        /* It was dropped because the release had come first. */
        return judge_link_add(judge, node->released_by, index, JUDGE_AFTER_RELEASE, number);
    if (act->flags & JUDGE_SEEN)
        *half = number;
    else
        judge_violation(judge, BENCH_RULE_LOST,
                        "%s returned, and never came to node %u of peer %u\n",
                        judge_act_name(judge, index), number,
                        judge_peer_number(judge, node->owner));
    return 0;
}

int judge_missing(struct judge *judge)
{
    int result = 0;
    for (uint32_t a = 0; a < judge->act_count; a++) {
        const struct judge_act *act = &judge->acts[a];
        if (act->record == NULL || !judge_happened(act) || act->flags & JUDGE_FAILED) {
            judge->verdict->transactions += act->record == NULL;
            continue;
        }
        judge->verdict->transactions++;
        uint32_t half = JUDGE_NOBODY, destinations = 0;
        for (uint32_t i = 0; i < act->record->item_count; i++) {
            if (judge_item_kind(act->record->items[i]) != BENCH_ITEM_TO)
                continue;
            destinations++;
            if (!judge_bit(judge->arrived, act->arrived_at + i))
                result = missing(judge, a, i, &half);
            if (result < 0)
                return result;
        }
        judge->verdict->several += destinations > 1;
        if (half != JUDGE_NOBODY)
            judge_violation(judge, BENCH_RULE_ATOMICITY | BENCH_RULE_LOST,
                            "%s came to others, but not to node %u\n", judge_act_name(judge, a),
                            half);
        /* A peer's death comes after all that it had sent: what was known by then is before it
         * anyway. */
        uint32_t death = judge->peers[act->peer].death;
        if (death != JUDGE_NOBODY && act->known >= judge->acts[death].begin)
            result = judge_link_add(judge, a, death, JUDGE_BEFORE_DEATH, 0);
        if (result < 0)
            return result;
    }
    for (uint64_t n = 0; n < judge->node_count; n++) {
        const struct judge_node *node = &judge->nodes[n];
        /* The earlier ones at this node come before the last one. */
        if (node->released_by == JUDGE_NOBODY || node->last_delivered == JUDGE_NOBODY)
            continue;
        result = judge_link_add(judge, node->last_delivered, node->released_by,
                                JUDGE_BEFORE_RELEASE, node->number);
        if (result < 0)
            return result;
    }
    return 0;
}

int bench_judge(const struct bench_histories *all, struct bench_verdict *verdict)
{
    *verdict = (struct bench_verdict){0};
    size_t length = 0;
    struct judge judge = {.all = all, .verdict = verdict};
    judge.text = open_memstream(&verdict->text, &length);
    if (judge.text == NULL)
        return -ENOMEM;
    int (*const parts[])(struct judge *) = {judge_collect, judge_receipts, judge_rights,
                                            judge_missing, judge_relation};
    int result = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && result == 0; i++)
        result = parts[i](&judge);
    if (verdict->violations > JUDGE_TOLD_MAX)
        fprintf(judge.text, "and %llu more\n",
                (unsigned long long)(verdict->violations - JUDGE_TOLD_MAX));
    fclose(judge.text);
    judge_map_free(&judge.act_ids);
    judge_map_free(&judge.node_ids);
    free(judge.peers);
    free(judge.acts);
    free(judge.nodes);
    free(judge.arrived);
    free(judge.sequence);
    free(judge.links);
    return result;
}
