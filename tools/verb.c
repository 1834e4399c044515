// SPDX-License-Identifier: MIT
#include "tools/verb.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/mountinfo.h"
#include "tools/term.h"

#define TEXT_WIDTH 78 /* of help */

/* Named in messages; set once, before the verb runs. */
static const char *current;

int verb_fail(int status, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "kvfs%s%s: ", current ? " " : "",
		current ? current : "");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (status == EXIT_USAGE)
		fprintf(stderr, " (see 'kvfs help%s%s')", current ? " " : "",
			current ? current : "");
	fputc('\n', stderr);
	return status;
}

static void print_title(const char *title)
{
	printf("\n%s%s%s\n", term_style(stdout, TERM_BOLD), title,
	       term_style(stdout, TERM_PLAIN));
}

/* Words flow; an empty line parts paragraphs. */
static void print_paragraphs(const char *text)
{
	size_t column = 0, n;

	while (*text) {
		n = strcspn(text, " \n");
		if (column && column + 1 + n > TEXT_WIDTH) {
			putchar('\n');
			column = 0;
		}
		printf("%s%.*s", column ? " " : "", (int)n, text);
		column += (column > 0) + n;
		text += n;
		if (!strncmp(text, "\n\n", 2)) {
			fputs("\n\n", stdout);
			column = 0;
		}
		text += strspn(text, " \n");
	}
	putchar('\n');
}

static void print_examples(const char *lines)
{
	size_t n;

	for (; *lines; lines += n + (lines[n] == '\n')) {
		lines += strspn(lines, " ");
		n = strcspn(lines, "\n");
		printf("  %.*s\n", (int)n, lines);
	}
}

void verb_help_print(const struct verb *v)
{
	static const struct option_spec help[] = {
		{"help", 0, OPTION_FLAG, 0, NULL, "this text"}, {}};

	printf("kvfs %s - %s\n", v->name, v->summary);
	printf("\nusage: kvfs %s [OPTION]...%s%s\n", v->name,
	       *v->operands ? " " : "", v->operands);
	if (v->about) {
		putchar('\n');
		print_paragraphs(v->about);
	}
	print_title("Options:");
	options_print(v->options, false, stdout);
	options_print(help, false, stdout);
	if (v->list) {
		print_title(v->list_title);
		options_print(v->list, true, stdout);
	}
	if (v->examples) {
		print_title("Examples:");
		print_examples(v->examples);
	}
}

static int check_operands(const struct verb *v, int n, char **operands)
{
	if (n < v->min_operands)
		return verb_fail(EXIT_USAGE, "%s is missing", v->operands);
	if (v->max_operands >= 0 && n > v->max_operands)
		return verb_fail(EXIT_USAGE, "%s: one operand too many",
				 operands[v->max_operands]);
	return EXIT_FINE;
}

int verb_call(const struct verb *v, int argc, char **argv)
{
	cleanup_free void *args = calloc(1, v->args_bytes + 1);
	char error[OPTION_ERROR_BYTES];
	int first, status;

	current = v->name;
	if (!args)
		return verb_fail(EXIT_TROUBLE, "out of memory");
	if (v->defaults)
		memcpy(args, v->defaults, v->args_bytes);
	first = options_parse(v->options, argc, argv, args, error);
	if (first < 0)
		return verb_fail(EXIT_USAGE, "%s", error);
	if (first == OPTIONS_HELP) {
		verb_help_print(v);
		return EXIT_FINE;
	}
	status = check_operands(v, argc - first, argv + first);
	return status ? status : v->run(args, argv + first);
}

int verb_mount_of(const char *path, struct mount_entry *m)
{
	int err = mountinfo_of(path, m);

	if (!err)
		return EXIT_FINE;
	if (err == -ENODEV)
		return verb_fail(EXIT_TROUBLE,
				 "%s: not in a kvfs; 'kvfs status' lists what "
				 "is mounted",
				 path);
	return verb_fail(err == -ENOENT ? EXIT_NEGATIVE : EXIT_TROUBLE,
			 "%s: %s", path, strerror(-err));
}
