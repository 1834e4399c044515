// SPDX-License-Identifier: MIT
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "tools/json.h"
#include "tools/mountinfo.h"
#include "tools/term.h"
#include "tools/verb.h"
#include "tools/verify.h"
#include "tools/walk.h"

struct verify_args {
	bool json, quiet;
};

struct run {
	const struct verify_args *args;
	struct verify verify;
	uint64_t total_bytes; /* for the bar */
	bool at_root;	      /* what is walked is the root of a mount */
	uint64_t n[VERIFY_RESULTS];
	int64_t start_ns;
};

static const char *const result_names[VERIFY_RESULTS] = {
	[VERIFY_OK] = "ok",
	[VERIFY_DAMAGED] = "damaged",
	[VERIFY_UNCHECKED] = "unchecked",
	[VERIFY_ERROR] = "error",
	[VERIFY_GONE] = "gone",
};

/* -- what is said of one file ------------------------------------------- */

static void put_json(const struct run *r, const char *path,
		     enum verify_result result)
{
	json_t *json = json_pack("{s:o, s:s}", "path", json_name(path),
				 "result", result_names[result]);

	if (*r->verify.why)
		json_object_set_new(json, "why", json_name(r->verify.why));
	json_put_line(json);
}

static void put(struct run *r, const char *path, enum verify_result result)
{
	FILE *out = result == VERIFY_DAMAGED ? stdout : stderr;

	if (r->args->json && !r->args->quiet) {
		put_json(r, path, result);
		return;
	}
	if (r->args->quiet || result == VERIFY_OK || result == VERIFY_GONE)
		return;
	progress_clear(&r->verify.progress);
	fprintf(out, "%s: %s%s%s: %s\n", path,
		term_style(out,
			   result == VERIFY_UNCHECKED ? TERM_WARN : TERM_BAD),
		result_names[result], term_style(out, TERM_PLAIN),
		r->verify.why);
}

/* -- the two passes ----------------------------------------------------- */

/* .kvfs/ below the root of a mount: made up when it is read. */
static bool is_control(const struct run *r, const struct walk_entry *e)
{
	return r->at_root && !strncmp(e->shown, ".kvfs/", 6);
}

static bool add_size(void *arg, const struct walk_entry *e)
{
	struct run *r = arg;
	struct stat st;

	if (!e->err && e->type == DT_REG && !is_control(r, e) &&
	    !lstat(e->path, &st))
		r->total_bytes += (uint64_t)st.st_size;
	return true;
}

static bool check_one(void *arg, const struct walk_entry *e)
{
	struct run *r = arg;
	enum verify_result result;

	if (is_control(r, e))
		return true;
	if (e->err) {
		snprintf(r->verify.why, sizeof(r->verify.why), "%s",
			 strerror(-e->err));
		result = VERIFY_ERROR;
	} else if (e->type == DT_REG) {
		result = verify_file(&r->verify, e->path);
	} else {
		return true;
	}
	r->n[result]++;
	put(r, e->path, result);
	return true;
}

static void walk_all(struct run *r, char **paths,
		     bool (*fn)(void *arg, const struct walk_entry *e))
{
	char resolved[PATH_MAX];
	struct mount_entry m;

	for (char **p = paths; *p; p++) {
		r->at_root = !mountinfo_resolve(*p, resolved) &&
			     !mountinfo_at(resolved, &m);
		walk(*p, true, fn, r);
	}
}

static int check_all(struct run *r, char **paths)
{
	struct mount_entry m;

	for (char **p = paths; *p; p++)
		if (verb_mount_of(*p, &m))
			return EXIT_TROUBLE;
	if (isatty(STDERR_FILENO))
		walk_all(r, paths, add_size);
	progress_start(&r->verify.progress, "verifying", r->total_bytes,
		       PROGRESS_BYTES);
	walk_all(r, paths, check_one);
	progress_finish(&r->verify.progress);
	return EXIT_FINE;
}

/* -- the summary -------------------------------------------------------- */

static uint64_t n_files(const struct run *r)
{
	return r->n[VERIFY_OK] + r->n[VERIFY_DAMAGED] + r->n[VERIFY_UNCHECKED] +
	       r->n[VERIFY_ERROR];
}

static void put_summary_json(const struct run *r, double seconds)
{
	json_put_line(json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "files",
		(json_int_t)n_files(r), "bytes", (json_int_t)r->verify.bytes,
		"ok", (json_int_t)r->n[VERIFY_OK], "damaged",
		(json_int_t)r->n[VERIFY_DAMAGED], "unchecked",
		(json_int_t)r->n[VERIFY_UNCHECKED], "errors",
		(json_int_t)r->n[VERIFY_ERROR], "seconds", seconds));
}

static void put_summary_text(const struct run *r, double seconds)
{
	char size[SIZE_FORMAT_BYTES], rate[SIZE_FORMAT_BYTES];
	enum verify_result i;

	size_format(r->verify.bytes, size, sizeof(size));
	size_format((uint64_t)((double)r->verify.bytes / seconds), rate,
		    sizeof(rate));
	printf("%" PRIu64 " files, %s in %.1f s (%s/s): ", n_files(r), size,
	       seconds, rate);
	if (n_files(r) == r->n[VERIFY_OK]) {
		puts("all fine");
		return;
	}
	printf("%" PRIu64 " fine", r->n[VERIFY_OK]);
	for (i = VERIFY_DAMAGED; i <= VERIFY_ERROR; i++)
		if (r->n[i])
			printf(", %" PRIu64 " %s", r->n[i], result_names[i]);
	putchar('\n');
}

static int finish(const struct run *r)
{
	double seconds = (double)(clock_now_ns() - r->start_ns) / 1e9;

	if (r->args->json)
		put_summary_json(r, seconds);
	else if (!r->args->quiet)
		put_summary_text(r, seconds);
	if (r->n[VERIFY_DAMAGED])
		return EXIT_NEGATIVE;
	return r->n[VERIFY_ERROR] ? EXIT_TROUBLE : EXIT_FINE;
}

static int run(void *args, char **operands)
{
	struct run r = {.args = args, .start_ns = clock_now_ns()};
	int status;

	if (verify_open(&r.verify))
		return verb_fail(EXIT_TROUBLE, "out of memory");
	status = check_all(&r, operands);
	if (!status)
		status = finish(&r);
	verify_close(&r.verify);
	return status;
}

static const struct option_spec options[] = {
	{"json", 0, OPTION_FLAG, offsetof(struct verify_args, json), NULL,
	 "one JSON object a line for each file (path, result,\n"
	 "why), the sums as the last"},
	{"quiet", 'q', OPTION_FLAG, offsetof(struct verify_args, quiet), NULL,
	 "print nothing (with --json: only the sums); the exit\n"
	 "status tells"},
	{}};

const struct verb verb_verify = {
	.name = "verify",
	.operands = "PATH...",
	.summary = "read files and compare them with their checksums",
	.about = "Reads every file below PATH through the mount and "
		 "compares its XXH3-128 (in ckpt/ one for each shard) "
		 "with the one taken when it was stored. A damaged block "
		 "is reported to the daemon, which serves it no more.\n\n"
		 "A file is 'unchecked' where its namespace takes no "
		 "checksums, or while it is being written.\n\n"
		 "Exit status: 0 nothing is damaged; 1 something is; 2 the "
		 "command line is wrong; 3 something could not be read.",
	.options = options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct verify_args),
	.examples = "kvfs verify /mnt/kvfs\n"
		    "kvfs verify -q /mnt/kvfs/ckpt/step-1000 || echo damaged",
	.run = run,
};
