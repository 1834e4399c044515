// SPDX-License-Identifier: MIT
/*
 * Clients on all nodes of a cluster that store, remove and read the same names
 * while somebody breaks it, and hold each read against the history.
 *
 * storm MOUNT...
 *
 * Goes on for as long as its standard input is open, which says what is being
 * broken (repeated in the output). Then everything is well again: what each
 * node has at last must be right, and the same on all.
 *
 * Each name has one writer. Its operations are counted, and a file says which
 * of them stored it: whatever is read must be whole, and
 * - ckpt: not older than the last operation that had succeeded before the open
 * - kv: stored at all; and at last, after the last removal that succeeded (a
 *   node that was away has what was removed until it hears of it, the first
 *   store of a name wins, and any block may be gone)
 *
 * Exit 0; 1 with a line for each read that was wrong.
 */
#include "tests/helpers/pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define NODES_MAX 8
#define NAMES_EACH 12 /* of one node's writer, in one view */
#define READERS 3     /* of one node */
#define BYTES_MAX (1u << 20)
#define WRONG_MAX 30 /* are told */
#define SETTLE_S 60  /* until all nodes must be right again */

enum view { KV, CKPT, VIEWS };
static const char *const view_dir[VIEWS] = {"kv/storm", "ckpt/storm"};

struct name {
	enum view view;
	unsigned index;
	pthread_mutex_t lock;
	uint64_t begun, done; /* operations */
};

struct header {
	uint64_t operation, name;
};

enum what { WHOLE, ABSENT, REFUSED, WRONG };

struct result {
	enum what what;
	uint64_t operation; /* of WHOLE */
	int error;	    /* of REFUSED */
};

static struct {
	unsigned n_nodes;
	char **mounts;
	struct name names[VIEWS][NODES_MAX * NAMES_EACH];
	_Atomic bool calm;
	_Atomic uint64_t n_wrong, n_stored, n_removed, n_failed;
	_Atomic uint64_t n_read[VIEWS][WRONG];
	struct timespec start;
} s;

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - s.start.tv_sec) +
	       (double)(now.tv_nsec - s.start.tv_nsec) / 1e9;
}

/* The root of a node, or -errno. Where nothing is mounted for a moment there is
 * a folder, too, which is empty. */
static int root_of(unsigned node)
{
	int root = open(s.mounts[node], O_PATH | O_DIRECTORY);
	struct statfs st;

	if (root < 0)
		return -errno;
	if (!fstatfs(root, &st) && st.f_type == FUSE_SUPER_MAGIC)
		return root;
	close(root);
	return -ENOTCONN;
}

static void path_of(char *path, const struct name *n)
{
	snprintf(path, NAME_MAX, "%s/%u", view_dir[n->view], n->index);
}

static uint64_t seed_of(const struct name *n, uint64_t operation)
{
	return ((uint64_t)n->index << 40) + operation;
}

static size_t size_of(const struct name *n, uint64_t operation)
{
	return sizeof(struct header) +
	       pattern_word(seed_of(n, operation), UINT32_MAX) % BYTES_MAX;
}

static bool removes(enum view view, uint64_t operation)
{
	return operation % (view == KV ? 2 : 4) == 0;
}

/* --- writers ---------------------------------------------------------------
 */

static int write_all(int fd, const char *buf, size_t n)
{
	while (n) {
		ssize_t done = write(fd, buf, n);

		if (done < 0)
			return -errno;
		buf += done;
		n -= (size_t)done;
	}
	return 0;
}

static int store(int root, const char *path, const struct name *n,
		 uint64_t operation, char *buf)
{
	struct header header = {operation, n->index};
	size_t size = size_of(n, operation);
	char tmp[NAME_MAX + 32];
	int fd, err;

	memcpy(buf, &header, sizeof(header));
	pattern_fill(buf + sizeof(header), seed_of(n, operation), 0,
		     size - sizeof(header));
	snprintf(tmp, sizeof(tmp), "%s.tmp%llu", path,
		 (unsigned long long)operation);
	fd = openat(root, tmp, O_WRONLY | O_CREAT | O_EXCL, 0644);
	if (fd < 0)
		return -errno;
	err = write_all(fd, buf, size);
	if (close(fd) && !err)
		err = -errno;
	if (!err && renameat(root, tmp, root, path))
		err = -errno;
	if (err)
		unlinkat(root, tmp, 0);
	return err;
}

static bool begin(struct name *n, uint64_t *operation)
{
	pthread_mutex_lock(&n->lock);
	*operation = ++n->begun;
	pthread_mutex_unlock(&n->lock);
	return removes(n->view, *operation);
}

static void succeeded(struct name *n, uint64_t operation)
{
	pthread_mutex_lock(&n->lock);
	n->done = operation;
	pthread_mutex_unlock(&n->lock);
}

