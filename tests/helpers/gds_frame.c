// SPDX-License-Identifier: MIT
/*
 * libkvfs' frames by hand, names from stdin, one a line:
 *
 *      gds_frame DIR store LENGTH [-p] [-s] [-k] [-m]
 *      gds_frame DIR abort LENGTH        as many frames as names
 *      gds_frame DIR touch|evict|prefetch
 *                                      prints for how many it was done
 *      gds_frame DIR errors              no names: what is refused
 *
 *      -p, -s, -k  KVFS_PARENT, KVFS_SYNC, KVFS_KEEP
 *      -m          nothing of the mount can be mapped
 *
 * The i-th frame gets the pattern of seed i, and with -k other bytes after it
 * was stored. store prints how many are there now, and how many of them were
 * before; then the error of each that is not.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "gds/kvfs.h"
#include "tests/helpers/pattern.h"

#define LINES_MAX 20000

static char *lines[LINES_MAX];
static struct kvfs_frame frames[LINES_MAX];
static bool no_maps;

/* The library calls this one. */
void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	if (no_maps && flags & MAP_SHARED && fd >= 0) {
		errno = ENODEV;
		return MAP_FAILED;
	}
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
}

static uint32_t read_lines(void)
{
	char line[1024];
	uint32_t n = 0;

	while (n < LINES_MAX && fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		lines[n++] = strdup(line);
	}
	return n;
}

static int failed(int err)
{
	fprintf(stderr, "%s\n", kvfs_strerror(err));
	return 1;
}

static void print_stored(int n_there, char **names, uint32_t n)
{
	unsigned before = 0;

	for (uint32_t i = 0; i < n; i++)
		before += !!(frames[i].flags & KVFS_WAS_THERE);
	printf("%d %u\n", n_there, before);
	for (uint32_t i = 0; i < n; i++)
		if (frames[i].error)
			printf("%s: %s\n", names[i],
			       strerrorname_np(-frames[i].error));
}

static int do_store(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t flags, uint64_t length)
{
	uint32_t parent = !!(flags & KVFS_PARENT), n = names->n - parent;
	int rc = kvfs_reserve(k, n, length, frames);

	if (rc)
		return failed(rc);
	for (uint32_t i = 0; i < n; i++)
		pattern_fill(frames[i].data, i, 0, length);
	rc = kvfs_commit(k, names, flags, 0644, frames);
	if (rc < 0)
		return failed(rc);
	print_stored(rc, lines + parent, n);
	for (uint32_t i = 0; flags & KVFS_KEEP && i < n; i++)
		memset(frames[i].data, 0xee, length);
	for (uint32_t i = 0; !(flags & KVFS_KEEP) && i < n; i++)
		if (frames[i].data)
			return failed(-EBUSY);
	rc = kvfs_abort(k, frames, n);
	return rc ? failed(rc) : 0;
}

static int do_abort(struct kvfs *k, uint32_t n, uint64_t length)
{
	int err = kvfs_reserve(k, n, length, frames);

	if (!err)
		err = kvfs_abort(k, frames, n);
	return err ? failed(err) : 0;
}

static int do_use(struct kvfs *k, const struct kvfs_names *names, char how)
{
	int n = how == 'e'   ? kvfs_evict(k, names, NULL)
		: how == 't' ? kvfs_touch(k, names, NULL)
			     : kvfs_prefetch(k, names, NULL);

	if (n < 0)
		return failed(n);
	printf("%d\n", n);
	return 0;
}

static void print(const char *what, int err)
{
	printf("%s %s\n", what, err < 0 ? strerrorname_np(-err) : "ok");
}

static int errors(struct kvfs *k)
{
	const char *name = "error";
	struct kvfs_names names = {.n = 1, .paths = &name};
	struct kvfs_frame f;

	print("empty", kvfs_reserve(k, 1, 0, &f));
	print("huge", kvfs_reserve(k, 1, 1ull << 60, &f));
	print("too much", kvfs_reserve(k, 100, 10 << 20, frames));
	print("none", kvfs_reserve(k, 0, 1, &f));
	print("one", kvfs_reserve(k, 1, 5000, &f));
	print("flags", kvfs_commit(k, &names, 1u << 31, 0644, &f));
	f.length = 5001;
	print("long", kvfs_commit(k, &names, KVFS_KEEP, 0644, &f));
	f.length = 10;
	print("mode", kvfs_commit(k, &names, KVFS_KEEP, 07777, &f));
	print("kept", kvfs_commit(k, &names, KVFS_KEEP, 0644, &f));
	print("ended", kvfs_abort(k, &f, 1));
	print("again", kvfs_abort(k, &f, 1));
	print("without", kvfs_commit(k, &names, 0, 0644, &f));
	names.n = 0;
	print("no name", kvfs_commit(k, &names, 0, 0644, &f));
	print("no parent", kvfs_commit(k, &names, KVFS_PARENT, 0644, &f));
	return 0;
}

static uint32_t flags_of(char **args)
{
	uint32_t flags = 0;

	for (; *args; args++) {
		no_maps |= !strcmp(*args, "-m");
		flags |= !strcmp(*args, "-p")	? KVFS_PARENT
			 : !strcmp(*args, "-s") ? KVFS_SYNC
			 : !strcmp(*args, "-k") ? KVFS_KEEP
						: 0;
	}
	return flags;
}

static int run(struct kvfs *k, char **args)
{
	struct kvfs_names names = {.paths = (const char *const *)lines};
	uint64_t length = args[1] ? strtoull(args[1], NULL, 0) : 0;
	uint32_t flags = args[1] ? flags_of(args + 2) : 0;

	if (!strcmp(args[0], "errors"))
		return errors(k);
	names.n = read_lines();
	if (!strcmp(args[0], "store"))
		return do_store(k, &names, flags, length);
	if (!strcmp(args[0], "abort"))
		return do_abort(k, names.n, length);
	return do_use(k, &names, *args[0]);
}

int main(int argc, char **argv)
{
	struct kvfs *k;
	int rc;

	if (argc < 3)
		return 2;
	rc = kvfs_open(argv[1], &k);
	if (rc)
		return failed(rc);
	rc = run(k, argv + 2);
	kvfs_close(k);
	return rc;
}
