/* The relation, and a topological sort of it. What the sort can't reach holds the cycles. */
#include <errno.h>

#include "judge.h"

struct begin {
    uint64_t time;
    uint32_t act;
};

static int compare_begins(const void *left, const void *right)
{
    const struct begin *a = left, *b = right;
    return a->time < b->time ? -1 : a->time > b->time;
}

static int compare_links(const void *left, const void *right)
{
    const struct judge_link *a = left, *b = right;
    return a->from < b->from ? -1 : a->from > b->from;
}

/* Counts what began while another peer's act was going on: the two latest ends of different peers
 * are enough to know. */
static void count_overlaps(struct judge *judge, const uint32_t *order)
{
    uint64_t last = 0, second = 0;
    uint32_t last_peer = JUDGE_NOBODY;
    for (uint64_t i = 0; i < judge->act_count; i++) {
        const struct judge_act *act = &judge->acts[order[i]];
        if (act->record == NULL || !judge_happened(act))
            continue;
        uint64_t end = act->record->end != 0 ? act->record->end : act->begin;
        judge->verdict->overlapped += (act->peer == last_peer ? second : last) > act->begin;
        if (act->peer == last_peer) {
            last = end > last ? end : last;
        } else if (end > last) {
            second = last;
            last = end;
            last_peer = act->peer;
        } else if (end > second) {
            second = end;
        }
    }
}

/* The line of begins, and where each act enters it: before the first that began after its end. */
static int draw_line(struct judge_graph *graph)
{
    struct judge *judge = graph->judge;
    uint32_t count = graph->act_count;
    struct begin *begins = malloc((count + 1) * sizeof *begins);
    if (begins == NULL)
        return -ENOMEM;
    for (uint32_t a = 0; a < count; a++)
        begins[a] = (struct begin){.time = judge->acts[a].begin, .act = a};
    qsort(begins, count, sizeof *begins, compare_begins);
    for (uint32_t i = 0; i < count; i++)
        graph->order[i] = begins[i].act;
    for (uint32_t a = 0; a < count; a++) {
        uint64_t known = judge->acts[a].known;
        uint32_t low = 0, high = count;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (begins[middle].time <= known)
                low = middle + 1;
            else
                high = middle;
        }
        graph->enters[a] = low;
    }
    free(begins);
    return 0;
}

/* Counting sort: where each act stands in the sequences. */
static void find_places(struct judge_graph *graph)
{
    struct judge *judge = graph->judge;
    for (uint64_t i = 0; i < judge->sequence_count; i++)
        if (judge->sequence[i] != JUDGE_NOBODY)
            graph->place_first[judge->sequence[i] + 1]++;
    for (uint32_t a = 0; a < graph->act_count; a++)
        graph->place_first[a + 1] += graph->place_first[a];
    /* Filled from the end, which leaves each first at its place. */
    for (uint64_t i = judge->sequence_count; i-- > 0;)
        if (judge->sequence[i] != JUDGE_NOBODY)
            graph->places[--graph->place_first[judge->sequence[i] + 1]] = (uint32_t)i;
    for (uint32_t a = 0; a < graph->act_count; a++)
        graph->place_first[a] = graph->place_first[a + 1];
    graph->place_first[graph->act_count] = 0;
    for (uint64_t i = 0; i < judge->sequence_count; i++)
        graph->place_first[graph->act_count] += judge->sequence[i] != JUDGE_NOBODY;
}

static void find_links(struct judge_graph *graph)
{
    struct judge *judge = graph->judge;
    if (judge->link_count > 0)
        qsort(judge->links, judge->link_count, sizeof *judge->links, compare_links);
    for (uint64_t i = 0; i < judge->link_count; i++)
        graph->link_first[judge->links[i].from + 1]++;
    for (uint32_t a = 0; a < graph->act_count; a++)
        graph->link_first[a + 1] += graph->link_first[a];
}

uint32_t judge_edge(const struct judge_graph *graph, uint32_t vertex, uint32_t k)
{
    const struct judge *judge = graph->judge;
    uint32_t count = graph->act_count;
    if (vertex >= count) { /* the line: to the next begin, and to the act that begins here */
        uint32_t i = vertex - count;
        if (k == 0)
            return i + 1 < count ? vertex + 1 : JUDGE_EDGE_SKIP;
        return k == 1 ? graph->order[i] : JUDGE_EDGE_END;
    }
    if (k == 0)
        return graph->enters[vertex] < count ? count + graph->enters[vertex] : JUDGE_EDGE_SKIP;
    uint32_t place = graph->place_first[vertex] + k - 1;
    if (place < graph->place_first[vertex + 1]) {
        uint32_t next = judge->sequence[graph->places[place] + 1];
        return next == JUDGE_NOBODY || next == vertex ? JUDGE_EDGE_SKIP : next;
    }
    uint32_t link = graph->link_first[vertex] + place - graph->place_first[vertex + 1];
    return link < graph->link_first[vertex + 1] ? judge->links[link].to : JUDGE_EDGE_END;
}

#define EACH_EDGE(graph, vertex, to)                                                               \
    for (uint32_t k_ = 0, to; (to = judge_edge(graph, vertex, k_)) != JUDGE_EDGE_END; k_++)        \
        if (to != JUDGE_EDGE_SKIP)

/* Takes away what nothing precedes, until nothing is left or only cycles and what they precede. */
static int sort(const struct judge_graph *graph)
{
    uint32_t vertices = graph->act_count * 2, waiting = 0, reached = 0;
    uint32_t *preceding = calloc(vertices + 1, sizeof *preceding);
    uint32_t *stack = malloc((vertices + 1) * sizeof *stack);
    int result = preceding == NULL || stack == NULL ? -ENOMEM : 0;
    for (uint32_t v = 0; v < vertices && result == 0; v++)
        EACH_EDGE(graph, v, to) preceding[to]++;
    for (uint32_t v = 0; v < vertices && result == 0; v++)
        if (preceding[v] == 0)
            stack[waiting++] = v;
    while (waiting > 0) {
        uint32_t v = stack[--waiting];
        reached++;
        EACH_EDGE(graph, v, to)
        {
            if (--preceding[to] == 0)
                stack[waiting++] = to;
        }
    }
    free(stack);
    if (result == 0 && reached < vertices)
        result = judge_cycles(graph, preceding);
    free(preceding);
    return result;
}

int judge_relation(struct judge *judge)
{
    struct judge_graph graph = {.judge = judge, .act_count = (uint32_t)judge->act_count};
    size_t count = judge->act_count + 2;
    graph.order = malloc(count * sizeof(uint32_t));
    graph.enters = malloc(count * sizeof(uint32_t));
    graph.place_first = calloc(count, sizeof(uint32_t));
    graph.places = malloc((judge->sequence_count + 1) * sizeof(uint32_t));
    graph.link_first = calloc(count, sizeof(uint32_t));
    int result = -ENOMEM;
    if (graph.order != NULL && graph.enters != NULL && graph.place_first != NULL &&
        graph.places != NULL && graph.link_first != NULL)
        result = draw_line(&graph);
    if (result == 0) {
        count_overlaps(judge, graph.order);
        find_places(&graph);
        find_links(&graph);
        result = sort(&graph);
    }
    free(graph.order);
    free(graph.enters);
    free(graph.place_first);
    free(graph.places);
    free(graph.link_first);
    return result;
}
