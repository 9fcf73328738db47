/* Finds the cycles that a sort has left over, and tells each in words. */
#include <errno.h>

#include "judge.h"

#define STEPS_MAX UINT64_C(50000000) /* spent on finding short cycles, over all */
#define ACTS_TOLD 12u

struct search {
    const struct judge_graph *graph;
    uint32_t vertices;
    uint32_t *number, *low; /* Tarjan's; number 0: not seen */
    uint32_t *group;        /* of each vertex; 0: none */
    uint32_t *stack, *path, *edge;
    uint32_t *distance, *parent, *deque; /* of the search for a short one */
    uint64_t steps;
};

/* ---- a short cycle through one act ---------------------------------------------------------- */

/* Fewest acts: steps along the line are free. Returns the number of acts, UINT32_MAX: none within
 * `bound`. `parent` then leads back from `start`. */
static uint32_t around(struct search *search, const uint32_t *members, uint32_t count,
                       uint32_t start, uint32_t bound)
{
    const struct judge_graph *graph = search->graph;
    for (uint32_t i = 0; i < count; i++)
        search->distance[members[i]] = UINT32_MAX;
    uint64_t first = search->vertices, end = first; /* a deque that grows both ways */
    search->deque[end++] = start;
    uint32_t best = UINT32_MAX;
    bool at_start = true;
    while (first < end) {
        uint32_t v = search->deque[first++];
        uint32_t distance = at_start ? 0 : search->distance[v];
        at_start = false;
        if (distance >= bound || (v == start && distance > 0))
            break;
        uint32_t to;
        for (uint32_t k = 0; (to = judge_edge(graph, v, k)) != JUDGE_EDGE_END; k++) {
            search->steps++;
            if (to == JUDGE_EDGE_SKIP || search->group[to] != search->group[start])
                continue;
            uint32_t weight = v < graph->act_count ? 1 : 0;
            if (distance + weight >= search->distance[to])
                continue;
            search->distance[to] = distance + weight;
            search->parent[to] = v;
            if (to == start)
                best = search->distance[to];
            else if (weight == 0 && first > 0)
                search->deque[--first] = to;
            else if (end < 2 * (uint64_t)search->vertices)
                search->deque[end++] = to;
        }
        if (best != UINT32_MAX && distance + 1 >= best)
            break;
    }
    return best < bound ? best : UINT32_MAX;
}

/* ---- words ----------------------------------------------------------------------------------- */

static uint32_t messages_of(const struct judge_act *act)
{
    uint32_t count = 0;
    for (uint32_t i = 0; act->record != NULL && i < act->record->item_count; i++)
        count += judge_item_kind(act->record->items[i]) == BENCH_ITEM_TO;
    return count;
}

static uint32_t peer_at(const struct judge *judge, uint32_t place)
{
    uint32_t p = 0;
    while (judge->peers[p].sequence_end < place)
        p++;
    return p;
}

/* One step of a cycle, told; returns the rules that it touches. */
static uint32_t tell_time(const struct judge *judge, uint32_t a, uint32_t b, FILE *text)
{
    const struct judge_act *first = &judge->acts[a], *then = &judge->acts[b];
    uint32_t number = judge_peer_number(judge, then->peer);
    unsigned long long known = first->known, begin = then->begin;
    bool same = first->known_by == then->peer;
    if (first->flags & JUDGE_BY_RECEIPT) {
        fprintf(text, "    peer %u had received %s at %llu,\n",
                judge_peer_number(judge, first->known_by), judge_act_name(judge, a), known);
        fprintf(text, "      and then peer %u began %s at %llu\n", number,
                judge_act_name(judge, b), begin);
        return (same ? BENCH_RULE_O2 : BENCH_RULE_O4) |
               (messages_of(first) > 1 ? BENCH_RULE_O5 : 0u);
    }
    fprintf(text, "    %s had returned at %llu,\n", judge_act_name(judge, a), known);
    fprintf(text, "      and then peer %u began %s at %llu\n", number, judge_act_name(judge, b),
            begin);
    return same ? BENCH_RULE_O1 : BENCH_RULE_O1 | BENCH_RULE_O4;
}

/* A step without the line: within a peer's sequence, or by a link. */
static uint32_t tell_direct(const struct judge_graph *graph, uint32_t a, uint32_t b, FILE *text,
                            uint32_t *peer)
{
    const struct judge *judge = graph->judge;
    for (uint32_t i = graph->place_first[a]; i < graph->place_first[a + 1]; i++)
        if (judge->sequence[graph->places[i] + 1] == b) {
            *peer = peer_at(judge, graph->places[i]);
            fprintf(text, "    peer %u received %s,\n      and then %s\n",
                    judge_peer_number(judge, *peer), judge_act_name(judge, a),
                    judge_act_name(judge, b));
            return (judge->acts[a].record == NULL || judge->acts[b].record == NULL) ||
                           messages_of(&judge->acts[a]) == 0 || messages_of(&judge->acts[b]) == 0
                       ? BENCH_RULE_NOTICES
                       : 0;
        }
    *peer = JUDGE_NOBODY;
    for (uint32_t i = graph->link_first[a]; i < graph->link_first[a + 1]; i++)
        if (judge->links[i].to == b) {
            const struct judge_link *link = &judge->links[i];
            switch (link->kind) {
            case JUDGE_BEFORE_RELEASE:
                fprintf(text, "    %s was delivered at node %u,\n", judge_act_name(judge, a),
                        link->node);
                fprintf(text, "      and so precedes its release by %s\n",
                        judge_act_name(judge, b));
                return BENCH_RULE_RELEASED;
            case JUDGE_AFTER_RELEASE:
                fprintf(text, "    %s released node %u,\n", judge_act_name(judge, a), link->node);
                fprintf(text, "      and so precedes, which never came there, %s\n",
                        judge_act_name(judge, b));
                return BENCH_RULE_RELEASED;
            default:
                fprintf(text, "    %s had happened,\n      and so precedes %s\n",
                        judge_act_name(judge, a), judge_act_name(judge, b));
                return BENCH_RULE_NOTICES;
            }
        }
    return 0;
}

