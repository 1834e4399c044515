/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_SIGBUS_H
#define KVFS_BASE_SIGBUS_H

/*
 * Reading memory whose pages somebody else can take away. What a system call
 * touches is an EFAULT then; what we touch ourselves is a SIGBUS.
 */

/** sigbus_init - take the signal. Threads: once, before others start. */
void sigbus_init(void);

/**
 * sigbus_try - run a function that touches such memory
 * @fn: holds no lock, frees nothing that it has not taken before: it may end
 *      anywhere
 *
 * Returns: 0, or -EFAULT it met a page that is not there.
 * Threads: any, each by itself; not one inside another.
 */
int sigbus_try(void (*fn)(void *arg), void *arg);

#endif
