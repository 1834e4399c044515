// SPDX-License-Identifier: MIT
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/size.h"
#include "tools/json.h"
#include "tools/mountinfo.h"
#include "tools/property.h"
#include "tools/term.h"
#include "tools/verb.h"
#include "tools/walk.h"

enum ls_order {
	ORDER_NONE = -1,
	ORDER_NAME,
	ORDER_SIZE,
	ORDER_AGE,
	ORDER_HITS
};

struct ls_args {
	bool longer, deep, json;
	int order;
};

struct row {
	char *name;
	unsigned char type;
	uint64_t size, hits;
	int64_t mtime_ns;
	mode_t mode;
	char state[16];
};

struct ls {
	const struct ls_args *args;
	int64_t now_ns;
	struct row *rows; /* only to be sorted */
	size_t n_rows, room;
	uint64_t files, dirs, others, bytes;
	int status;
};

static bool needs_stat(const struct ls_args *a)
{
	return a->longer || a->json || a->order > ORDER_NAME;
}

/* -- one row ------------------------------------------------------------ */

/* Returns: false, it is gone by now. */
static bool fill(struct ls *ls, struct row *r, const struct walk_entry *e)
{
	struct stat st;

	*r = (struct row){.name = (char *)e->shown, .type = e->type};
	if (!needs_stat(ls->args))
		return true;
	if (lstat(e->path, &st))
		return false;
	r->size = (uint64_t)st.st_size;
	r->mtime_ns = clock_from_timespec(st.st_mtim);
	r->mode = st.st_mode;
	if (!S_ISREG(st.st_mode))
		return true;
	r->hits = property_number(e->path, "hits", 0);
	if (property_get(e->path, "state", r->state, sizeof(r->state)) < 0)
		r->state[0] = 0;
	return true;
}

static void count(struct ls *ls, const struct row *r)
{
	if (r->type == DT_DIR) {
		ls->dirs++;
	} else if (r->type == DT_REG) {
		ls->files++;
		ls->bytes += r->size;
	} else {
		ls->others++;
	}
}

static const char *age(int64_t ns, char *buf, size_t bytes)
{
	int64_t s = ns > 0 ? ns / NS_PER_S : 0;

	if (s < 120)
		snprintf(buf, bytes, "%" PRId64 " s", s);
	else if (s < 120 * 60)
		snprintf(buf, bytes, "%" PRId64 " min", s / 60);
	else if (s < 48 * 3600)
		snprintf(buf, bytes, "%" PRId64 " h", s / 3600);
	else
		snprintf(buf, bytes, "%" PRId64 " d", s / 86400);
	return buf;
}

static const char *type_word(unsigned char type)
{
	return type == DT_REG	? "file"
	       : type == DT_DIR ? "directory"
	       : type == DT_LNK ? "symlink"
				: "special";
}

static void put_json(const struct ls *ls, const struct row *r)
{
	json_t *json = json_pack("{s:o, s:s, s:I, s:I, s:f}", "name",
				 json_name(r->name), "type", type_word(r->type),
				 "size", (json_int_t)r->size, "hits",
				 (json_int_t)r->hits, "age_s",
				 (double)(ls->now_ns - r->mtime_ns) / 1e9);

	if (*r->state)
		json_object_set_new(json, "state", json_string(r->state));
	json_put_line(json);
}

static void put(const struct ls *ls, const struct row *r)
{
	char name[4096], size[SIZE_FORMAT_BYTES], old[24];

	if (ls->args->json) {
		put_json(ls, r);
		return;
	}
	if (ls->args->longer)
		printf("%04o  %10s  %8s  %7" PRIu64 "  %-11s  ",
		       r->mode & 07777,
		       size_format(r->size, size, sizeof(size)),
		       age(ls->now_ns - r->mtime_ns, old, sizeof(old)), r->hits,
		       *r->state ? r->state : "-");
	printf("%s%s%s%s\n",
	       r->type == DT_DIR ? term_style(stdout, TERM_BLUE) : "",
	       term_printable(r->name, name, sizeof(name)),
	       r->type == DT_DIR ? term_style(stdout, TERM_PLAIN) : "",
	       r->type == DT_DIR   ? "/"
	       : r->type == DT_LNK ? "@"
				   : "");
}

/* -- sorting ------------------------------------------------------------ */

static int keep(struct ls *ls, const struct row *r)
{
	struct row *more;
	char *name = strdup(r->name);

	if (ls->n_rows == ls->room) {
		ls->room = ls->room ? 2 * ls->room : 256;
		more = realloc(ls->rows, ls->room * sizeof(*more));
		if (!more) {
			free(name);
			return -ENOMEM;
		}
		ls->rows = more;
	}
	if (!name)
		return -ENOMEM;
	ls->rows[ls->n_rows] = *r;
	ls->rows[ls->n_rows++].name = name;
	return 0;
}

