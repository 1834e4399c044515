// SPDX-License-Identifier: MIT
#include "meta_fixture.h"

#include <check.h>
#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "meta/redis.h"
#include "meta/url.h"

static char top[64];
static pid_t server_pid;

void wait_ms(int ms)
{
	poll(NULL, 0, ms);
}

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

char *path_of(const char *name)
{
	static char path[8][128];
	static unsigned i;
	char *p = path[i++ % 8];

	snprintf(p, sizeof(path[0]), "%s/%s", top, name);
	return p;
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
	snprintf(top, sizeof(top), "/tmp/kvfs-test-meta.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(top));
	ck_assert_int_eq(log_to_file(path_of("log")), 0);
}

static int entry_remove(const char *path, const struct stat *st, int type,
			struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	remove(path);
	return 0;
}

void fixture_down(void)
{
	server_stop();
	nftw(top, entry_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* --- the server -------------------------------------------------------- */

static bool listening(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	return !connect(fd, (struct sockaddr *)&a, sizeof(a));
}

void server_start(const char *arg, ...)
{
	char *sock = path_of("redis.sock");
	char *argv[32] = {"redis-server",
			  "--port",
			  "0",
			  "--unixsocket",
			  sock,
			  "--dir",
			  top,
			  "--appendonly",
			  "no",
			  "--logfile",
			  "redis.log",
			  "--save",
			  ""};
	int n = 13;
	va_list ap;

	va_start(ap, arg);
	for (; arg; arg = va_arg(ap, const char *))
		argv[n++] = (char *)arg;
	va_end(ap);
	unlink(sock);
	server_pid = fork();
	ck_assert_int_ge(server_pid, 0);
	if (!server_pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execvp("redis-server", argv);
		_exit(127);
	}
	WAIT_FOR(listening(sock));
}

void server_signal(int sig)
{
	ck_assert_int_eq(kill(server_pid, sig), 0);
	if (sig == SIGSTOP) /* until it has stopped */
		ck_assert_int_eq(waitpid(server_pid, NULL, WUNTRACED),
				 server_pid);
}

void server_stop(void)
{
	if (!server_pid)
		return;
	kill(server_pid, SIGKILL);
	waitpid(server_pid, NULL, 0);
	server_pid = 0;
}

const char *server_url(void)
{
	static char url[128];

	snprintf(url, sizeof(url), "unix://%s", path_of("redis.sock"));
	return url;
}

static void reply_write(FILE *f, const struct redis_reply *r)
{
	int64_t v;

	if (redis_reply_type(r) == REPLY_ARRAY) {
		for (size_t i = 0; i < redis_reply_count(r); i++) {
			if (i)
				fputc(' ', f);
			reply_write(f, redis_reply_at(r, i));
		}
	} else if (redis_reply_type(r) == REPLY_INTEGER) {
		redis_reply_int(r, &v);
		fprintf(f, "%lld", (long long)v);
	} else {
		fputs(redis_reply_text(r), f);
	}
}

const char *server_text(const char *words)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	static char *text;
	struct redis *r;
	struct url url;
	const char *why;
	size_t n;
	FILE *f;
	int err;
	struct redis_config config = {.url = &url, .name = "test"};

	ck_assert_int_eq(url_parse(&url, server_url(), &why), 0);
	ck_assert_int_eq(redis_open(&r, &config, clock_now_ns() + 5 * NS_PER_S),
			 0);
	redis_cmd_words(&c, words);
	err = redis_call(r, REDIS_WAIT, clock_now_ns() + 5 * NS_PER_S, &c,
			 &reply);
	ck_assert_int_eq(err, 0);
	redis_close(r);
	free(text);
	f = open_memstream(&text, &n);
	reply_write(f, reply);
	fclose(f);
	return text;
}

int64_t server_int(const char *words)
{
	return atoll(server_text(words));
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
