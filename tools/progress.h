/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_PROGRESS_H
#define KVFS_TOOLS_PROGRESS_H

/*
 * A progress bar on stderr, for what takes more than a second: nothing is
 * drawn unless stderr is a terminal and a second has gone by; at most ten
 * redraws a second; erased at the end, so what follows starts on a clean line.
 *
 *      struct progress p;
 *      progress_start(&p, "reading", total_bytes, PROGRESS_BYTES);
 *      … progress_update(&p, done_bytes);   as often as you like
 *      progress_finish(&p);
 *
 * One thread draws; others add up what they did in an atomic of their own.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum progress_unit { PROGRESS_COUNT, PROGRESS_BYTES };

struct progress {
	const char *label;
	uint64_t total; /* 0: unknown; a figure is shown instead of a bar */
	enum progress_unit unit;
	int64_t start_ns, drawn_ns;
	bool enabled, drawn;
};

void progress_start(struct progress *p, const char *label, uint64_t total,
		    enum progress_unit unit);

/** progress_update - so much is done; draws if it is time to. */
void progress_update(struct progress *p, uint64_t done);

/** progress_finish - erase the bar. Safe to call twice. */
void progress_finish(struct progress *p);

/** progress_clear - erase it for now, to print a line in its place; the next
 *  update draws it again. */
void progress_clear(struct progress *p);

/**
 * progress_format - the bar as text, `columns` wide at most
 *
 * "reading   42% [######        ] 1.2 GiB of 2.9 GiB  512 MiB/s  0:03 left"
 */
void progress_format(const struct progress *p, uint64_t done, int64_t spent_ns,
		     unsigned columns, char *buf, size_t buf_bytes);

#endif
