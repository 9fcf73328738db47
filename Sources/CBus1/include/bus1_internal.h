/*
 * What Bus1C needs of C and does not export: each thread's last error, and telling a peer's
 * descriptor from any other. Not installed.
 */
#ifndef BUS1_INTERNAL_H
#define BUS1_INTERNAL_H

#include "bus1.h"

/* Becomes what bus1_last_error of this thread tells. */
void bus1_internal_note(const struct bus1_error *error);

/*
 * Marks an epoll instance: `mark` becomes an event descriptor that it watches for nothing, and that
 * nobody else has. 0, or -errno.
 */
int bus1_internal_mark(int epoll, int *mark);

/* 0: this descriptor is the epoll instance with that mark. -EBADF: none is open there.
 * -EOPNOTSUPP. */
int bus1_internal_is_marked(int fd, int mark);

#endif
