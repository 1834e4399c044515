/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_GATE_H
#define KVFS_FS_GATE_H

#include <stdbool.h>

/**
 * gate_enter - before answering an io_uring request from a thread that is not
 * its queue's; gate_leave after it. See gate.c.
 */
void gate_enter(void);
void gate_leave(void);

/** gate_at_end - called once, before libfuse frees its rings on this thread;
 *  NULL: not any more. */
void gate_at_end(void (*fn)(void *arg), void *arg);

/** gate_engaged - does libfuse wait through our io_uring_submit_and_wait? */
bool gate_engaged(void);

#endif
