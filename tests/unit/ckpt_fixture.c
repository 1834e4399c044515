// SPDX-License-Identifier: MIT
#include "ckpt_fixture.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "meta/redis.h"

struct meta *meta;

const char *fixture_state(const char *name)
{
	char *path = path_of(name);

	ck_assert(!mkdir(path, 0700) || errno == EEXIST);
	return path;
}

void server_setrange(const char *key, unsigned offset, const void *p, size_t n)
{
	redis_cmd_auto struct redis_cmd cmd = {0};

	redis_cmd_str(&cmd, "SETRANGE");
	redis_cmd_printf(&cmd, "kvfs:{c}:%s", key);
	redis_cmd_uint(&cmd, offset);
	redis_cmd_bin(&cmd, p, n);
	redis_reply_free(server_call(&cmd));
}

/* --- the proxy --------------------------------------------------------- */

#define PAIRS_MAX 16

static struct {
	pthread_t thread;
	pthread_mutex_t lock; /* guards the order below */
	enum proxy_mode mode;
	char needle[64];
	unsigned n_by; /* that many more pass first */
	char lie[4096];
	size_t lie_bytes;
	_Atomic bool done;
	_Atomic bool stop;
	int listen_fd;
	struct pair {
		int client, server;
		bool cut_on_reply, mute;
	} pairs[PAIRS_MAX];
} proxy = {.lock = PTHREAD_MUTEX_INITIALIZER};

void proxy_set(enum proxy_mode mode, const char *needle, const void *lie,
	       size_t lie_bytes)
{
	scoped_lock(&proxy.lock);
	proxy.mode = mode;
	snprintf(proxy.needle, sizeof(proxy.needle), "%s", needle);
	if (lie_bytes)
		memcpy(proxy.lie, lie, lie_bytes);
	proxy.lie_bytes = lie_bytes;
	proxy.n_by = 0;
	proxy.done = false;
}

void proxy_set_later(enum proxy_mode mode, const char *needle, unsigned n_by)
{
	proxy_set(mode, needle, NULL, 0);
	scoped_lock(&proxy.lock);
	proxy.n_by = n_by;
}

bool proxy_done(void)
{
	return proxy.done;
}

static enum proxy_mode proxy_order(const char *buf, size_t n, char *lie,
				   size_t *lie_bytes)
{
	enum proxy_mode mode;

	scoped_lock(&proxy.lock);
	mode = proxy.mode;
	if (mode == PROXY_PASS ||
	    !memmem(buf, n, proxy.needle, strlen(proxy.needle)))
		return PROXY_PASS;
	if (proxy.n_by) {
		proxy.n_by--;
		return PROXY_PASS;
	}
	proxy.mode = PROXY_PASS;
	memcpy(lie, proxy.lie, proxy.lie_bytes);
	*lie_bytes = proxy.lie_bytes;
	proxy.done = true;
	return mode;
}

static void pair_close(struct pair *p)
{
	if (p->client >= 0)
		close(p->client);
	if (p->server >= 0)
		close(p->server);
	p->client = p->server = -1;
	p->cut_on_reply = p->mute = false;
}

static void pair_accept(void)
{
	int fd = accept4(proxy.listen_fd, NULL, NULL, SOCK_CLOEXEC);

	for (int i = 0; i < PAIRS_MAX && fd >= 0; i++) {
		struct pair *p = &proxy.pairs[i];

		if (p->client >= 0)
			continue;
		p->client = fd;
		p->server = server_connect();
		if (p->server < 0)
			pair_close(p);
		return;
	}
}

static bool pass(int to, const char *buf, ssize_t n)
{
	while (n > 0) {
		ssize_t sent = send(to, buf, (size_t)n, MSG_NOSIGNAL);

		if (sent <= 0)
			return false;
		buf += sent;
		n -= sent;
	}
	return true;
}

static bool from_client(struct pair *p)
{
	static char buf[1 << 16], lie[sizeof(proxy.lie)];
	ssize_t n = read(p->client, buf, sizeof(buf));
	size_t lie_bytes = 0;

	if (n <= 0)
		return false;
	if (p->mute)
		return true;
	switch (proxy_order(buf, (size_t)n, lie, &lie_bytes)) {
	case PROXY_CUT_BEFORE:
		return false;
	case PROXY_LIE:
		return pass(p->client, lie, (ssize_t)lie_bytes);
	case PROXY_CUT_AFTER:
		p->cut_on_reply = true;
		break;
	case PROXY_MUTE:
		p->mute = true;
		return true;
	case PROXY_PASS:
		break;
	}
	return pass(p->server, buf, n);
}

