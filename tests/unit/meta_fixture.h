/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_META_FIXTURE_H
#define KVFS_TESTS_META_FIXTURE_H

/*
 * A redis-server of the test's own, and nodes: a struct meta each, over a local
 * index that is a table in memory.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "meta/kv.h"
#include "meta/meta.h"
#include "redis_fixture.h"

void fixture_up(void);
void fixture_down(void);

struct Suite;
/** fixture_run - run the suite and free it; what main returns: 77 where there
 *  is no redis-server. */
int fixture_run(struct Suite *s);

/* --- a node ------------------------------------------------------------ */

struct block {
	struct block *next;
	struct meta_kv_state state;
	enum meta_kv_verdict verdict;
	struct meta_kv_answer answer; /* the last */
	unsigned n_verdicts;
	uint64_t at; /* recency */
	char path[128];
};

struct node_under_test {
	struct meta *meta;
	struct meta_config config;
	struct meta_kv_ops ops;
	char state_dir[128];
	pthread_mutex_t lock;
	struct block *table[65536];
	struct block **order; /* oldest first */
	uint64_t n_order;
	uint64_t n_states; /* how often state() was asked */
};

struct node_under_test *node_new(const char *name, const char *url);
int node_open(struct node_under_test *n); /* and start */
struct node_under_test *node_up(const char *name, const char *url);
void node_down(struct node_under_test *n); /* close */
void node_free(struct node_under_test *n); /* and forget its index */

/** node_store - a block appears in the local index; sum 0: no checksum. */
void node_store(struct node_under_test *n, const char *path, uint64_t sum);
void node_change(struct node_under_test *n, const char *path,
		 const struct meta_kv_state *state);
void node_evict(struct node_under_test *n, const char *path);
void node_unlink(struct node_under_test *n, const char *path);
void node_sync(struct node_under_test *n, const char *path);
struct block node_block(struct node_under_test *n, const char *path);
int node_lookup(struct node_under_test *n, const char *path,
		struct meta_kv_found *found);
struct meta_stats node_stats(struct node_under_test *n);

/* --- scans of all records: a share of the time ------------------------- */

/** scan_measure - the next pages of a scan take longer than they would.
 *  Threads: one scans at a time. */
void scan_measure(void);
/** scan_pauses - the shortest pause after one of them, in times of the page;
 *  waits for it, and ends the measuring. */
double scan_pauses(void);

/* --- messages ---------------------------------------------------------- */

/** logged - did a line with this text appear? */
bool logged(const char *text);
unsigned logged_count(const char *text);

#endif
