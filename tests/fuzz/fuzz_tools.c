// SPDX-License-Identifier: MIT
/*
 * What people and the kernel give the command: mount options, a command line,
 * sizes, traces, lines of mountinfo. The first byte says which; what follows
 * is the text.
 */
#include "tests/fuzz/fuzz.h"

#include <stdbool.h>

#include "base/size.h"
#include "tools/mountinfo.h"
#include "tools/options.h"
#include "tools/trace.h"

#define ARGS_MAX 32

const unsigned fuzz_runs = 15000;

/* --- options ----------------------------------------------------------- */

struct args {
	bool flag;
	const char *text;
	uint64_t size, number;
	double real;
	unsigned ms;
	int choice;
	char *joined;
};

#define AT(member) offsetof(struct args, member)

static const struct option_spec table[] = {
	{"flag", 'f', OPTION_FLAG, AT(flag), NULL, ""},
	{"text", 't', OPTION_TEXT, AT(text), "TEXT", ""},
	{"size", 's', OPTION_SIZE, AT(size), "SIZE", ""},
	{"number", 'n', OPTION_NUMBER, AT(number), "N", ""},
	{"real", 0, OPTION_REAL, AT(real), "R", ""},
	{"timeout", 0, OPTION_MS, AT(ms), "TIME", ""},
	{"choice", 'c', OPTION_CHOICE, AT(choice), "one|two|three", ""},
	{"join", 'o', OPTION_JOIN, AT(joined), "LIST", ""},
	{"ignored", 0, OPTION_IGNORED, 0, NULL, ""},
	{},
};

static const struct args none = {.choice = -1};

/* What a verb sees of options that were taken. */
static void taken_check(const struct args *a)
{
	fuzz_must(a->choice >= -1 && a->choice < 3);
	fuzz_must(a->real >= 0 && a->ms <= 86400000);
	fuzz_must(!a->text || *a->text);
}

static void refused_check(const char *error)
{
	fuzz_must(*error && strlen(error) < OPTION_ERROR_BYTES);
}

static void list(char *text)
{
	char error[OPTION_ERROR_BYTES] = "";
	struct args a = none;

	if (options_parse_list(table, text, &a, error))
		refused_check(error);
	else
		taken_check(&a);
	free(a.joined);
}

/* Words are lines. */
static void command_line(char *text)
{
	char error[OPTION_ERROR_BYTES] = "", program[] = "kvfs";
	char *argv[ARGS_MAX + 1] = {program};
	struct args a = none;
	int argc = 1, first;

	for (char *word; argc < ARGS_MAX && (word = strsep(&text, "\n"));)
		argv[argc++] = word;
	first = options_parse(table, argc, argv, &a, error);
	fuzz_must(first <= argc);
	if (first < 0)
		refused_check(error);
	else
		taken_check(&a);
	free(a.joined);
}

static void size(char *text)
{
	char shown[SIZE_FORMAT_BYTES];
	uint64_t bytes = 0;

	size_parse(text, &bytes);
	fuzz_must(bytes <= 9200000000000000000u);
	size_format(bytes, shown, sizeof(shown));
	fuzz_must(strlen(shown) < sizeof(shown));
	if (bytes < 1000) /* "B" and nothing else is behind it */
		fuzz_must(strtoull(shown, NULL, 10) == bytes);
}

/* --- files ------------------------------------------------------------- */

static void mountinfo(char *text)
{
	for (char *line; (line = strsep(&text, "\n"));) {
		struct mount_entry m;

		if (mountinfo_parse(line, &m))
			continue;
		fuzz_must(strlen(m.mountpoint) < sizeof(m.mountpoint));
		fuzz_must(strlen(m.fstype) < sizeof(m.fstype));
		fuzz_must(strlen(m.source) < sizeof(m.source));
	}
}

static void trace(const uint8_t *data, size_t n)
{
	const char *path = fuzz_file("trace", data, n);
	uint64_t sum = 0;
	struct trace t;

	if (trace_load(&t, path, 0))
		return;
	fuzz_must(t.n_requests);
	for (size_t i = 0; i < t.n_requests; i++) {
		const struct trace_request *r = &t.requests[i];

		fuzz_must(r->first + r->n_ids <= t.n_ids);
		for (size_t k = 0; k < r->n_ids; k++)
			sum += trace_ids(&t, r)[k];
	}
	fuzz_must(sum || !sum);
	trace_free(&t);
}

/* --- which ------------------------------------------------------------- */

static void (*const texts[])(char *text) = {
	['l'] = list, ['c'] = command_line, ['s'] = size, ['m'] = mountinfo};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const char *bytes = (const char *)data;
	char *text;

	if (!n)
		return 0;
	if (*data == 't')
		trace(data + 1, n - 1);
	if (*data >= sizeof(texts) / sizeof(texts[0]) || !texts[*data])
		return 0;
	text = strndup(bytes + 1, n - 1);
	if (text)
		texts[*data](text);
	free(text);
	return 0;
}

static void seed_text(const char *text)
{
	fuzz_seed(text, strlen(text));
}

static void seed_trace(void)
{
	seed_text("t{\"timestamp\": 0, \"input_length\": 6758, "
		  "\"output_length\": 500, \"hash_ids\": [0, 1, 2, 13]}\n\n"
		  "{\"timestamp\": 27, \"input_length\": 7, "
		  "\"output_length\": 9, \"hash_ids\": []}\n");
	seed_text("t{\"timestamp\": 9223372036854775807, \"input_length\": 0, "
		  "\"output_length\": 0, \"hash_ids\": [18446744073709551615]"
		  "}");
	seed_text("t[[[[[[[[[[[[[[[[[[[[[[[[[[{\"a\":{\"a\":{\"a\":1.5e308");
}

void fuzz_seeds(void)
{
	seed_text("lsize=8G,flag,text=a\\,b,choice=two,x-systemd.automount");
	seed_text("lignored,ignored=7,timeout=250ms,join=a,join=b,nubmer=5");
	seed_text("lreal=0.5,number=18446744073709551615,timeout=1e3");
	seed_text("c--size=512M\n-f\noperand\n-ochoice=x\n-o\ny\n--\n-f");
	seed_text("c-fs1K\n--cho\ntwo\n--unknown=7");
	seed_text("c-x");
	seed_text("c-n");
	seed_text("c--te");
	seed_text("s1.5GiB");
	seed_text("s8191P");
	seed_text("s1e400");
	seed_text("m36 35 98:0 /mnt1 /mnt/with\\040blank rw,noatime master:1 "
		  "- ext3 /dev/root rw,errors=continue\n"
		  "37 36 0:44 / /kv rw - fuse.kvfs kvfs rw,user_id=0\n");
	seed_trace();
}
