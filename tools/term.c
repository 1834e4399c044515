// SPDX-License-Identifier: MIT
#include "tools/term.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool term_colours(FILE *out)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(fileno(out)) && !(no && *no) &&
	       !(term && !strcmp(term, "dumb"));
}

const char *term_style(FILE *out, enum term_style style)
{
	static const char *const escapes[TERM_STYLES] = {
		"\033[0m",  "\033[1m",	"\033[2m", "\033[32m",
		"\033[33m", "\033[31m", "\033[34m"};

	return term_colours(out) ? escapes[style] : "";
}

unsigned term_width(FILE *out)
{
	struct winsize w;

	if (ioctl(fileno(out), TIOCGWINSZ, &w) || !w.ws_col)
		return 80;
	return w.ws_col;
}

const char *term_printable(const char *name, char *buf, size_t buf_bytes)
{
	size_t i;

	for (i = 0; name[i] && i + 1 < buf_bytes; i++)
		buf[i] = (unsigned char)name[i] < 0x20 || name[i] == 0x7f
				 ? '?'
				 : name[i];
	buf[i] = 0;
	return buf;
}

/* -- tables ------------------------------------------------------------- */

struct table {
	const struct table_column *columns;
	unsigned n_columns;
	size_t n_cells, room;
	char **cells;
};

struct table *table_new(const struct table_column *columns, unsigned n)
{
	struct table *t = calloc(1, sizeof(*t));

	if (t) {
		t->columns = columns;
		t->n_columns = n;
	}
	return t;
}

void table_add(struct table *t, const char *fmt, ...)
{
	size_t room;
	char **cells;
	va_list ap;

	if (!t)
		return;
	if (t->n_cells == t->room) {
		room = t->room ? 2 * t->room : 64;
		cells = realloc(t->cells, room * sizeof(*cells));
		if (!cells)
			return;
		t->cells = cells;
		t->room = room;
	}
	va_start(ap, fmt);
	if (vasprintf(&t->cells[t->n_cells], fmt, ap) >= 0)
		t->n_cells++;
	va_end(ap);
}

/* Columns on the screen: UTF-8's continuation bytes take none. */
static unsigned width(const char *text)
{
	unsigned n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

static unsigned column_width(const struct table *t, unsigned column)
{
	unsigned most = width(t->columns[column].title), w;

	for (size_t i = column; i < t->n_cells; i += t->n_columns) {
		w = width(t->cells[i]);
		if (w > most)
			most = w;
	}
	return most;
}

static void print_cell(const struct table *t, unsigned column, unsigned wide,
		       const char *text, FILE *out)
{
	bool last = column + 1 == t->n_columns;
	int pad = (int)(wide - width(text));

	if (t->columns[column].right)
		fprintf(out, "%*s%s", pad, "", text);
	else
		fprintf(out, "%s%*s", text, last ? 0 : pad, "");
	fputs(last ? "\n" : "  ", out);
}

void table_print(const struct table *t, FILE *out)
{
	unsigned *wide = t ? calloc(t->n_columns, sizeof(*wide)) : NULL;

	if (!wide)
		return;
	fputs(term_style(out, TERM_BOLD), out);
	for (unsigned c = 0; c < t->n_columns; c++) {
		wide[c] = column_width(t, c);
		print_cell(t, c, wide[c], t->columns[c].title, out);
	}
	fputs(term_style(out, TERM_PLAIN), out);
	for (size_t i = 0; i < t->n_cells; i++)
		print_cell(t, (unsigned)(i % t->n_columns),
			   wide[i % t->n_columns], t->cells[i], out);
	free(wide);
}

void table_free(struct table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_cells; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t);
}