static int erase(int root, const char *path, const struct name *n)
{
	if (!unlinkat(root, path, 0))
		return 0;
	/* there was none, after a store that may not have been */
	return errno == ENOENT && n->view == CKPT ? 0 : -errno;
}

static void mutate(unsigned node, struct name *n, char *buf)
{
	int root = root_of(node), err;
	char path[NAME_MAX];
	uint64_t operation;
	bool erases;

	if (root < 0)
		return (void)usleep(20000);
	path_of(path, n);
	erases = begin(n, &operation);
	err = erases ? erase(root, path, n)
		     : store(root, path, n, operation, buf);
	close(root);
	if (err) {
		s.n_failed++;
		usleep(20000);
		return;
	}
	if (erases)
		s.n_removed++;
	else
		s.n_stored++;
	if (n->view == CKPT || erases)
		succeeded(n, operation);
}

/* --- readers ---------------------------------------------------------------
 */

static void wrong(unsigned node, const struct name *n, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (++s.n_wrong > WRONG_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printf("%.3f WRONG node %u %s/%u: %s (begun %llu, done %llu)\n",
	       seconds(), node + 1, view_dir[n->view], n->index, text,
	       (unsigned long long)n->begun, (unsigned long long)n->done);
	fflush(stdout);
}

static struct result refused(int error)
{
	if (error == ENOENT)
		return (struct result){.what = ABSENT};
	return (struct result){.what = REFUSED, .error = error};
}

static struct result check(unsigned node, const struct name *n, const char *buf,
			   size_t size)
{
	struct header header = {0};
	long at;

	if (size >= sizeof(header))
		memcpy(&header, buf, sizeof(header));
	if (!header.operation || header.name != n->index ||
	    removes(n->view, header.operation) ||
	    size != size_of(n, header.operation)) {
		wrong(node, n, "%zu bytes, of name %llu, operation %llu", size,
		      (unsigned long long)header.name,
		      (unsigned long long)header.operation);
		return (struct result){.what = WRONG};
	}
	at = pattern_differs(buf + sizeof(header), seed_of(n, header.operation),
			     0, size - sizeof(header));
	if (at >= 0) {
		wrong(node, n, "operation %llu: another byte at %ld of %zu",
		      (unsigned long long)header.operation, at, size);
		return (struct result){.what = WRONG};
	}
	return (struct result){.what = WHOLE, .operation = header.operation};
}

/* One open and one read to the end; buf has room for one byte more than any. */
static struct result look(unsigned node, const struct name *n, char *buf)
{
	int root = root_of(node), fd, error = 0;
	char path[NAME_MAX];
	size_t size = 0;
	ssize_t got;

	if (root < 0)
		return refused(ENOTCONN);
	path_of(path, n);
	fd = openat(root, path, O_RDONLY);
	if (fd < 0)
		error = errno;
	close(root);
	if (error)
		return refused(error);
	while ((got = read(fd, buf + size, BYTES_MAX + 32 - size)) > 0)
		size += (size_t)got;
	if (got < 0)
		error = errno == ENOENT ? EIO : errno;
	close(fd);
	return error ? refused(error) : check(node, n, buf, size);
}

static bool may_be_absent(const struct name *n, uint64_t done, uint64_t begun)
{
	bool may = n->view == KV || !done;

	for (uint64_t i = done; i <= begun; i++)
		may |= removes(n->view, i);
	return may;
}

static bool is_right(const struct name *n, const struct result *r,
		     uint64_t done, uint64_t begun)
{
	if (r->what == ABSENT)
		return may_be_absent(n, done, begun);
	return r->what == WHOLE && r->operation >= done &&
	       r->operation <= begun;
}

static void read_one(unsigned node, struct name *n, char *buf)
{
	uint64_t done, begun;
	struct result r;

	pthread_mutex_lock(&n->lock);
	done = n->view == KV ? 0 : n->done;
	pthread_mutex_unlock(&n->lock);
	r = look(node, n, buf);
	pthread_mutex_lock(&n->lock);
	begun = n->begun;
	pthread_mutex_unlock(&n->lock);
	if (r.what == WRONG)
		return;
	s.n_read[n->view][r.what]++;
	if (r.what == REFUSED)
		usleep(20000);
	else if (!is_right(n, &r, done, begun))
		wrong(node, n,
		      r.what == ABSENT
			      ? "absent"
			      : "operation %llu, when %llu had succeeded",
		      (unsigned long long)r.operation,
		      (unsigned long long)done);
}

/* --- threads ---------------------------------------------------------------
 */

struct client {
	pthread_t thread;
	unsigned node;
	enum view view;
	unsigned seed;
	bool writes;
};

static void *client_run(void *arg)
{
	struct client *c = arg;
	char *buf = malloc(BYTES_MAX + 64);

	if (!buf)
		abort();
	while (!s.calm) {
		unsigned r = (unsigned)rand_r(&c->seed);

		if (c->writes) {
			mutate(c->node,
			       &s.names[c->view]
				       [c->node * NAMES_EACH + r % NAMES_EACH],
			       buf);
		} else {
			enum view view = r / 4096 % 4 ? CKPT : KV;

			read_one(c->node,
				 &s.names[view][r % (s.n_nodes * NAMES_EACH)],
				 buf);
		}
		usleep(10000); /* the pace of a client: it waits for nothing */
	}
	free(buf);
	return NULL;
}

static void run(struct client *clients, unsigned n)
{
	char line[256];

	for (unsigned i = 0; i < n; i++)
		if (pthread_create(&clients[i].thread, NULL, client_run,
				   &clients[i]))
			abort();
	while (fgets(line, sizeof(line), stdin)) {
		printf("%.3f %s", seconds(), line);
		fflush(stdout);
	}
	s.calm = true;
	for (unsigned i = 0; i < n; i++)
		pthread_join(clients[i].thread, NULL);
}

/* --- at last ---------------------------------------------------------------
 */

/* All nodes have the same, and it is right. */
static bool agree(struct name *n, struct result *results, char *buf)
{
	bool right = true;
	uint64_t one = 0;

	for (unsigned i = 0; i < s.n_nodes; i++) {
		struct result *r = &results[i];

		*r = look(i, n, buf);
		right &= is_right(n, r, n->done, n->begun);
		if (r->what == WHOLE) {
			right &= !one || one == r->operation;
			one = r->operation;
		}
	}
	for (unsigned i = 0; i < s.n_nodes; i++)
		right &= n->view == KV || !one || results[i].what == WHOLE;
	return right;
}

static void check_last(struct name *n, char *buf)
{
	struct result results[NODES_MAX];

	while (!agree(n, results, buf)) {
		if (seconds() < SETTLE_S) {
			usleep(100000);
			continue;
		}
		for (unsigned i = 0; i < s.n_nodes; i++)
			wrong(i, n, "at last: %s %llu%s%s",
			      (const char *[]){"operation", "absent", "refused",
					       "wrong"}[results[i].what],
			      (unsigned long long)results[i].operation,
			      results[i].error ? ", " : "",
			      results[i].error ? strerror(results[i].error)
					       : "");
		return;
	}
}

static unsigned set_up(struct client *clients)
{
	unsigned n = 0;

	for (unsigned v = 0; v < VIEWS; v++)
		for (unsigned i = 0; i < s.n_nodes * NAMES_EACH; i++) {
			s.names[v][i].view = (enum view)v;
			s.names[v][i].index = i;
			pthread_mutex_init(&s.names[v][i].lock, NULL);
		}
	for (unsigned node = 0; node < s.n_nodes; node++) {
		for (unsigned v = 0; v < VIEWS; v++)
			clients[n++] = (struct client){.node = node,
						       .view = (enum view)v,
						       .writes = true};
		for (unsigned i = 0; i < READERS; i++)
			clients[n++] = (struct client){.node = node};
	}
	for (unsigned i = 0; i < n; i++)
		clients[i].seed = (unsigned)time(NULL) + i;
	return n;
}

int main(int argc, char **argv)
{
	struct client clients[NODES_MAX * (VIEWS + READERS)];
	char *buf = malloc(BYTES_MAX + 64);

	if (argc < 2 || argc - 1 > NODES_MAX || !buf) {
		fprintf(stderr, "usage: storm MOUNT...\n");
		return 2;
	}
	s.n_nodes = (unsigned)argc - 1;
	s.mounts = argv + 1;
	clock_gettime(CLOCK_MONOTONIC, &s.start);
	run(clients, set_up(clients));

	clock_gettime(CLOCK_MONOTONIC, &s.start);
	for (unsigned v = 0; v < VIEWS; v++)
		for (unsigned i = 0; i < s.n_nodes * NAMES_EACH; i++)
			check_last(&s.names[v][i], buf);
	free(buf);
	printf("stored %llu, removed %llu, failed %llu",
	       (unsigned long long)s.n_stored, (unsigned long long)s.n_removed,
	       (unsigned long long)s.n_failed);
	for (unsigned v = 0; v < VIEWS; v++)
		printf("; %s: whole %llu, absent %llu, refused %llu",
		       view_dir[v], (unsigned long long)s.n_read[v][WHOLE],
		       (unsigned long long)s.n_read[v][ABSENT],
		       (unsigned long long)s.n_read[v][REFUSED]);
	printf("; wrong %llu\n", (unsigned long long)s.n_wrong);
	return s.n_wrong ? 1 : 0;
}
