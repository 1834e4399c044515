/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_TRACE_H
#define KVFS_TOOLS_TRACE_H

#include <stddef.h>
#include <stdint.h>

/*
 * A KV-cache request trace: one JSON object a line with `timestamp` (ms),
 * `input_length` and `output_length` (tokens) and `hash_ids`, the request's
 * prefix chain. The whole file is read and checked before anything is done
 * with it, so that a bad line 9,000 does not end a replay half way.
 *
 *      struct trace t;
 *      if (trace_load(&t, path, 0) == 0) {
 *              … t.requests[i], trace_ids(&t, &t.requests[i]) …
 *              trace_free(&t);
 *      }
 */

#define TRACE_LINE_MAX (1 << 20) /* bytes of one line */

struct trace_request {
	uint64_t timestamp_ms;
	uint64_t input_tokens, output_tokens;
	size_t first; /* where its ids start in trace.ids */
	size_t n_ids;
};

struct trace {
	struct trace_request *requests;
	size_t n_requests;
	uint64_t *ids; /* of all requests, one after the other */
	size_t n_ids;  /* block references */
};

/**
 * trace_load - read a trace
 * @t: set only on success
 * @limit: read at most this many requests; 0: all
 *
 * Blank lines are skipped. A line that is not a request or is longer than
 * TRACE_LINE_MAX is refused with its number.
 *
 * Returns: 0, -EINVAL not a trace, -ENOMEM, or -errno of the file. One line
 *          is logged.
 */
int trace_load(struct trace *t, const char *path, size_t limit);

void trace_free(struct trace *t);

static inline const uint64_t *trace_ids(const struct trace *t,
					const struct trace_request *r)
{
	return t->ids + r->first;
}

#endif
