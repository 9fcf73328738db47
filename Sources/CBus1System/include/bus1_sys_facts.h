/* bus1_sys_facts.h - small facts about this process and machine. */
#pragma once

#include <stdint.h>

/* 1, 2, 3 ...: never the same twice in this process, on any thread. */
uint64_t bus1_sys_unique(void);
/* The first of `count` such numbers, all of them the caller's. */
uint64_t bus1_sys_unique_block(uint64_t count);
/* How many processors this machine has at work; at least 1. */
int bus1_sys_cpu_count(void);
/* The value of an environment variable; NULL when there is none, or when this program runs with
 * more rights than whoever started it. */
const char *bus1_sys_environment(const char *name);