static bool from_server(struct pair *p)
{
	static char buf[1 << 16];
	ssize_t n = read(p->server, buf, sizeof(buf));

	return n > 0 && !p->cut_on_reply && pass(p->client, buf, n);
}

static void *proxy_run(void *arg)
{
	struct pollfd fds[1 + 2 * PAIRS_MAX];

	(void)arg;
	while (!proxy.stop) {
		fds[0] = (struct pollfd){proxy.listen_fd, POLLIN, 0};
		for (int i = 0; i < PAIRS_MAX; i++) {
			struct pair *p = &proxy.pairs[i];

			fds[1 + 2 * i] = (struct pollfd){p->client, POLLIN, 0};
			fds[2 + 2 * i] = (struct pollfd){p->server, POLLIN, 0};
		}
		if (poll(fds, 1 + 2 * PAIRS_MAX, 100) <= 0)
			continue;
		for (int i = 0; i < PAIRS_MAX; i++) {
			struct pair *p = &proxy.pairs[i];

			if ((fds[1 + 2 * i].revents && !from_client(p)) ||
			    (p->server >= 0 && fds[2 + 2 * i].revents &&
			     !from_server(p)))
				pair_close(p);
		}
		if (fds[0].revents)
			pair_accept();
	}
	return NULL;
}

static void proxy_start(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path_of("proxy.sock"));
	proxy.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert(!bind(proxy.listen_fd, (struct sockaddr *)&a, sizeof(a)) &&
		  !listen(proxy.listen_fd, 16));
	for (int i = 0; i < PAIRS_MAX; i++)
		proxy.pairs[i].client = proxy.pairs[i].server = -1;
	proxy.mode = PROXY_PASS;
	proxy.stop = false;
	ck_assert(!pthread_create(&proxy.thread, NULL, proxy_run, NULL));
}

static void proxy_stop(void)
{
	proxy.stop = true;
	pthread_join(proxy.thread, NULL);
	for (int i = 0; i < PAIRS_MAX; i++)
		pair_close(&proxy.pairs[i]);
	close(proxy.listen_fd);
}

/* --- meta -------------------------------------------------------------- */

int node_try(const char *state, const char *prefix, struct meta **m)
{
	char url[160];
	struct meta_config c = {
		.url = url,
		.prefix = prefix,
		.state_dir = fixture_state(state),
		.node_name = "test",
		.deadline_ms = DEADLINE_MS,
	};

	snprintf(url, sizeof(url), "unix://%s", path_of("proxy.sock"));
	return meta_open(m, &c);
}

void node_up(void)
{
	ck_assert_int_eq(node_try("state", NULL, &meta), 0);
}

void node_down(void)
{
	meta_close(meta);
	meta = NULL;
}

void fixture_up(void)
{
	log_set_level(getenv("VERBOSE") ? LOG_DEBUG : LOG_ERROR);
	folder_up();
	server_start(NULL);
	proxy_start();
}

void fixture_down(void)
{
	node_down();
	proxy_stop();
	folder_down();
}

/* --- shorthands -------------------------------------------------------- */

static int make_try(uint64_t parent, const char *name, uint32_t mode,
		    struct ckpt_attr *a)
{
	struct ckpt_attr set = {.mode = mode,
				.uid = 11,
				.gid = 12,
				.atime_ns = NOW,
				.mtime_ns = NOW,
				.ctime_ns = NOW};

	return ckpt_create(meta, 0, parent, name, &set,
			   S_ISLNK(mode) ? "some/target" : NULL, a);
}

struct ckpt_attr make(uint64_t parent, const char *name, uint32_t mode)
{
	struct ckpt_attr a;
	int err = make_try(parent, name, mode, &a);

	ck_assert_msg(!err, "create %s: %s", name, strerror(-err));
	return a;
}

int make_err(uint64_t parent, const char *name, uint32_t mode)
{
	struct ckpt_attr a;

	return make_try(parent, name, mode, &a);
}

/* Each try waits for its deadline while the store is filled again, which takes
 * longer where the machine has other work. */
#define TRIES 10

struct ckpt_attr look(uint64_t parent, const char *name)
{
	struct ckpt_attr a;
	int err = -EIO;

	for (int i = 0; i < TRIES && err == -EIO; i++)
		err = ckpt_lookup(meta, 0, parent, name, &a);
	ck_assert_msg(!err, "lookup %s: %s", name, strerror(-err));
	return a;
}

int look_err(uint64_t parent, const char *name)
{
	struct ckpt_attr a;

	return ckpt_lookup(meta, 0, parent, name, &a);
}

