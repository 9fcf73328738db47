/*
 * bus1_sys_link.h - descriptors between two peers: packets that wait in a socket until they are
 * wanted.
 *
 * Guarantees:
 *   1. Nothing here waits.
 *   2. Looking at a packet installs none of its descriptors; dropping it closes them without
 *      installing them, also where the table of descriptors is full.
 *   3. Taking a packet's descriptors leaves the packet where it is: if they did not all find room,
 *      none is kept, and it can be tried again. Every one is close-on-exec, and the caller's.
 *
 * NOTE - one process reads one end, one thread at a time: a packet is found by the bytes that stand
 * before it (SO_PEEK_OFF).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* As many as the kernel takes in one packet. */
#define BUS1_SYS_LINK_DESCRIPTORS_MAX 253

/* Sends one packet: 0; -EAGAIN when the socket is full; -EBADF when one of fds is closed;
 * -ETOOMANYREFS when the user has too many descriptors under way. */
int bus1_sys_link_send(int fd, const void *bytes, size_t byte_count, const int *fds, int fd_count);

/* Copies the begin of the packet behind `offset` bytes. Returns its whole length; 0 at the end of
 * the connection, or for an empty packet; -EAGAIN when there is none. */
ssize_t bus1_sys_link_look(int fd, size_t offset, void *bytes, size_t capacity);

/* Installs the descriptors of that packet, or the first `most` of them: how many. -EMFILE when they
 * have no room. */
int bus1_sys_link_take(int fd, size_t offset, int *fds_out, int most);

/* Drops the first packet, and the descriptors that are in it. Its length; -EAGAIN. */
ssize_t bus1_sys_link_drop(int fd);

/* Of what was sent through this end, how much the other has not dropped yet, in a unit of the
 * kernel's: packets of equal length count alike. Or -errno. */
int bus1_sys_link_unread(int fd);
/* True when the other end is closed. */
int bus1_sys_link_has_ended(int fd);
