// SPDX-License-Identifier: MIT
#include "meta_fixture.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

int fixture_run(Suite *s)
{
	SRunner *r = srunner_create(s);
	int failed;

	if (access("/usr/bin/redis-server", X_OK)) {
		puts("skipped: no redis-server");
		srunner_free(r);
		return 77;
	}
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --- messages ---------------------------------------------------------- */

unsigned logged_count(const char *text)
{
	cleanup_file FILE *f = fopen(path_of("log"), "r");
	char line[2048];
	unsigned n = 0;

	while (f && fgets(line, sizeof(line), f))
		n += strstr(line, text) != NULL;
	return n;
}

bool logged(const char *text)
{
	return logged_count(text) > 0;
}

/* --- folders ----------------------------------------------------------- */

void fixture_up(void)
{
	folder_up();
	ck_assert_int_eq(log_to_file(path_of("log")), 0);
}

void fixture_down(void)
{
	folder_down();
}

/* --- scans ------------------------------------------------------------- */

#define PAGES 4
#define PAGE_MS 20 /* much longer than Redis takes, which is not measured */

static struct {
	int64_t page_ns, pause_ns;
	double shortest;
	_Atomic unsigned pages;
} scan;

/* The page's own time is a part of what counts for its pause, and the pause
 * is never shorter than it is said to be. */
static void scan_look(const char *point)
{
	int64_t now = clock_now_ns();

	if (scan.pages == PAGES)
		return;
	if (!strcmp(point, "kv.scan.page")) {
		wait_ms(PAGE_MS);
		scan.page_ns = clock_now_ns() - now;
	} else if (!strcmp(point, "kv.scan.pause")) {
		scan.pause_ns = now;
	} else if (!strcmp(point, "kv.scan.paused") && scan.page_ns) {
		double times =
			(double)(now - scan.pause_ns) / (double)scan.page_ns;

		if (!scan.pages || times < scan.shortest)
			scan.shortest = times;
		scan.pages++;
	}
}

void scan_measure(void)
{
	memset(&scan, 0, sizeof(scan));
	fault_hook = scan_look;
}

double scan_pauses(void)
{
	WAIT_FOR(scan.pages == PAGES);
	fault_hook = NULL;
	return scan.shortest;
}

/* --- a local index ----------------------------------------------------- */

static struct block *find(struct node_under_test *n, const char *path,
			  size_t len, bool make)
{
	struct block **p = &n->table[XXH3_64bits(path, len) % 65536], *b;

	for (; *p; p = &(*p)->next)
		if (strlen((*p)->path) == len && !memcmp((*p)->path, path, len))
			return *p;
	if (!make)
		return NULL;
	b = calloc(1, sizeof(*b));
	memcpy(b->path, path, len);
	if ((n->n_order & (n->n_order - 1)) == 0)
		n->order = realloc(n->order,
				   (n->n_order * 2 + 1) * sizeof(*n->order));
	b->at = n->n_order;
	n->order[n->n_order++] = b;
	return *p = b;
}

static void op_state(void *ctx, const char *path, uint16_t len,
		     struct meta_kv_state *state)
{
	struct node_under_test *n = ctx;
	struct block *b;

	scoped_lock(&n->lock);
	n->n_states++;
	b = find(n, path, len, false);
	if (b)
		*state = b->state;
}

static void op_verdict(void *ctx, const char *path, uint16_t len,
		       const struct meta_kv_answer *answer)
{
	struct node_under_test *n = ctx;
	struct block *b;

	scoped_lock(&n->lock);
	b = find(n, path, len, false);
	if (!b)
		return;
	b->verdict = answer->verdict;
	b->answer = *answer;
	b->n_verdicts++;
	if (answer->verdict == META_KV_PUBLISHED) {
		b->state.generation = answer->generation;
	} else if (answer->verdict == META_KV_GONE && b->state.held) {
		b->state.unlinked = false; /* what came after it is next */
		b->state.generation = 0;
	} else {
		memset(&b->state, 0, sizeof(b->state));
	}
}

static bool op_each(void *ctx, uint64_t *cursor, unsigned count,
		    void (*fn)(void *arg, const char *path, uint16_t len),
		    void *arg)
{
	struct node_under_test *n = ctx;
	struct block **some = calloc(count, sizeof(*some));
	unsigned n_some = 0;
	bool more;

	pthread_mutex_lock(&n->lock);
	for (; *cursor < n->n_order && n_some < count; (*cursor)++) {
		struct block *b = n->order[n->n_order - 1 - *cursor];

		if (b->state.held)
			some[n_some++] = b;
	}
	more = *cursor < n->n_order;
	pthread_mutex_unlock(&n->lock);
	for (unsigned i = 0; i < n_some; i++)
		fn(arg, some[i]->path, (uint16_t)strlen(some[i]->path));
	free(some);
	return more;
}

static bool op_directory(void *ctx, const char *path, uint16_t len,
			 uint32_t *mode, uint32_t *uid, uint32_t *gid)
{
	(void)ctx;
	(void)path;
	(void)len;
	*mode = 040750;
	*uid = 7;
	*gid = 8;
	return true;
}

void node_change(struct node_under_test *n, const char *path,
		 const struct meta_kv_state *state)
{
	struct block *b;

	pthread_mutex_lock(&n->lock);
	b = find(n, path, strlen(path), true);
	b->state = *state;
	pthread_mutex_unlock(&n->lock);
	if (n->meta)
		meta_kv_dirty(n->meta, path, (uint16_t)strlen(path));
}

void node_store(struct node_under_test *n, const char *path, uint64_t sum)
{
	struct meta_kv_state state = {.held = true,
				      .size_bytes = 4096,
				      .checksum = {sum, sum},
				      .mode = 0100644,
				      .uid = 1,
				      .gid = 2};

	node_change(n, path, &state);
}

void node_evict(struct node_under_test *n, const char *path)
{
	struct meta_kv_state state = {.held = false};

	node_change(n, path, &state);
}

void node_unlink(struct node_under_test *n, const char *path)
{
	struct meta_kv_state state = {
		.unlinked = true,
		.generation = node_block(n, path).state.generation};

	node_change(n, path, &state);
}

void node_sync(struct node_under_test *n, const char *path)
{
	ck_assert_int_eq(meta_kv_sync(n->meta, path, (uint16_t)strlen(path)),
			 0);
}

struct block node_block(struct node_under_test *n, const char *path)
{
	struct block *b, none = {.next = NULL};

	scoped_lock(&n->lock);
	b = find(n, path, strlen(path), false);
	return b ? *b : none;
}

int node_lookup(struct node_under_test *n, const char *path,
		struct meta_kv_found *found)
{
	return meta_kv_lookup(n->meta, 0, path, (uint16_t)strlen(path), found);
}

struct meta_stats node_stats(struct node_under_test *n)
{
	struct meta_stats s;

	meta_stats(n->meta, &s);
	return s;
}

/* --- a node ------------------------------------------------------------ */

struct node_under_test *node_new(const char *name, const char *url)
{
	struct node_under_test *n = calloc(1, sizeof(*n));

	snprintf(n->state_dir, sizeof(n->state_dir), "%s", path_of(name));
	pthread_mutex_init(&n->lock, NULL);
	n->ops = (struct meta_kv_ops){.state = op_state,
				      .verdict = op_verdict,
				      .each = op_each,
				      .directory = op_directory};
	n->config = (struct meta_config){.url = url ? strdup(url) : NULL,
					 .state_dir = n->state_dir,
					 .node_name = "test",
					 .kv_ops = &n->ops,
					 .kv_ctx = n};
	return n;
}

int node_open(struct node_under_test *n)
{
	int err = meta_open(&n->meta, &n->config);

	return err ? err : meta_start(n->meta);
}

struct node_under_test *node_up(const char *name, const char *url)
{
	struct node_under_test *n = node_new(name, url);

	ck_assert_int_eq(node_open(n), 0);
	return n;
}

void node_down(struct node_under_test *n)
{
	meta_close(n->meta);
	n->meta = NULL;
}

void node_free(struct node_under_test *n)
{
	if (n->meta)
		node_down(n);
	for (uint64_t i = 0; i < n->n_order; i++)
		free(n->order[i]);
	free(n->order);
	free((char *)n->config.url);
	pthread_mutex_destroy(&n->lock);
	free(n);
}
