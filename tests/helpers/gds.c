// SPDX-License-Identifier: MIT
/*
 * libkvfs by hand, names from stdin, one a line:
 *
 *      gds DIR exists|match|get|exchange [-r] [-l] [-f] [-m] [-d SUFFIX]
 *
 *      -r   through a ring, but for get
 *      -l   KVFS_LOCAL
 *      -f   KVFS_FETCH
 *      -m   nothing of the mount can be mapped
 *      -d   the lines are digests in hex, all of one length
 *
 * exists prints: present, prefix, incomplete, and the bitmap as 0 and 1; match
 * the same without the bitmap, and NODE:PREFIX of each holder, the own node's
 * with ":self". Or the error's text, and fails.
 *
 * get writes the blocks to stdout, and to stderr the error of each that is not
 * there; then it gives them back and gets them again, and "moved" tells if one
 * lies elsewhere now.
 *
 * exchange gets them, and exchanges ten of them for nothing in each of the ways
 * in which a call can come to nothing, the rest for the first three, and these
 * for all; for each a line with the result, and how many blocks are lent then,
 * as $STATS says.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/helpers/gds_calls.h"
#include "tests/helpers/lines.h"

#define HOLDERS_MAX 32

static const struct gds_calls *call = &gds_by_ioctl;
static uint8_t digests[LINES_MAX * KVFS_DIGEST_MAX];

static void to_digests(struct kvfs_names *names)
{
	names->digest_bytes = names->n ? (uint32_t)strlen(lines[0]) / 2 : 0;
	for (uint32_t i = 0; i < names->n; i++)
		for (uint32_t b = 0; b < names->digest_bytes; b++)
			sscanf(lines[i] + 2 * b, "%2hhx",
			       &digests[i * names->digest_bytes + b]);
	names->digests = digests;
	names->paths = NULL;
}

static int failed(int err)
{
	fprintf(stderr, "%s\n", kvfs_strerror(err));
	return 1;
}

static int exists(struct kvfs *k, const struct kvfs_names *names,
		  uint32_t flags)
{
	static uint8_t bitmap[LINES_MAX / 8 + 1];
	struct kvfs_found f;
	int err = call->exists(k, names, flags, bitmap, &f);

	if (err)
		return failed(err);
	printf("%u %u %u ", f.n_present, f.n_prefix, f.incomplete);
	for (uint32_t i = 0; i < names->n; i++)
		putchar('0' + (bitmap[i / 8] >> i % 8 & 1));
	putchar('\n');
	return 0;
}

static int match(struct kvfs *k, const struct kvfs_names *names, uint32_t flags)
{
	struct kvfs_holder holders[HOLDERS_MAX];
	struct kvfs_found f;
	int n = call->match(k, names, flags, holders, HOLDERS_MAX, &f);

	if (n < 0)
		return failed(n);
	printf("%u %u %u", f.n_present, f.n_prefix, f.incomplete);
	for (int i = 0; i < n; i++)
		printf(" %s:%u%s", holders[i].name, holders[i].n_prefix,
		       holders[i].is_self ? ":self" : "");
	putchar('\n');
	return 0;
}

static void write_blocks(const struct kvfs_block *blocks, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (blocks[i].error)
			fprintf(stderr, "%s: %s\n", lines[i],
				kvfs_strerror(blocks[i].error));
		else if (blocks[i].bytes)
			fwrite(blocks[i].data, 1, blocks[i].bytes, stdout);
}

static int get(struct kvfs *k, const struct kvfs_names *names, uint32_t flags)
{
	struct kvfs_block *blocks = calloc(names->n + 1, sizeof(*blocks));
	const void **was = calloc(names->n + 1, sizeof(*was));
	int n = kvfs_get(k, names, flags, 0, blocks), m, err;
	bool moved = false;

	if (n >= 0)
		write_blocks(blocks, names->n);
	for (uint32_t i = 0; i < names->n; i++)
		was[i] = blocks[i].data;
	m = kvfs_exchange(k, blocks, names->n, names, flags, 0, blocks);
	for (uint32_t i = 0; i < names->n; i++)
		moved |= was[i] != blocks[i].data;
	err = kvfs_put(k, blocks, names->n);
	if (moved)
		fprintf(stderr, "moved\n");
	free(blocks);
	free(was);
	if (n < 0 || err)
		return failed(n < 0 ? n : err);
	return m != n;
}

static void say_lent(const char *what, int result)
{
	char line[256];
	unsigned lent = 0;
	FILE *f = fopen(getenv("STATS"), "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "kvfs_lent_frames %u", &lent) == 1)
			break;
	if (f)
		fclose(f);
	printf("%s %d %u\n", what, result, lent);
}

static int exchange(struct kvfs *k, const struct kvfs_names *names)
{
	static struct kvfs_block a[LINES_MAX], b[LINES_MAX];
	const char *up = "../x";
	struct kvfs_names none = {.paths = names->paths};
	struct kvfs_names three = {.n = 3, .paths = names->paths};
	struct kvfs_names odd = {.n = 1, .digests = "", .digest_bytes = 7};
	struct kvfs_names bad = {.n = 1, .paths = &up};

	say_lent("get", kvfs_get(k, names, 0, 0, a));
	say_lent("odd", kvfs_exchange(k, a, 10, &odd, 0, 0, b));
	say_lent("bad", kvfs_exchange(k, a + 10, 10, &bad, 0, 0, b));
	say_lent("none", kvfs_exchange(k, a + 20, 10, &none, 0, 0, b));
	say_lent("flags", kvfs_exchange(k, a + 30, 10, names, 77, 0, b));
	say_lent("three",
		 kvfs_exchange(k, a + 40, names->n - 40, &three, 0, 0, b));
	say_lent("all", kvfs_exchange(k, b, 3, names, 0, 0, b));
	say_lent("put", kvfs_put(k, b, names->n));
	return 0;
}

int main(int argc, char **argv)
{
	struct kvfs_names names = {.paths = lines};
	struct kvfs *k;
	uint32_t flags = 0;
	bool hex = false;
	int o, rc;

	while ((o = getopt(argc, argv, "rlfmd:")) != -1) {
		if (o == '?')
			return 2;
		if (o == 'r')
			call = &gds_by_ring;
		else if (o == 'l')
			flags = KVFS_LOCAL;
		else if (o == 'f')
			flags = KVFS_FETCH;
		else if (o == 'm')
			gds_no_maps = true;
		else
			names.suffix = optarg, hex = true;
	}
	if (argc - optind != 2)
		return 2;
	names.n = lines_read();
	if (hex)
		to_digests(&names);
	rc = kvfs_open(argv[optind], &k);
	if (rc)
		return failed(rc);
	rc = !strcmp(argv[optind + 1], "match")	     ? match(k, &names, flags)
	     : !strcmp(argv[optind + 1], "get")	     ? get(k, &names, flags)
	     : !strcmp(argv[optind + 1], "exchange") ? exchange(k, &names)
						     : exists(k, &names, flags);
	kvfs_close(k);
	return rc;
}
