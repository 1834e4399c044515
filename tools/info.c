// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/size.h"
#include "tools/json.h"
#include "tools/mountinfo.h"
#include "tools/property.h"
#include "tools/term.h"
#include "tools/verb.h"

#define VALUE_BYTES (1 << 16)

struct info_args {
	bool json;
};

/* The virtual xattrs, in the order in which they are shown. */
enum property_kind { TEXT, BYTES, NUMBER, LIMIT /* bytes; 0: none */ };

static const struct {
	const char *name;
	enum property_kind kind;
} properties[] = {
	{"state", TEXT},    {"class", BYTES},	  {"generation", NUMBER},
	{"hits", NUMBER},   {"checksum", TEXT},	  {"holders", TEXT},
	{"pin", TEXT},	    {"parent", TEXT},	  {"quota", LIMIT},
	{"usage", BYTES},   {"replicas", NUMBER}, {"hot", TEXT},
	{"blocks", NUMBER}, {"bytes", BYTES},	  {"version", NUMBER},
	{"shard", BYTES},   {"shards", TEXT},
};
#define N_PROPERTIES (sizeof(properties) / sizeof(*properties))

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symlink";
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	case S_IFCHR:
		return "character device";
	case S_IFBLK:
		return "block device";
	}
	return "unknown";
}

static bool is_number(const char *s)
{
	return *s && strspn(s, "0123456789") == strlen(s) && strlen(s) < 19;
}

/* -- as JSON ------------------------------------------------------------ */

static double seconds(struct timespec t)
{
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static json_t *stat_json(const char *path, const struct stat *st)
{
	char mode[8];

	snprintf(mode, sizeof(mode), "%04o", st->st_mode & 07777);
	return json_pack(
		"{s:o, s:s, s:I, s:I, s:s, s:i, s:i, s:I, s:f, s:f, "
		"s:f}",
		"path", json_name(path), "type", type_name(st->st_mode), "size",
		(json_int_t)st->st_size, "allocated",
		(json_int_t)st->st_blocks * 512, "mode", mode, "uid",
		(int)st->st_uid, "gid", (int)st->st_gid, "links",
		(json_int_t)st->st_nlink, "atime", seconds(st->st_atim),
		"mtime", seconds(st->st_mtim), "ctime", seconds(st->st_ctim));
}

static void print_json(const char *path, const struct stat *st, char *value)
{
	json_t *json = stat_json(path, st);

	for (size_t i = 0; json && i < N_PROPERTIES; i++) {
		if (property_get(path, properties[i].name, value, VALUE_BYTES) <
		    0)
			continue;
		json_object_set_new(json, properties[i].name,
				    properties[i].kind != TEXT &&
						    is_number(value)
					    ? json_integer(atoll(value))
					    : json_name(value));
	}
	if (json)
		json_put_line(json);
}

/* -- for people --------------------------------------------------------- */

static void print_time(const char *what, struct timespec t)
{
	char text[64];
	struct tm tm;

	localtime_r(&t.tv_sec, &tm);
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
	printf("  %-12s %s.%09ld\n", what, text, t.tv_nsec);
}

static void print_bytes(const char *what, uint64_t bytes)
{
	char text[SIZE_FORMAT_BYTES];

	size_format(bytes, text, sizeof(text));
	printf("  %-12s %s (%" PRIu64 ")\n", what, text, bytes);
}

static void print_owner(const struct stat *st)
{
	struct passwd *pw = getpwuid(st->st_uid);
	struct group *gr = getgrgid(st->st_gid);

	printf("  %-12s %04o  %s (%u)  %s (%u)\n", "mode, owner",
	       st->st_mode & 07777, pw ? pw->pw_name : "?", st->st_uid,
	       gr ? gr->gr_name : "?", st->st_gid);
}

/* A shard's checksum a line: those after the first are indented too. */
static void print_text(const char *what, const char *text)
{
	size_t n;

	for (; *text || *what; text += n + (text[n] == '\n'), what = "") {
		n = strcspn(text, "\n");
		printf("  %-12s %.*s\n", what, (int)n, text);
	}
}

static void print_properties(const char *path, char *value)
{
	for (size_t i = 0; i < N_PROPERTIES; i++) {
		if (property_get(path, properties[i].name, value, VALUE_BYTES) <
		    0)
			continue;
		if (properties[i].kind == LIMIT && !strcmp(value, "0"))
			strcpy(value, "none");
		if ((properties[i].kind == BYTES ||
		     properties[i].kind == LIMIT) &&
		    is_number(value))
			print_bytes(properties[i].name,
				    strtoull(value, NULL, 10));
		else
			print_text(properties[i].name, value);
	}
}

static void print_pretty(const char *path, const struct stat *st, char *value)
{
	printf("%s%s%s\n", term_style(stdout, TERM_BOLD),
	       term_printable(path, value, VALUE_BYTES),
	       term_style(stdout, TERM_PLAIN));
	printf("  %-12s %s\n", "type", type_name(st->st_mode));
	if (S_ISREG(st->st_mode)) {
		print_bytes("size", (uint64_t)st->st_size);
		print_bytes("allocated", (uint64_t)st->st_blocks * 512);
	}
	print_owner(st);
	print_time("accessed", st->st_atim);
	print_time("modified", st->st_mtim);
	print_time("changed", st->st_ctim);
	print_properties(path, value);
}

static int show(const struct info_args *a, const char *path, char *value)
{
	struct mount_entry m;
	struct stat st;
	int status;

	if (lstat(path, &st))
		return verb_fail(errno == ENOENT ? EXIT_NEGATIVE : EXIT_TROUBLE,
				 "%s: %s", path, strerror(errno));
	status = verb_mount_of(path, &m);
	if (status)
		return status;
	if (a->json)
		print_json(path, &st, value);
	else
		print_pretty(path, &st, value);
	return EXIT_FINE;
}

static int run(void *args, char **operands)
{
	char *value = malloc(VALUE_BYTES);
	int worst = EXIT_FINE, status;

	if (!value)
		return verb_fail(EXIT_TROUBLE, "out of memory");
	for (; *operands; operands++) {
		status = show(args, *operands, value);
		if (status > worst)
			worst = status;
	}
	free(value);
	return worst;
}

static const struct option_spec options[] = {
	{"json", 0, OPTION_FLAG, offsetof(struct info_args, json), NULL,
	 "one JSON object a line for each path"},
	{}};

const struct verb verb_info = {
	.name = "info",
	.operands = "PATH...",
	.summary = "what kvfs knows of a file or a namespace",
	.about = "For a block: its state (writing, provisional, "
		 "published, remote), size class, hits, checksum (XXH3-128), "
		 "generation, the nodes that hold it, whether it is pinned "
		 "here, and its parent in its chain. For a file in ckpt/: "
		 "its version, the checksums of its shards, the nodes that "
		 "hold any of them, and how many are here. For a "
		 "namespace: quota, replicas, checksum policy, blocks and "
		 "bytes. The same values are extended attributes "
		 "user.kvfs.NAME.\n\n"
		 "Exit status: 0 all shown; 1 a path does not exist; 2, 3 "
		 "as always.",
	.options = options,
	.min_operands = 1,
	.max_operands = -1,
	.args_bytes = sizeof(struct info_args),
	.examples = "kvfs info /mnt/kvfs/kv/llama\n"
		    "kvfs info --json /mnt/kvfs/ckpt/step-1000/model.bin",
	.run = run,
};