struct ckpt_attr stat_of(uint64_t ino)
{
	struct ckpt_attr a;
	int err = -EIO;

	for (int i = 0; i < TRIES && err == -EIO; i++)
		err = ckpt_getattr(meta, 0, ino, &a);
	ck_assert_int_eq(err, 0);
	return a;
}

uint64_t logged_seq(void)
{
	struct meta_stats s;

	meta_stats(meta, &s);
	return s.ckpt_logged_seq;
}

void wait_ready_again(void)
{
	struct meta_stats s;

	for (int i = 0; i < 2000; i++, wait_ms(5)) {
		meta_stats(meta, &s);
		if (!s.ckpt_read_only)
			return;
	}
	ck_abort_msg("the store did not become ready again");
}

static void count_one(void *arg, uint64_t ino)
{
	(void)ino;
	++*(unsigned *)arg;
}

unsigned count_inos(void)
{
	unsigned n = 0;

	ck_assert_int_eq(ckpt_each_ino(meta, count_one, &n), 0);
	return n;
}

/* --- dump -------------------------------------------------------------- */

struct names {
	struct name {
		char name[256];
		struct ckpt_attr a;
	} * list;
	size_t n;
};

static void names_add(void *arg, const char *name, const struct ckpt_attr *a)
{
	struct names *n = arg;

	if (!(n->n & (n->n + 1)))
		n->list = realloc(n->list, 2 * (n->n + 1) * sizeof(*n->list));
	snprintf(n->list[n->n].name, sizeof(n->list->name), "%s", name);
	n->list[n->n++].a = *a;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct name *)a)->name,
		      ((const struct name *)b)->name);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void dump_xattrs(FILE *out, uint64_t ino)
{
	char list[4096], *names[64];
	cleanup_free char *value = malloc(CKPT_XATTR_VALUE_MAX);
	int n = ckpt_xattr_list(meta, 0, ino, list, sizeof(list));
	size_t count = 0;

	ck_assert_int_ge(n, 0);
	for (char *x = list; x < list + n && count < 64; x += strlen(x) + 1)
		names[count++] = x;
	qsort(names, count, sizeof(*names), by_text);
	for (size_t x = 0; x < count; x++) {
		int len = ckpt_xattr_get(meta, 0, ino, names[x], value,
					 CKPT_XATTR_VALUE_MAX);
		unsigned sum = 0;

		ck_assert_int_ge(len, 0);
		for (int i = 0; i < len; i++)
			sum = sum * 31 + (unsigned char)value[i];
		fprintf(out, " %s=%d:%u", names[x], len, sum);
	}
}

static void dump_attr(FILE *out, const char *path, const struct ckpt_attr *a)
{
	fprintf(out,
		"%s ino %lu v %lu size %lu rdev %lu mode %o own %u:%u n %u "
		"t %ld %ld %ld up %lu",
		path, a->ino, a->version, a->size_bytes, a->rdev, a->mode,
		a->uid, a->gid, a->nlink, a->atime_ns, a->mtime_ns, a->ctime_ns,
		a->parent_ino);
	dump_xattrs(out, a->ino);
	if (S_ISLNK(a->mode)) {
		char target[4096];

		ck_assert_int_eq(
			ckpt_readlink(meta, 0, a->ino, target, sizeof(target)),
			0);
		fprintf(out, " -> %s", target);
	}
	fputc('\n', out);
}

static void dump_dir(FILE *out, const char *path, uint64_t ino)
{
	struct names names = {0};
	uint64_t cursor = 0;
	int more;

	while ((more = ckpt_readdir(meta, 0, ino, &cursor, names_add,
				    &names)) == 1)
		;
	ck_assert_int_eq(more, 0);
	if (names.n)
		qsort(names.list, names.n, sizeof(*names.list), by_name);
	for (size_t i = 0; i < names.n; i++) {
		struct name *e = &names.list[i];
		char sub[1024];

		if (i && !strcmp(e->name, e[-1].name))
			continue;
		snprintf(sub, sizeof(sub), "%s/%s", path, e->name);
		dump_attr(out, sub, &e->a);
		if (S_ISDIR(e->a.mode))
			dump_dir(out, sub, e->a.ino);
	}
	free(names.list);
}

char *tree_dump(void)
{
	struct ckpt_attr root = stat_of(CKPT_ROOT_INO);
	char *text;
	size_t n;
	FILE *out = open_memstream(&text, &n);

	dump_attr(out, "", &root);
	dump_dir(out, "", CKPT_ROOT_INO);
	fclose(out);
	return text;
}
