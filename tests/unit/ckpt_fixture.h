/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_CKPT_FIXTURE_H
#define KVFS_TESTS_CKPT_FIXTURE_H

/*
 * A redis-server of the test's own, a proxy in front of it that can cut and
 * lie, and a struct meta on top.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "meta/ckpt.h"
#include "meta/meta.h"
#include "redis_fixture.h"

#define DEADLINE_MS 4000

/* Folders and the server; before and after each test. */
void fixture_up(void);
void fixture_down(void);
const char *fixture_state(const char *name); /* a state directory, made */

/** server_setrange - overwrite bytes of the string kvfs:{c}:<key>. */
void server_setrange(const char *key, unsigned offset, const void *p, size_t n);

/* The test's daemon: its state directory, a new one of the default name. */
extern struct meta *meta;
void node_up(void); /* through the proxy */
void node_down(void);
int node_try(const char *state, const char *prefix, struct meta **m);

enum proxy_mode {
	PROXY_PASS,
	PROXY_CUT_AFTER, /* the request gets there, its answer does not */
	PROXY_CUT_BEFORE,
	PROXY_LIE,  /* answer in the server's stead */
	PROXY_MUTE, /* nothing that this client says gets there any more */
};
/** proxy_set - do this to the next request that contains needle. */
void proxy_set(enum proxy_mode mode, const char *needle, const void *lie,
	       size_t lie_bytes);
/** proxy_set_later - the same, after so many that contain it went by. */
void proxy_set_later(enum proxy_mode mode, const char *needle, unsigned n_by);
bool proxy_done(void); /* it was done */

/* Shorthands; they fail the test unless all is well. */
#define NOW INT64_C(1700000000123456789)
struct ckpt_attr make(uint64_t parent, const char *name, uint32_t mode);
struct ckpt_attr look(uint64_t parent, const char *name);
struct ckpt_attr stat_of(uint64_t ino);
int look_err(uint64_t parent, const char *name);
int make_err(uint64_t parent, const char *name, uint32_t mode);

/** tree_dump - all of the tree as text, sorted; the caller frees it. */
char *tree_dump(void);
uint64_t logged_seq(void);
void wait_ready_again(void); /* until the store is not read-only */
unsigned count_inos(void);

#endif
