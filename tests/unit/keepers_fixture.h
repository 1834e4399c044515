/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_KEEPERS_FIXTURE_H
#define KVFS_TESTS_KEEPERS_FIXTURE_H

/* Nodes a, b, c … over one Redis, and the ckpt tree as each of them sees it. */

#include <stdbool.h>
#include <stdint.h>

#include "meta/ckpt_call.h"
#include "meta/internal.h"
#include "meta/node.h"
#include "meta_fixture.h"

#define ROOT CKPT_ROOT_INO
#define NODES_MAX 4

extern struct node_under_test *node[NODES_MAX];
extern const char *const names[NODES_MAX];
extern unsigned deadline_ms; /* of nodes that come up */

void keepers_up(void);
void keepers_down(void);

/** named - a node that is not open yet. */
struct node_under_test *named(unsigned i);
/** nodes_up - one after another, each a keeper as long as there is room. */
void nodes_up(unsigned n);
void down(unsigned i);
/** die - as by kill -9: it tells nobody. */
void die(unsigned i);

int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* --- the tree ---------------------------------------------------------- */

int make_err(unsigned i, const char *name, int64_t deadline);
void make(unsigned i, const char *name);
void drop(unsigned i, const char *name);
void move(unsigned i, const char *from, const char *to);
int look(unsigned i, const char *name);
/** tree - the names in the root, as this node sees them, in order. */
const char *tree(unsigned i);

bool is_keeper(unsigned i);
uint64_t logged_seq(unsigned i);
uint64_t store_seq(void);
/** keeps_all - it goes with the store, and has in its log what that has. */
bool keeps_all(unsigned i);
#define KEEPS_ALL(i) WAIT_FOR(keeps_all(i))

#endif
