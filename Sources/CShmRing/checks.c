#include "shmring_checks.h"

#if defined(SHMRING_SWITCHES)

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t shmring_unchecked;

static const char *const names[] = {
    "none", "tail", "class", "length", "lap", "future-stamp",
    "past-stamp", "commit-index", "generation", "commit-kept", "claims", "slice",
    "held", "head", "ledger", "bell", "sleep", "wake",
    "quota", "kind", "seals", "size", "blocks", "holes",
    "geometry", "lease", "hang-up", "share", "names", "rights",
    "peek", "packet",
};

__attribute__((constructor)) static void choose(void)
{
    const char *wished = getenv("BUS1_UNCHECKED");
    if (wished == NULL)
        return;
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(wished, names[i]) == 0) {
            shmring_unchecked = i;
            return;
        }
    fprintf(stderr, "BUS1_UNCHECKED: no such check: %s\n", wished);
    abort();
}

#else

/* A file without a declaration is not C. */
typedef int shmring_no_checks;

#endif
