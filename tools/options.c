// SPDX-License-Identifier: MIT
#include "tools/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/size.h"

#define OPTIONS_MAX 40
#define KEY_BASE 256 /* getopt's value of option i is KEY_BASE + i */
#define KEY_HELP 1

static bool ends(const struct option_spec *s)
{
	return !s->name && !s->letter;
}

static bool takes_value(const struct option_spec *s)
{
	return s->kind != OPTION_FLAG && s->kind != OPTION_IGNORED;
}

/* -- values ------------------------------------------------------------- */

static int set_number(const char *text, uint64_t *n)
{
	char *end;

	errno = 0;
	*n = strtoull(text, &end, 10);
	return isdigit((unsigned char)*text) && !*end && !errno ? 0 : -EINVAL;
}

static int set_real(const char *text, double *d)
{
	char *end;

	*d = strtod(text, &end);
	return end != text && !*end && *d >= 0 && *d < 1e18 ? 0 : -EINVAL;
}

static int set_ms(const char *text, unsigned *ms)
{
	double factor = 1000, n;
	char *end;

	n = strtod(text, &end);
	if (!strcmp(end, "ms"))
		factor = 1;
	else if (*end && strcmp(end, "s"))
		return -EINVAL;
	if (!isdigit((unsigned char)*text) || n * factor < 1 ||
	    n * factor > 86400e3)
		return -EINVAL;
	*ms = (unsigned)(n * factor);
	return 0;
}

static int set_choice(const char *choices, const char *text, int *which)
{
	size_t len = strlen(text), n;

	for (int i = 0; *choices; i++, choices += n + (choices[n] == '|')) {
		n = strcspn(choices, "|");
		if (n == len && !memcmp(choices, text, n)) {
			*which = i;
			return 0;
		}
	}
	return -EINVAL;
}

static int join(char **list, const char *text)
{
	size_t have = *list ? strlen(*list) : 0;
	char *more = realloc(*list, have + strlen(text) + 2);

	if (!more)
		return -ENOMEM;
	sprintf(more + have, "%s%s", have ? "," : "", text);
	*list = more;
	return 0;
}

static int set_value(const struct option_spec *s, const char *text, void *to)
{
	switch (s->kind) {
	case OPTION_FLAG:
		*(bool *)to = true;
		return 0;
	case OPTION_TEXT:
		*(const char **)to = text;
		return *text ? 0 : -EINVAL;
	case OPTION_SIZE:
		return size_parse(text, to);
	case OPTION_NUMBER:
		return set_number(text, to);
	case OPTION_REAL:
		return set_real(text, to);
	case OPTION_MS:
		return set_ms(text, to);
	case OPTION_CHOICE:
		return set_choice(s->arg, text, to);
	case OPTION_JOIN:
		return join(to, text);
	case OPTION_IGNORED:
		return 0;
	}
	return -EINVAL;
}

static const char *wanted(enum option_kind kind)
{
	switch (kind) {
	case OPTION_SIZE:
		return "a size such as 512M or 8G is wanted";
	case OPTION_NUMBER:
		return "a whole number is wanted";
	case OPTION_REAL:
		return "a number is wanted";
	case OPTION_MS:
		return "a time such as 5 (seconds) or 250ms is wanted";
	default:
		return "a value is wanted";
	}
}

static int apply(const struct option_spec *s, const char *dashes,
		 const char *text, void *args, char *error)
{
	if (!set_value(s, text, (char *)args + s->offset))
		return 0;
	if (s->kind == OPTION_CHOICE)
		snprintf(error, OPTION_ERROR_BYTES, "%s%s: '%s': use one of %s",
			 dashes, s->name, text, s->arg);
	else
		snprintf(error, OPTION_ERROR_BYTES, "%s%s: '%s': %s", dashes,
			 s->name, text, wanted(s->kind));
	return -EINVAL;
}

/* -- near names --------------------------------------------------------- */

/* Levenshtein's distance; both names are short. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[64], n = (unsigned)strlen(b), diagonal, up;

	if (n >= 64)
		return 64;
	for (unsigned j = 0; j <= n; j++)
		row[j] = j;
	for (unsigned i = 0; a[i]; i++) {
		diagonal = row[0]++;
		for (unsigned j = 0; j < n; j++) {
			up = row[j + 1];
			row[j + 1] = diagonal + (a[i] != b[j]);
			if (row[j + 1] > row[j] + 1)
				row[j + 1] = row[j] + 1;
			if (row[j + 1] > up + 1)
				row[j + 1] = up + 1;
			diagonal = up;
		}
	}
	return row[n];
}

const char *options_nearest(const struct option_spec *table, const char *name)
{
	unsigned best = (unsigned)strlen(name) / 2 + 1, d;
	const char *nearest = NULL;

	for (; !ends(table); table++) {
		if (!table->name || table->kind == OPTION_IGNORED)
			continue;
		d = distance(name, table->name);
		if (d < best) {
			best = d;
			nearest = table->name;
		}
	}
	return nearest;
}

static int unknown(const struct option_spec *table, const char *dashes,
		   const char *name, char *error)
{
	const char *nearest = options_nearest(table, name);
	int n = snprintf(error, OPTION_ERROR_BYTES, "%s%.100s: unknown option",
			 dashes, name);

	if (nearest)
		snprintf(error + n, OPTION_ERROR_BYTES - (size_t)n,
			 "; did you mean %s%s?", dashes, nearest);
	return -EINVAL;
}

/* -- the command line --------------------------------------------------- */

