/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_PATTERN_H
#define KVFS_TESTS_PATTERN_H

/*
 * Bytes that follow from a seed and their offset, so that a test knows what a
 * file must hold without keeping a copy, and two files never look alike.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t pattern_word(uint64_t seed, uint64_t n)
{
	uint64_t x = (seed + 1) * 0x9e3779b97f4a7c15u + n * 0xbf58476d1ce4e5b9u;

	x ^= x >> 31;
	x *= 0x94d049bb133111ebu;
	return x ^ (x >> 29);
}

/** pattern_fill - what stands at off..off+len of the file with this seed */
static inline void pattern_fill(void *buf, uint64_t seed, uint64_t off,
				size_t len)
{
	unsigned char *p = buf;

	while (len) {
		uint64_t word = pattern_word(seed, off / 8);
		size_t at = off % 8, n = 8 - at < len ? 8 - at : len;

		memcpy(p, (char *)&word + at, n);
		p += n;
		off += n;
		len -= n;
	}
}

/** pattern_differs - offset in buf of the first wrong byte, or -1 */
static inline long pattern_differs(const void *buf, uint64_t seed, uint64_t off,
				   size_t len)
{
	const unsigned char *p = buf;
	size_t done = 0;

	while (done < len) {
		uint64_t word = pattern_word(seed, (off + done) / 8);
		size_t at = (off + done) % 8;
		size_t n = 8 - at < len - done ? 8 - at : len - done;

		if (memcmp(p + done, (char *)&word + at, n)) {
			while (p[done] == ((unsigned char *)&word)[at++])
				done++;
			return (long)done;
		}
		done += n;
	}
	return -1;
}

#endif
