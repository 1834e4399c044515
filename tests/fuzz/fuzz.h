/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_FUZZ_H
#define KVFS_TESTS_FUZZ_H

/*
 * One parser (or a few) fed with bytes from outside. A target, fuzz_NAME.c,
 * has what is declared up to the line; driver.c has the rest and runs it:
 *
 *      fuzz_NAME            the seeds, then fuzz_runs mutations of them, always
 *                           the same ones, then the inputs below
 *                           tests/fuzz/kept/fuzz_NAME: a test of `make check`
 *      fuzz_NAME -r N       N of them instead
 *      fuzz_NAME -n N       the Nth alone
 *      fuzz_NAME -w DIR     write the seeds to files: where libFuzzer starts
 *      fuzz_NAME FILE …     these files, once each
 *
 * Built for libFuzzer (`make fuzz`) driver.c has no main() and no mutations.
 * What it finds stays below fuzz/ in the build; `make fuzz-keep` merges what
 * of it reaches something new into tests/fuzz/kept: where the next run, on
 * another machine, goes on.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** LLVMFuzzerTestOneInput - parse; what must hold is said by fuzz_must. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/** fuzz_seeds - valid inputs, by the real writers: fuzz_seed for each. */
void fuzz_seeds(void);

/* How many mutations are worth two seconds. */
extern const unsigned fuzz_runs;

/* ---------------------------------------------------------------------- */

void fuzz_seed(const void *bytes, size_t n);

/** fuzz_dir - a scratch folder, in memory if there is any; removed at the
 *  end. */
const char *fuzz_dir(void);

/** fuzz_file - PATH of a file in fuzz_dir that holds these bytes; valid until
 *  the next call. */
const char *fuzz_file(const char *name, const void *bytes, size_t n);

#define fuzz_must(what) \
	((what) ? (void)0 : fuzz_broken(#what, __FILE__, __LINE__))

static inline void fuzz_broken(const char *what, const char *file, int line)
{
	fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
	abort();
}

/* Reads of an input, front to back; behind its end there are zeros. */
struct fuzz_input {
	const uint8_t *p, *end;
};

static inline void fuzz_take(struct fuzz_input *in, void *to, size_t n)
{
	size_t left = (size_t)(in->end - in->p), have = n < left ? n : left;

	memset(to, 0, n);
	if (have)
		memcpy(to, in->p, have);
	in->p += have;
}

static inline uint32_t fuzz_take_u32(struct fuzz_input *in)
{
	uint32_t v;

	fuzz_take(in, &v, sizeof(v));
	return v;
}

static inline uint8_t fuzz_take_u8(struct fuzz_input *in)
{
	uint8_t v;

	fuzz_take(in, &v, sizeof(v));
	return v;
}

#endif
