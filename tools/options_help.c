// SPDX-License-Identifier: MIT
#include "tools/options.h"

#include <string.h>

/* Help text from an option table: names on the left, words at column 26. */
#define WORDS_COLUMN 26

static int print_name(const struct option_spec *s, FILE *out)
{
	int n = s->letter ? fprintf(out, "  -%c", s->letter)
			  : fprintf(out, "    ");

	if (s->name)
		n += fprintf(out, "%s--%s", s->letter ? ", " : "  ", s->name);
	if (s->arg)
		n += fprintf(out, s->name ? "=%s" : " %s", s->arg);
	return n;
}

static int print_list_name(const struct option_spec *s, FILE *out)
{
	return fprintf(out, s->arg ? "  %s=%s" : "  %s", s->name, s->arg);
}

static void print_words(const char *words, int column, FILE *out)
{
	size_t n;

	if (column > WORDS_COLUMN - 2) {
		fputc('\n', out);
		column = 0;
	}
	for (; *words; words += n + (words[n] == '\n'), column = 0) {
		n = strcspn(words, "\n");
		fprintf(out, "%*s%.*s\n", WORDS_COLUMN - column, "", (int)n,
			words);
	}
}

void options_print(const struct option_spec *s, bool as_list, FILE *out)
{
	int column;

	for (; s->name || s->letter; s++) {
		if (s->kind == OPTION_IGNORED)
			continue;
		column = as_list ? print_list_name(s, out) : print_name(s, out);
		print_words(s->help, column, out);
	}
}
