// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "tools/bench_fast.h"

#define RING_ENTRIES 64

static long rss_kib(pid_t pid)
{
	char path[64], line[128];
	long kib = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "RssAnon: %ld", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib;
}

static double grown(long before, long after)
{
	return before < 0 || after < 0
		       ? -1
		       : (double)(after > before ? after - before : 0);
}

double fast_buffers_kib(struct fast *f, pid_t daemon)
{
	struct kvfs_buffer **b = calloc(FAST_BUFFERS, sizeof(*b));
	long before = rss_kib(daemon), after;
	unsigned n = 0;

	while (b && n < FAST_BUFFERS &&
	       !kvfs_buffer_new(f->k, FAST_BUFFER_BYTES, 0, &b[n]))
		n++;
	after = rss_kib(daemon);
	for (unsigned i = 0; i < n; i++)
		kvfs_unregister(b[i]);
	free(b);
	return n < FAST_BUFFERS ? -1 : grown(before, after);
}

struct one_ring {
	struct kvfs *k;
	struct kvfs_ring *ring;
};

/* The kernel may tell late of a ring that was closed before. */
static int ring_open(const char *path, struct one_ring *r)
{
	struct timespec pause = clock_timespec(10 * NS_PER_MS);
	int err = kvfs_open(path, &r->k);

	for (int i = 0; i < 100 && !err && !r->ring; i++) {
		err = kvfs_ring_open(r->k, RING_ENTRIES, FAST_RING_BYTES,
				     &r->ring);
		if (err != -EDQUOT)
			continue;
		nanosleep(&pause, NULL);
		err = 0;
	}
	return r->ring ? 0 : err ? err : -EDQUOT;
}

double fast_rings_kib(struct fast *f, pid_t daemon)
{
	struct one_ring rings[FAST_RINGS] = {0};
	long before = rss_kib(daemon), after;
	int err = 0;

	for (unsigned i = 0; i < FAST_RINGS && !err; i++)
		err = ring_open(f->path, &rings[i]);
	after = rss_kib(daemon);
	for (unsigned i = 0; i < FAST_RINGS; i++) {
		kvfs_ring_close(rings[i].ring);
		kvfs_close(rings[i].k);
	}
	return err ? -1 : grown(before, after);
}
