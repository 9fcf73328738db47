/*
 * A service in C: it owns a node under a name, and answers whoever asks.
 *
 *     cc calculator.c $(pkg-config --cflags --libs bus1) -o calculator
 *     ./calculator serve 3 &
 *     ./calculator 6 7
 */
#include <bus1.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct question {
    int64_t a, b;
};

static void check(int result, const char *what)
{
    char text[256];
    if (result == 0) return;
    bus1_last_error_text(text, sizeof(text));
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

static int serve(bus1_peer *peer, int count)
{
    uint64_t node;
    check(bus1_node_make(peer, 0, &node), "making a node");
    check(bus1_publish(peer, node, "calculator", BUS1_ACCESS_SAME_USER, 0, NULL), "publishing");
    while (count > 0) {
        struct bus1_received received = {.size = sizeof(received)};
        check(bus1_receive(peer, BUS1_NEVER, &received), "receiving");
        /* Whoever asked may have sent anything: the length is looked at first. */
        if (received.kind == BUS1_RECEIVED_MESSAGE && received.n_data == sizeof(struct question)) {
            struct question question;
            memcpy(&question, received.data, sizeof(question));
            int64_t answer = question.a * question.b;
            bus1_reply(&received, &answer, sizeof(answer), BUS1_NOW);
            count--;
        }
        bus1_give_back(&received);
    }
    return 0;
}

static int ask(bus1_peer *peer, struct question question)
{
    uint64_t calculator, answers, deadline = bus1_after(60000000000);
    check(bus1_look_up(peer, "calculator", deadline, &calculator), "looking up");
    check(bus1_node_make(peer, 0, &answers), "making a node");
    struct bus1_outgoing message = {.handle = calculator,
                                    .data = &question,
                                    .n_data = sizeof(question),
                                    .reply_node = answers};
    struct bus1_transaction transaction = {.size = sizeof(transaction),
                                           .message_size = sizeof(message),
                                           .n_messages = 1,
                                           .messages = &message,
                                           .deadline = deadline};
    check(bus1_transact(peer, &transaction), "asking");
    struct bus1_received received = {.size = sizeof(received)};
    check(bus1_receive(peer, deadline, &received), "receiving");
    if (received.kind != BUS1_RECEIVED_MESSAGE || received.n_data != sizeof(int64_t)) {
        fprintf(stderr, "the calculator is gone\n");
        return 1;
    }
    int64_t answer;
    memcpy(&answer, received.data, sizeof(answer));
    printf("%lld\n", (long long)answer);
    return bus1_give_back(&received);
}

int main(int count, char **arguments)
{
    bus1_peer *peer;
    int result;
    if (count != 3) {
        fprintf(stderr, "usage: calculator serve COUNT | calculator A B\n");
        return 64;
    }
    check(bus1_open(NULL, NULL, &peer), "joining the bus");
    if (strcmp(arguments[1], "serve") == 0)
        result = serve(peer, atoi(arguments[2]));
    else
        result = ask(peer, (struct question){atoll(arguments[1]), atoll(arguments[2])});
    bus1_close(peer);
    return result;
}