struct getopt_table {
	struct option longs[OPTIONS_MAX + 2];
	char letters[2 * OPTIONS_MAX + 3];
};

static void translate(const struct option_spec *s, struct getopt_table *g)
{
	struct option *l = g->longs;
	char *c = g->letters;

	*c++ = ':'; /* tell a missing value from an unknown option */
	for (int i = 0; !ends(&s[i]) && i < OPTIONS_MAX; i++) {
		if (s[i].name)
			*l++ = (struct option){s[i].name, takes_value(&s[i]),
					       NULL, KEY_BASE + i};
		if (s[i].letter)
			*c++ = s[i].letter;
		if (s[i].letter && takes_value(&s[i]))
			*c++ = ':';
	}
	*l++ = (struct option){"help", 0, NULL, KEY_HELP};
	*l = (struct option){};
	*c = 0;
}

static const struct option_spec *by_key(const struct option_spec *s, int key)
{
	if (key >= KEY_BASE)
		return &s[key - KEY_BASE];
	for (; !ends(s); s++)
		if (key && s->letter == key)
			return s;
	return NULL;
}

/* What getopt refused: `key` is '?' or ':'. */
static int refuse(const struct option_spec *table, int key, char **argv,
		  char *error)
{
	const struct option_spec *s = by_key(table, optopt);
	const char *word = argv[optind - 1];
	cleanup_free char *name = NULL;

	if (s && s->letter == optopt && key == ':') {
		snprintf(error, OPTION_ERROR_BYTES, "-%c: %s is missing",
			 s->letter, s->arg);
		return -EINVAL;
	}
	if (s && s->name) {
		snprintf(error, OPTION_ERROR_BYTES,
			 key == ':' ? "--%s: %s is missing"
				    : "--%s: takes no value",
			 s->name, s->arg);
		return -EINVAL;
	}
	if (optopt) {
		snprintf(error, OPTION_ERROR_BYTES, "-%c: unknown option",
			 optopt);
		return -EINVAL;
	}
	name = strndup(word + 2, strcspn(word + 2, "="));
	return name ? unknown(table, "--", name, error) : -EINVAL;
}

int options_parse(const struct option_spec *table, int argc, char **argv,
		  void *args, char *error)
{
	struct getopt_table g;
	const struct option_spec *s;
	int key, rc;

	translate(table, &g);
	opterr = 0;
	optind = 0; /* start anew: also forget a half-read word */
	while ((key = getopt_long(argc, argv, g.letters, g.longs, NULL)) >= 0) {
		s = by_key(table, key);
		if (key == KEY_HELP || (key == '?' && optopt == 'h'))
			return OPTIONS_HELP;
		if (!s)
			return refuse(table, key, argv, error);
		rc = apply(s, s->name ? "--" : "-", optarg ? optarg : "", args,
			   error);
		if (rc)
			return rc;
	}
	return optind;
}

/* -- the list of -o ----------------------------------------------------- */

/* Cut the first word off at its comma; "\," becomes a comma of the word. */
static char *cut_word(char **text)
{
	char *word = *text, *from = word, *to = word;

	while (*from && *from != ',') {
		if (from[0] == '\\' && from[1] == ',')
			from++;
		*to++ = *from++;
	}
	*text = *from ? from + 1 : from;
	*to = 0;
	return word;
}

static int parse_word(const struct option_spec *table, char *word, void *args,
		      char *error)
{
	char *value = strchr(word, '=');
	const struct option_spec *s = table;

	if (value)
		*value++ = 0;
	while (!ends(s) && (!s->name || strcmp(s->name, word)))
		s++;
	if (ends(s)) /* "x-…" is for those who read fstab */
		return strncmp(word, "x-", 2) ? unknown(table, "", word, error)
					      : 0;
	if (takes_value(s) == !!value || s->kind == OPTION_IGNORED)
		return apply(s, "", value ? value : "", args, error);
	snprintf(error, OPTION_ERROR_BYTES,
		 value ? "%s: takes no value" : "%s: needs a value: %s=%s",
		 word, word, s->arg);
	return -EINVAL;
}

int options_parse_list(const struct option_spec *table, char *text, void *args,
		       char *error)
{
	char *word;
	int rc;

	while (*text) {
		word = cut_word(&text);
		rc = *word ? parse_word(table, word, args, error) : 0;
		if (rc)
			return rc;
	}
	return 0;
}