/* Largest, oldest and most used first; equal ones by name. */
static int compare(const void *pa, const void *pb, void *arg)
{
	const struct row *a = pa, *b = pb;
	enum ls_order order = *(const int *)arg;

	if (order == ORDER_SIZE && a->size != b->size)
		return a->size > b->size ? -1 : 1;
	if (order == ORDER_AGE && a->mtime_ns != b->mtime_ns)
		return a->mtime_ns < b->mtime_ns ? -1 : 1;
	if (order == ORDER_HITS && a->hits != b->hits)
		return a->hits > b->hits ? -1 : 1;
	return strcmp(a->name, b->name);
}

static void put_sorted(struct ls *ls)
{
	int order = ls->args->order;

	if (ls->n_rows)
		qsort_r(ls->rows, ls->n_rows, sizeof(*ls->rows), compare,
			&order);
	for (size_t i = 0; i < ls->n_rows; i++) {
		put(ls, &ls->rows[i]);
		free(ls->rows[i].name);
	}
	ls->n_rows = 0;
}

/* -- the verb ----------------------------------------------------------- */

static bool visit(void *arg, const struct walk_entry *e)
{
	struct ls *ls = arg;
	struct row r;

	if (e->err) {
		ls->status = verb_fail(e->err == -ENOENT ? EXIT_NEGATIVE
							 : EXIT_TROUBLE,
				       "%s: %s", e->path, strerror(-e->err));
		return true;
	}
	if (!fill(ls, &r, e))
		return true;
	count(ls, &r);
	if (ls->args->order == ORDER_NONE) {
		put(ls, &r);
	} else if (keep(ls, &r)) {
		ls->status = verb_fail(EXIT_TROUBLE, "too many names to sort; "
						     "leave --sort out");
		return false;
	}
	return true;
}

static void put_summary(const struct ls *ls)
{
	char size[SIZE_FORMAT_BYTES];

	printf("%s%" PRIu64 " files", term_style(stdout, TERM_DIM), ls->files);
	if (needs_stat(ls->args))
		printf(" (%s)", size_format(ls->bytes, size, sizeof(size)));
	printf(", %" PRIu64 " directories", ls->dirs);
	if (ls->others)
		printf(", %" PRIu64 " others", ls->others);
	printf("%s\n", term_style(stdout, TERM_PLAIN));
}

static void list(struct ls *ls, const char *path)
{
	struct mount_entry m;
	int status = verb_mount_of(path, &m);

	if (status)
		ls->status = status;
	else
		walk(path, ls->args->deep, visit, ls);
	put_sorted(ls);
}

static int run(void *args, char **operands)
{
	static char here[] = ".", *none[] = {here, NULL};
	struct ls ls = {
		.args = args,
		.now_ns = clock_read_ns(CLOCK_REALTIME),
	};
	bool several;

	if (!*operands)
		operands = none;
	several = operands[1];
	if (ls.args->longer && !ls.args->json)
		printf("%smode        size       age     hits  state        "
		       "name%s\n",
		       term_style(stdout, TERM_BOLD),
		       term_style(stdout, TERM_PLAIN));
	for (; *operands; operands++) {
		if (several && !ls.args->json)
			printf("%s:\n", *operands);
		list(&ls, *operands);
	}
	if (!ls.args->json && (!ls.status || ls.files || ls.dirs))
		put_summary(&ls);
	free(ls.rows);
	return ls.status;
}

#define AT(member) offsetof(struct ls_args, member)

static const struct option_spec options[] = {
	{"long", 'l', OPTION_FLAG, AT(longer), NULL,
	 "mode, size, age, hits and state too"},
	{"recursive", 'R', OPTION_FLAG, AT(deep), NULL,
	 "what lies in directories below too"},
	{"sort", 's', OPTION_CHOICE, AT(order), "name|size|age|hits",
	 "collect and sort (largest, oldest, most used first);\n"
	 "without it names come as the directory gives them"},
	{"json", 0, OPTION_FLAG, AT(json), NULL,
	 "one JSON object a line: name, type, size, hits,\n"
	 "age_s, state"},
	{}};

static const struct ls_args defaults = {.order = ORDER_NONE};

const struct verb verb_ls = {
	.name = "ls",
	.operands = "[PATH...]",
	.summary = "list blocks with size, age, hits and state",
	.about = "Names are printed while the directory is read, so a "
		 "directory of millions needs no memory. A block's state "
		 "is writing, provisional or published.\n\n"
		 "Exit status: 0 listed; 1 a path does not exist; 2, 3 as "
		 "always.",
	.options = options,
	.max_operands = -1,
	.defaults = &defaults,
	.args_bytes = sizeof(defaults),
	.examples = "kvfs ls -l /mnt/kvfs/kv/llama\n"
		    "kvfs ls -lR --sort=hits /mnt/kvfs/kv/llama",
	.run = run,
};
