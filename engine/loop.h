/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_LOOP_H
#define KVFS_ENGINE_LOOP_H

/*
 * A network inside one process, for tests: engines that listen on "loop:NAME"
 * and connect to each other. One thread moves everything, one item at a time,
 * so what a plan says happens at a place that can be counted to.
 */
#include "engine/transport.h"

extern const struct transport_ops transport_loop;

enum loop_point {
	LOOP_CONNECT, /* a connector's hello */
	LOOP_MSG,
	LOOP_SLICE,
	LOOP_POINTS
};

enum loop_action {
	LOOP_FAIL,	/* the link ends instead */
	LOOP_TRUNCATE,	/* slice: half of it lands, then the link ends */
	LOOP_LOSE_ACK,	/* msg, slice: delivered, but the link ends before the
			 * sender learns of it */
	LOOP_HOLD,	/* stops there until loop_release; a slice has half of
			 * its bytes written. Other links go on. */
	LOOP_HOLD_HARD, /* the same, and deaf to divert until released: what a
			 * receive by hardware is */
	LOOP_SILENT,	/* nothing comes or goes on this path any more, and
			 * nobody is told */
};

/**
 * loop_plan - from now on, at the n-th item of this kind, do that
 * @nth: 1 is the next; 0 forgets the plan
 * @times: for how many items in a row
 *
 * One plan a point, over all links. Threads: any.
 */
void loop_plan(enum loop_point point, uint32_t nth, uint32_t times,
	       enum loop_action action);

/** loop_count - how many items of a kind have passed. */
uint64_t loop_count(enum loop_point point);

/** loop_wait_held - wait until n items are held (10 s at most); true: so it
 *  is. */
bool loop_wait_held(uint32_t n);

/** loop_release - let what is held go on; forget all plans. */
void loop_release(void);

#endif
