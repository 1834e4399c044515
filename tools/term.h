/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_TERM_H
#define KVFS_TOOLS_TERM_H

/* What a person sees: colours where they help, and tables. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum term_style {
	TERM_PLAIN,
	TERM_BOLD,
	TERM_DIM,
	TERM_GOOD, /* green */
	TERM_WARN, /* yellow */
	TERM_BAD,  /* red */
	TERM_BLUE,
	TERM_STYLES
};

/** term_colours - may this stream get escapes? A terminal, TERM not "dumb",
 *  and no NO_COLOR (no-color.org). */
bool term_colours(FILE *out);

/** term_style - the escape for a style, or "" where there are no colours. */
const char *term_style(FILE *out, enum term_style style);

/** term_width - columns of the terminal; 80 where it is none. */
unsigned term_width(FILE *out);

/** term_printable - a name made safe to show: control bytes become '?'.
 *  Returns: buf. */
const char *term_printable(const char *name, char *buf, size_t buf_bytes);

/*
 * A table, printed once all cells are known:
 *
 *      static const struct table_column columns[] = {
 *              { "namespace", false }, { "blocks", true } };
 *      struct table *t = table_new(columns, 2);
 *      table_add(t, "%s", name);
 *      table_add(t, "%" PRIu64, n);     … the next row begins by itself
 *      table_print(t, stdout);
 *      table_free(t);
 *
 * Without memory table_new gives NULL and the others do nothing.
 */
struct table;

struct table_column {
	const char *title;
	bool right; /* numbers */
};

struct table *table_new(const struct table_column *columns, unsigned n);
void table_add(struct table *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/** table_print - titles bold on a terminal; two blanks between columns. */
void table_print(const struct table *t, FILE *out);
void table_free(struct table *t);

#endif
