/* test_sandbox.h - what sandboxes of applications do to a process, for tests that run peers inside.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Starts this program anew in user, process and mount namespaces of its own, in which only the
 * effective user and group exist and /proc shows nobody else. What was this process waits outside,
 * holds nothing open, and ends as the new one does. With other_time its clocks are ahead by 1000 s.
 * One thread only. Returns only -errno. */
int test_sandbox_namespaces(char *const arguments[], bool other_time);

/* From now on any other system call than those of test_sandbox_call ends the process. */
int test_sandbox_seccomp(void);
/* After a change of user, which no exec followed: others of that user may look at this process. */
int test_sandbox_be_open(void);

/* The names of the system calls that are left, in alphabetical order; NULL behind the last. Those
 * that this architecture lacks are among them. */
const char *test_sandbox_call(uint32_t index);
