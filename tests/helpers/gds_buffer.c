// SPDX-License-Identifier: MIT
/*
 * libkvfs' buffers by hand, names from stdin, one a line:
 *
 *      gds_buffer DIR read LENGTH [-r] [-f]     KVFS_FETCH
 *      gds_buffer DIR store LENGTH [-r] [-p] [-s]    KVFS_PARENT, KVFS_SYNC
 *      gds_buffer DIR errors [-r]    no names: what is refused
 *
 *      -r   through a ring
 *
 * The i-th name's bytes are the pattern of seed i. read prints how many came,
 * how many of them straight, and how many are as they should be; store how
 * many were stored, and how many of them were there. Both then the error of
 * each that failed.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/helpers/gds_calls.h"
#include "tests/helpers/lines.h"
#include "tests/helpers/pattern.h"

static const struct gds_calls *call = &gds_by_ioctl;
static struct kvfs_move moves[LINES_MAX];

static int failed(int err)
{
	fprintf(stderr, "%s\n", kvfs_strerror(err));
	return 1;
}

static void print_errors(const char **names, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (moves[i].error)
			printf("%s: %s\n", names[i],
			       strerrorname_np(-moves[i].error));
}

static int do_read(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t flags, const char *data)
{
	unsigned straight = 0, same = 0;
	int n = call->read_into(k, names, flags, 0, moves);

	if (n < 0)
		return failed(n);
	for (uint32_t i = 0; i < names->n; i++) {
		if (moves[i].error)
			continue;
		straight += moves[i].flags & KVFS_STRAIGHT;
		same += pattern_differs(data + moves[i].at, i, 0,
					moves[i].bytes) < 0 &&
			moves[i].bytes == moves[i].size;
	}
	printf("%d %u %u\n", n, straight, same);
	print_errors(lines, names->n);
	return 0;
}

static int do_store(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t flags, char *data)
{
	uint32_t parent = !!(flags & KVFS_PARENT);
	unsigned there = 0;
	int n;

	for (uint32_t i = 0; i < names->n; i++)
		pattern_fill(data + moves[i].at, i, 0, moves[i].length);
	n = call->store_from(k, names, flags, 0644, moves);
	if (n < 0)
		return failed(n);
	for (uint32_t i = 0; i < names->n - parent; i++)
		there += !!(moves[i].flags & KVFS_WAS_THERE);
	printf("%d %u\n", n, there);
	print_errors(lines + parent, names->n - parent);
	return 0;
}

static int move_all(struct kvfs *k, bool store, uint64_t length, uint32_t flags)
{
	struct kvfs_names names = {.paths = lines};
	struct kvfs_buffer *b;
	int err, rc;

	names.n = lines_read();
	err = kvfs_buffer_new(k, (names.n + 1) * length, 0, &b);
	if (err)
		return failed(err);
	for (uint32_t i = 0; i < names.n; i++)
		moves[i] = (struct kvfs_move){
			.buffer = b, .at = i * length, .length = length};
	rc = store ? do_store(k, &names, flags, kvfs_buffer_data(b))
		   : do_read(k, &names, flags, kvfs_buffer_data(b));
	err = kvfs_unregister(b);
	return err ? failed(err) : rc;
}

static void say(const char *what, int rc)
{
	printf("%s %s\n", what, rc < 0 ? strerrorname_np(-rc) : "ok");
}

static int errors(struct kvfs *k, const char *dir)
{
	struct kvfs_names none = {.n = 1, .paths = (const char *[]){"none"}};
	int fd = memfd_create("test", MFD_ALLOW_SEALING);
	struct kvfs_buffer *b = NULL;
	struct kvfs *other;

	say("unsealed", kvfs_register(k, fd, 0, 1, &b));
	say("closed", kvfs_register(k, -1, 0, 1, &b));
	say("empty", kvfs_buffer_new(k, 0, 0, &b));
	say("flags", kvfs_buffer_new(k, 1, 4, &b));
	say("new", kvfs_buffer_new(k, 1, 0, &b));
	moves[0] = (struct kvfs_move){.length = 1};
	say("no buffer", call->read_into(k, &none, 0, 0, moves));
	moves[0].buffer = b;
	say("read", call->read_into(k, &none, 0, 0, moves));
	say("its error", moves[0].error);
	say("flags", call->read_into(k, &none, KVFS_LOCAL, 0, moves));
	say("flags", call->store_from(k, &none, KVFS_FETCH, 0, moves));
	say("mode", call->store_from(k, &none, 0, 04755, moves));
	say("none", call->read_into(k, &(struct kvfs_names){}, 0, 0, moves));
	if (kvfs_open(dir, &other))
		return 1;
	say("another handle", call->read_into(other, &none, 0, 0, moves));
	kvfs_close(other);
	say("end", kvfs_unregister(b));
	say("end of none", kvfs_unregister(NULL));
	close(fd);
	return 0;
}

int main(int argc, char **argv)
{
	struct kvfs *k;
	uint32_t flags = 0;
	int o, rc;

	while ((o = getopt(argc, argv, "rfps")) != -1) {
		if (o == '?')
			return 2;
		if (o == 'r')
			call = &gds_by_ring;
		else
			flags |= o == 'f'   ? KVFS_FETCH
				 : o == 'p' ? KVFS_PARENT
					    : KVFS_SYNC;
	}
	argv += optind;
	if (argc - optind < 2)
		return 2;
	rc = kvfs_open(argv[0], &k);
	if (rc)
		return failed(rc);
	if (!strcmp(argv[1], "errors"))
		rc = errors(k, argv[0]);
	else
		rc = move_all(k, !strcmp(argv[1], "store"),
			      strtoull(argv[2], NULL, 0), flags);
	kvfs_close(k);
	return rc;
}
