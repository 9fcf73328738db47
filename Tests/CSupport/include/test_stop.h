/* test_stop.h - a process stops itself in the middle of a transaction, in the code that programs
 * run. */
#pragma once

#include <stdint.h>

/* From now on this thread stops its process (SIGSTOP) where it next reads the processor's time
 * counter while one of these words is a pending commit word: behind the writing of every slot,
 * before the stamp. Once; after SIGCONT the reading is made. -ENOTSUP where the processor has no
 * such trap. */
int test_stop_in_commit(const uint64_t *words, uint32_t count);
