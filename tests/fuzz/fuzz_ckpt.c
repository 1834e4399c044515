// SPDX-License-Identifier: MIT
/*
 * The log of the ckpt tree as a start finds it, and answers with attributes.
 *
 * An input is a byte of flags and files: kind, a number, length, bytes. With
 * FLAG_SEAL they get the checksums of what they hold, so that what lies behind
 * the first check is reached too.
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "meta/ckpt_file.h"
#include "meta/ckpt_log.h"
#include "meta/ckpt_record.h"

#define FLAG_SEAL 1u
#define FILES_MAX 6

enum { KIND_SNAP, KIND_LOG, KIND_SEGMENT, KIND_OTHER, KINDS };

const unsigned fuzz_runs = 4000;

/* --- files ------------------------------------------------------------- */

static void dir_clear(void)
{
	DIR *d = opendir(fuzz_dir());
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.')
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
}

static void name_of(unsigned kind, uint32_t number, char name[32])
{
	/* Not ours, or not as we write them: left alone. */
	static const char *const other[] = {
		"ckpt.log.18446744073709551615", "ckpt.log.007", "ckpt.log.",
		"ckpt.log.5.bad-1", "ckpt.snap.tmp"};

	if (kind == KIND_SNAP)
		snprintf(name, 32, "ckpt.snap");
	else if (kind == KIND_LOG)
		snprintf(name, 32, "ckpt.log");
	else if (kind == KIND_SEGMENT)
		snprintf(name, 32, "ckpt.log.%u", number);
	else
		snprintf(name, 32, "%s",
			 other[number % (sizeof(other) / sizeof(other[0]))]);
}

static void seal(uint8_t *p, size_t n)
{
	size_t at = sizeof(struct ckpt_file_head);
	uint64_t sum, seq;
	uint32_t length;

	if (n < at)
		return;
	sum = XXH3_64bits(p, offsetof(struct ckpt_file_head, sum));
	memcpy(p + offsetof(struct ckpt_file_head, sum), &sum, sizeof(sum));
	while (n - at >= CKPT_RECORD_HEAD_BYTES) {
		memcpy(&length, p + at + 4, sizeof(length));
		memcpy(&seq, p + at + 8, sizeof(seq));
		if (length > n - at - CKPT_RECORD_HEAD_BYTES)
			return;
		sum = ckpt_file_sum(seq, p + at + CKPT_RECORD_HEAD_BYTES,
				    length);
		memcpy(p + at + 16, &sum, sizeof(sum));
		at += CKPT_RECORD_HEAD_BYTES + length;
	}
}

static void files_write(struct fuzz_input *in)
{
	uint8_t flags = fuzz_take_u8(in);

	for (int i = 0; i < FILES_MAX && in->p < in->end; i++) {
		unsigned kind = fuzz_take_u8(in) % KINDS;
		uint32_t number = fuzz_take_u32(in), n = fuzz_take_u32(in);
		char name[32];
		uint8_t *copy;

		if (n > (size_t)(in->end - in->p))
			n = (uint32_t)(in->end - in->p);
		copy = malloc(n + 1);
		fuzz_must(copy);
		fuzz_take(in, copy, n);
		if (flags & FLAG_SEAL)
			seal(copy, n);
		name_of(kind, number, name);
		fuzz_file(name, copy, n);
		free(copy);
	}
}

/* --- a start, a record, a start ---------------------------------------- */

struct seen {
	uint64_t n, last, sum;
};

static int see(void *arg, uint64_t seq, const void *payload, size_t n)
{
	struct seen *s = arg;

	s->n++;
	s->last = seq;
	s->sum += XXH3_64bits(payload, n);
	return 0;
}

static struct ckpt_log *start(struct ckpt_log_info *info, struct seen *s)
{
	struct ckpt_log *l;

	*s = (struct seen){0};
	fuzz_must(!ckpt_log_open(&l, fuzz_dir()));
	ckpt_log_info(l, info);
	fuzz_must(!ckpt_log_replay(l, see, s));
	fuzz_must(s->last <= info->seq);
	return l;
}

/* Whatever was found: what is written from here on is there next time. */
static void log_check(void)
{
	static const char text[] = "one more";
	struct ckpt_log_info first, next;
	struct seen before, after;
	struct ckpt_log *l = start(&first, &before);
	bool more = first.tree && first.seq < UINT64_MAX;

	if (more)
		fuzz_must(!ckpt_log_append(l, ckpt_log_epoch(l), first.seq + 1,
					   text, sizeof(text)));
	ckpt_log_close(l);

	l = start(&next, &after);
	ckpt_log_close(l);
	fuzz_must(next.tree == first.tree && next.seq == first.seq + more);
	fuzz_must(after.n == before.n + more);
	fuzz_must(after.sum ==
		  before.sum + (more ? XXH3_64bits(text, sizeof(text)) : 0));
	fuzz_must(next.damaged || !first.damaged);
}

