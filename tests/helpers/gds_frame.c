// SPDX-License-Identifier: MIT
/*
 * libkvfs' frames by hand, names from stdin, one a line:
 *
 *      gds_frame [-r] DIR store LENGTH [-p] [-s] [-k] [-m]
 *      gds_frame [-r] DIR abort LENGTH        as many frames as names
 *      gds_frame [-r] DIR touch|evict|prefetch
 *                                      prints for how many it was done
 *      gds_frame [-r] DIR errors              no names: what is refused
 *
 *      -r          through a ring
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
#include <unistd.h>

#include "tests/helpers/gds_calls.h"
#include "tests/helpers/lines.h"
#include "tests/helpers/pattern.h"

static const struct gds_calls *call = &gds_by_ioctl;
static struct kvfs_frame frames[LINES_MAX];

static int failed(int err)
{
	fprintf(stderr, "%s\n", kvfs_strerror(err));
	return 1;
}

static void print_stored(int n_there, const char **names, uint32_t n)
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
	int rc = call->reserve(k, n, length, frames);

	if (rc)
		return failed(rc);
	for (uint32_t i = 0; i < n; i++)
		pattern_fill(frames[i].data, i, 0, length);
	rc = call->commit(k, names, flags, 0644, frames);
	if (rc < 0)
		return failed(rc);
	print_stored(rc, lines + parent, n);
	for (uint32_t i = 0; flags & KVFS_KEEP && i < n; i++)
		memset(frames[i].data, 0xee, length);
	for (uint32_t i = 0; !(flags & KVFS_KEEP) && i < n; i++)
		if (frames[i].data)
			return failed(-EBUSY);
	rc = call->abort(k, frames, n);
	return rc ? failed(rc) : 0;
}

static int do_abort(struct kvfs *k, uint32_t n, uint64_t length)
{
	int err = call->reserve(k, n, length, frames);

	if (!err)
		err = call->abort(k, frames, n);
	return err ? failed(err) : 0;
}

static int do_use(struct kvfs *k, const struct kvfs_names *names, char how)
{
	int n = how == 'e'   ? call->evict(k, names, NULL)
		: how == 't' ? call->touch(k, names, NULL)
			     : call->prefetch(k, names, NULL);

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

	print("empty", call->reserve(k, 1, 0, &f));
	print("huge", call->reserve(k, 1, 1ull << 60, &f));
	print("too much", call->reserve(k, 100, 10 << 20, frames));
	print("none", call->reserve(k, 0, 1, &f));
	print("one", call->reserve(k, 1, 5000, &f));
	print("flags", call->commit(k, &names, 1u << 31, 0644, &f));
	f.length = 5001;
	print("long", call->commit(k, &names, KVFS_KEEP, 0644, &f));
	f.length = 10;
	print("mode", call->commit(k, &names, KVFS_KEEP, 07777, &f));
	print("kept", call->commit(k, &names, KVFS_KEEP, 0644, &f));
	print("ended", call->abort(k, &f, 1));
	print("again", call->abort(k, &f, 1));
	print("without", call->commit(k, &names, 0, 0644, &f));
	names.n = 0;
	print("no name", call->commit(k, &names, 0, 0644, &f));
	print("no parent", call->commit(k, &names, KVFS_PARENT, 0644, &f));
	return 0;
}

static uint32_t flags_of(char **args)
{
	uint32_t flags = 0;

	for (; *args; args++) {
		gds_no_maps |= !strcmp(*args, "-m");
		flags |= !strcmp(*args, "-p")	? KVFS_PARENT
			 : !strcmp(*args, "-s") ? KVFS_SYNC
			 : !strcmp(*args, "-k") ? KVFS_KEEP
						: 0;
	}
	return flags;
}

static int run(struct kvfs *k, char **args)
{
	struct kvfs_names names = {.paths = lines};
	uint64_t length = args[1] ? strtoull(args[1], NULL, 0) : 0;
	uint32_t flags = args[1] ? flags_of(args + 2) : 0;

	if (!strcmp(args[0], "errors"))
		return errors(k);
	names.n = lines_read();
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

	if (argc > 1 && !strcmp(argv[1], "-r")) {
		call = &gds_by_ring;
		argc--;
		argv++;
	}
	if (argc < 3)
		return 2;
	rc = kvfs_open(argv[1], &k);
	if (rc)
		return failed(rc);
	rc = run(k, argv + 2);
	kvfs_close(k);
	return rc;
}