/* Tells the cycle whose acts stand in `acts`; by_line[i]: the step from acts[i] goes by the
 * line. */
static int tell(const struct search *search, const uint32_t *acts, const bool *by_line,
                uint32_t count, uint32_t members)
{
    struct judge *judge = search->graph->judge;
    char *words = NULL;
    size_t length = 0;
    FILE *text = open_memstream(&words, &length);
    if (text == NULL)
        return -ENOMEM;
    uint32_t rules = 0, at = JUDGE_NOBODY, times = 0;
    bool elsewhere = false;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t a = acts[i], b = acts[(i + 1) % count], peer = JUDGE_NOBODY;
        if (by_line[i]) {
            rules |= tell_time(judge, a, b, text);
            times++;
        } else {
            rules |= tell_direct(search->graph, a, b, text, &peer);
            if (peer != JUDGE_NOBODY) {
                elsewhere = elsewhere || (at != JUDGE_NOBODY && at != peer);
                at = peer;
            }
        }
        if (i == ACTS_TOLD)
            i = count; /* the rest would help nobody */
    }
    if (times == 0 && !(rules & BENCH_RULE_RELEASED))
        rules |= elsewhere ? BENCH_RULE_O3 : BENCH_RULE_O5;
    fclose(text);
    judge_violation(judge, rules, "a cycle of %u%s\n%s", count,
                    members > count ? ", among others that hang together with it" : "", words);
    free(words);
    return 0;
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* One strongly connected group: its shortest cycle that can be found within the steps. */
static int tell_group(struct search *search, const uint32_t *members, uint32_t count)
{
    uint32_t act_count = search->graph->act_count, best = UINT32_MAX, start = 0, acts = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (members[i] >= act_count)
            continue;
        acts++;
        if (best == 2 || (best != UINT32_MAX && search->steps > STEPS_MAX))
            continue;
        uint32_t found = around(search, members, count, members[i], best);
        if (found < best) {
            best = found;
            start = members[i];
        }
    }
    if (best == UINT32_MAX) {
        judge_violation(search->graph->judge, BENCH_RULE_O1, "a cycle among %u\n", acts);
        return 0;
    }
    (void)around(search, members, count, start, best + 1);
    uint32_t *chosen = malloc(best * sizeof *chosen);
    bool *by_line = calloc(best, sizeof *by_line);
    int result = chosen == NULL || by_line == NULL ? -ENOMEM : 0;
    /* From the start back to the start. */
    uint32_t v = start, at = best;
    bool line = false;
    while (result == 0 && at > 0) {
        v = search->parent[v];
        if (v < act_count) {
            chosen[--at] = v;
            by_line[at] = line;
        }
        line = v >= act_count;
        if (v == start)
            break;
    }
    if (result == 0)
        result = tell(search, chosen + at, by_line + at, best - at, acts);
    free(chosen);
    free(by_line);
    return result;
}

/* Tarjan's algorithm from one root, without recursion; tells each group that has a cycle. */
static int groups_from(struct search *search, const uint32_t *left, uint32_t root,
                       uint32_t *numbers, uint32_t *groups)
{
    uint32_t depth = 0, waiting = 0;
    search->number[root] = search->low[root] = ++*numbers;
    search->path[depth++] = root;
    search->edge[root] = 0;
    search->stack[waiting++] = root;
    while (depth > 0) {
        uint32_t v = search->path[depth - 1];
        uint32_t to = judge_edge(search->graph, v, search->edge[v]++);
        if (to == JUDGE_EDGE_SKIP || (to != JUDGE_EDGE_END && left[to] == 0))
            continue;
        if (to != JUDGE_EDGE_END) {
            if (search->number[to] == 0) {
                search->number[to] = search->low[to] = ++*numbers;
                search->edge[to] = 0;
                search->path[depth++] = to;
                search->stack[waiting++] = to;
            } else if (search->group[to] == 0 && search->number[to] < search->low[v]) {
                search->low[v] = search->number[to];
            }
            continue;
        }
        depth--;
        if (depth > 0 && search->low[v] < search->low[search->path[depth - 1]])
            search->low[search->path[depth - 1]] = search->low[v];
        if (search->low[v] != search->number[v])
            continue;
        uint32_t end = waiting;
        ++*groups;
        do
            search->group[search->stack[--waiting]] = *groups;
        while (search->stack[waiting] != v);
        int result = 0;
        if (end - waiting > 1)
            result = tell_group(search, search->stack + waiting, end - waiting);
        if (result < 0)
            return result;
    }
    return 0;
}

int judge_cycles(const struct judge_graph *graph, const uint32_t *left)
{
    uint32_t vertices = graph->act_count * 2, numbers = 0, groups = 0;
    struct search search = {.graph = graph, .vertices = vertices};
    uint32_t *memory = calloc((size_t)vertices * 10 + 1, sizeof *memory);
    if (memory == NULL)
        return -ENOMEM;
    uint32_t **const arrays[] = {&search.number, &search.low,  &search.group,    &search.stack,
                                 &search.path,   &search.edge, &search.distance, &search.parent};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        *arrays[i] = memory + i * vertices;
    search.deque = memory + (size_t)vertices * 8;
    int result = 0;
    for (uint32_t v = 0; v < vertices && result == 0; v++)
        if (left[v] != 0 && search.number[v] == 0)
            result = groups_from(&search, left, v, &numbers, &groups);
    free(memory);
    return result;
}