static void attrs_check(const uint8_t *data, size_t n)
{
	const char *p = (const char *)data;
	struct ckpt_cursor c = {p, p + n, false};
	char packed[CKPT_INODE_BYTES];
	struct ckpt_attr a;

	while (c.p < c.end && !c.bad) {
		const char *from = c.p;

		ckpt_cursor_attr(&c, &a);
		if (c.bad)
			break;
		ckpt_inode_pack(packed, &a);
		fuzz_must(!memcmp(packed, from + 8, sizeof(packed) - 8));
		fuzz_must(!memcmp(packed + sizeof(packed) - 4, c.p - 4, 4));
	}
	c = (struct ckpt_cursor){p, p + n, false};
	while (c.p < c.end)
		ckpt_cursor_bytes(&c, ckpt_cursor_u16(&c));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct fuzz_input in = {data, data + n};

	attrs_check(data, n);
	dir_clear();
	files_write(&in);
	log_check();
	return 0;
}

/* --- seeds ------------------------------------------------------------- */

static uint8_t packed[1 << 15];
static size_t n_packed;

static void pack(const void *bytes, size_t n)
{
	fuzz_must(n_packed + n <= sizeof(packed));
	memcpy(packed + n_packed, bytes, n);
	n_packed += n;
}

static void pack_file(uint8_t kind, uint32_t number)
{
	static uint8_t bytes[1 << 14];
	char name[32], path[PATH_MAX];
	uint32_t n;
	FILE *f;

	name_of(kind, number, name);
	snprintf(path, sizeof(path), "%s/%s", fuzz_dir(), name);
	f = fopen(path, "re");
	if (!f)
		return;
	n = (uint32_t)fread(bytes, 1, sizeof(bytes), f);
	fclose(f);
	pack(&kind, 1);
	pack(&number, sizeof(number));
	pack(&n, sizeof(n));
	pack(bytes, n);
}

/* The folder as it is, once with each flag. */
static void seed_folder(void)
{
	for (uint8_t flags = 0; flags <= FLAG_SEAL; flags++) {
		n_packed = 0;
		pack(&flags, 1);
		pack_file(KIND_SNAP, 0);
		pack_file(KIND_SEGMENT, 10);
		pack_file(KIND_LOG, 0);
		for (uint32_t i = 0; i < 5; i++)
			pack_file(KIND_OTHER, i);
		fuzz_seed(packed, n_packed);
	}
}

static void append(struct ckpt_log *l, uint64_t from, uint64_t to)
{
	char payload[200];

	for (uint64_t seq = from; seq <= to; seq++) {
		memset(payload, (int)seq, sizeof(payload));
		fuzz_must(!ckpt_log_append(l, ckpt_log_epoch(l), seq, payload,
					   seq * 7 % 200));
	}
}

static void seed_logs(void)
{
	struct ckpt_snap *snap;
	struct ckpt_log *l;

	dir_clear();
	fuzz_must(!ckpt_log_open(&l, fuzz_dir()));
	fuzz_must(!ckpt_log_start(l, 0x1234, 10));
	append(l, 11, 20);
	seed_folder();
	fuzz_must(!ckpt_snap_begin(&snap, l, 0, 0));
	append(l, 21, 25);
	seed_folder(); /* a snapshot that was never finished */
	fuzz_must(!ckpt_snap_add(snap, "the tree", 8));
	fuzz_must(!ckpt_snap_add(snap, "and more", 8));
	fuzz_must(!ckpt_snap_commit(snap));
	seed_folder();
	ckpt_log_close(l);
	fuzz_file("ckpt.log.18446744073709551615", "x", 1);
	seed_folder();
	dir_clear();
	fuzz_file("ckpt.log.007", "x", 1);
	seed_folder();
	dir_clear();
}

void fuzz_seeds(void)
{
	struct ckpt_attr root = {.mode = S_IFDIR | 0755, .nlink = 2};
	char inode[CKPT_INODE_BYTES], record[CKPT_ROOT_RECORD_BYTES];
	uint64_t ino = 1;

	seed_logs();
	ckpt_inode_pack(inode, &root);
	n_packed = 0;
	pack(&ino, sizeof(ino));
	pack(inode, sizeof(inode));
	fuzz_seed(packed, n_packed);
	fuzz_seed(record, ckpt_record_root(record, &root));
}
