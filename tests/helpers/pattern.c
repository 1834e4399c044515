// SPDX-License-Identifier: MIT
/*
 * pattern write SEED BYTES   the pattern to stdout
 * pattern check SEED BYTES   stdin must be the pattern, whole and no more
 */
#include "tests/helpers/pattern.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CHUNK (1 << 20)

static char buf[CHUNK];

static int write_all(uint64_t seed, uint64_t bytes)
{
	for (uint64_t off = 0; off < bytes;) {
		size_t n = bytes - off < CHUNK ? bytes - off : CHUNK;
		size_t done = 0;

		pattern_fill(buf, seed, off, n);
		while (done < n) {
			ssize_t w = write(1, buf + done, n - done);

			if (w <= 0) {
				perror("pattern: write");
				return 1;
			}
			done += (size_t)w;
		}
		off += n;
	}
	if (close(1)) {
		perror("pattern: close");
		return 1;
	}
	return 0;
}

static int check_all(uint64_t seed, uint64_t bytes)
{
	uint64_t off = 0;
	ssize_t n;

	while ((n = read(0, buf, CHUNK)) > 0) {
		long at = pattern_differs(buf, seed, off, (size_t)n);

		if (at >= 0 || off + (uint64_t)n > bytes) {
			fprintf(stderr, "pattern: wrong byte at %llu\n",
				(unsigned long long)off +
					(at >= 0 ? (uint64_t)at : 0));
			return 1;
		}
		off += (uint64_t)n;
	}
	if (n < 0) {
		perror("pattern: read");
		return 1;
	}
	if (off != bytes) {
		fprintf(stderr, "pattern: %llu bytes, not %llu\n",
			(unsigned long long)off, (unsigned long long)bytes);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t seed, bytes;

	if (argc != 4)
		return 2;
	seed = strtoull(argv[2], NULL, 0);
	bytes = strtoull(argv[3], NULL, 0);
	return argv[1][0] == 'w' ? write_all(seed, bytes)
				 : check_all(seed, bytes);
}
