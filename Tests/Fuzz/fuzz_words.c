/*
 * The broker's part: it reads and settles the claim words and the outbox of a peer that may be dead
 * or hostile, and counts leases by what that peer's words say.
 */
#include "ring_memory.h"

#define LANES 2u

static struct shmring_clock bus_clock;
static struct shmring_mapping claims, outbox;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    bus_clock = fuzz_clock();
    claims = fuzz_claims(3, LANES);
    outbox = fuzz_outbox(3, LANES);
    return 0;
}

static void count_lease(struct fuzz_input *input, struct shmring_lease *lease,
                        struct shmring_stall_budget *budget, uint64_t *now_ns)
{
    uint8_t how = fuzz_u8(input);
    *now_ns += fuzz_u16(input) * UINT64_C(1000);
    if (how & 1) {
        shmring_lease_end(lease, budget, *now_ns, how & 2);
        (void)shmring_stall_budget_is_full(budget, *now_ns);
        return;
    }
    int64_t age_ns = how & 4 ? (int64_t)fuzz_word(input, 0) : (int64_t)fuzz_u16(input) * 1000;
    if (how & 8) /* asked again: the answer stays */
        FUZZ_CHECK(lease->until_ns == 0 ||
                   shmring_lease_begin(lease, budget, lease->index, lease->generation, *now_ns,
                                       age_ns) == lease->until_ns);
    shmring_lease_end(lease, budget, *now_ns, true);
    uint64_t until = shmring_lease_begin(lease, budget, how >> 4, fuzz_u8(input), *now_ns, age_ns);
    /* Nothing younger than the least lease is ever aborted, nothing is waited for without end. */
    uint64_t begun = age_ns <= 0                       ? *now_ns
                     : (uint64_t)age_ns > *now_ns      ? 0
                                                       : *now_ns - (uint64_t)age_ns;
    FUZZ_CHECK(until >= begun + SHMRING_LEASE_MIN_NS);
    FUZZ_CHECK(until <= *now_ns + SHMRING_LEASE_MAX_NS);
}

static void copy_claims(struct fuzz_input *input)
{
    struct shmring_claim *copies = malloc(8 * sizeof *copies);
    uint32_t lanes = (uint32_t)fuzz_word(input, LANES), next = (uint32_t)fuzz_word(input, 0);
    uint32_t room = fuzz_below(input, 9);
    FUZZ_CHECK(copies != NULL);
    for (uint32_t turn = 0; turn < 4; turn++) {
        uint32_t first = next;
        uint32_t count = shmring_claims_copy(&claims, lanes, first, copies, room, &next);
        FUZZ_CHECK(count <= room && next >= first);
        for (uint32_t i = 0; i < count; i++)
            (void)shmring_claim_names(copies[i], 7, fuzz_word(input, copies[i].position));
    }
    free(copies);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct shmring_lease lease = {0};
    struct shmring_stall_budget budget;
    uint64_t now_ns = 1000000000;
    shmring_stall_budget_init(&budget, now_ns);
    memset((uint8_t *)claims.base + SHMRING_CLAIMS_OFFSET, 0, 4096);
    memset(fuzz_commit_words(&outbox), 0, 4096);
    for (uint32_t steps = 0; input.left != 0 && steps < 128; steps++) {
        uint64_t now = shmring_clock_now(&bus_clock);
        switch (fuzz_u8(&input) & 7) {
        case 0:
            FUZZ_WORDS(claims)[SHMRING_CLAIMS_OFFSET / 8 + fuzz_below(&input, 512)] =
                fuzz_word(&input, SHMRING_CLAIM(1, 7, 16));
            break;
        case 1:
            fuzz_commit_words(&outbox)[fuzz_below(&input, 512)] =
                fuzz_word(&input, SHMRING_COMMIT_PENDING);
            break;
        case 2: copy_claims(&input); break;
        case 3:
            (void)shmring_outbox_settle(&outbox, LANES);
            FUZZ_CHECK(shmring_outbox_settle(&outbox, LANES) == 0);
            break;
        case 4: {
            uint32_t index = (uint32_t)fuzz_word(&input, 0);
            uint32_t generation = (uint32_t)fuzz_word(&input, 0);
            uint64_t word = shmring_outbox_pending(&outbox, LANES, index, generation);
            if (word != 0)
                (void)shmring_clock_age_ns(&bus_clock, word);
            (void)shmring_outbox_abort(&outbox, LANES, index, generation);
            FUZZ_CHECK(shmring_outbox_pending(&outbox, LANES, index, generation) == 0);
            break;
        }
        case 5: (void)shmring_clock_age_ns(&bus_clock, fuzz_word(&input, now)); break;
        default: count_lease(&input, &lease, &budget, &now_ns);
        }
    }
    return 0;
}
