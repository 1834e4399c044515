// SPDX-License-Identifier: MIT
/*
 * The pool's index as a start finds it: opened, adopted, and adopted once
 * more. No tmpfs is mounted: a folder with a few frames stands for the pool.
 *
 * An input is a byte of flags and the file. With FLAG_SEAL its header and
 * records get the seals of what they hold.
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/pool_internal.h"

#define FLAG_SEAL 1u
#define FRAMES 6	/* of the pool that made the seeds */
#define FRAMES_ROOM 128 /* as many as the largest input has records */

const unsigned fuzz_runs = 3000;

/* --- a pool without its mount ------------------------------------------ */

static struct frame frames[FRAMES_ROOM];

static void lists_init(struct pool *p)
{
	frame_list_init(&p->free);
	frame_list_init(&p->dirty);
	frame_list_init(&p->aside);
	for (unsigned i = 0; i < POOL_CLASSES; i++)
		frame_list_init(&p->ready[i]);
}

/* Sizes by number; 4 is missing, 5 is no file. */
static void frames_make(struct pool *p)
{
	static const off_t bytes[] = {100, 9000, 0, 4096};
	char name[FRAME_NAME_BYTES];

	for (uint32_t f = 0; f < sizeof(bytes) / sizeof(bytes[0]); f++) {
		int fd;

		frame_name(f, name);
		fd = openat(p->frames_fd, name, O_RDWR | O_CREAT | O_CLOEXEC,
			    0600);
		fuzz_must(fd >= 0 && !ftruncate(fd, bytes[f]));
		close(fd);
	}
	frame_name(5, name);
	mkdirat(p->frames_fd, name, 0700);
}

static void pool_up(struct pool *p)
{
	*p = (struct pool){.dir = "fuzz",
			   .cap_pages = 1 << 20,
			   .reserve_pages = 1 << 14,
			   .step_pages = 1,
			   .max_frames = FRAMES,
			   .index_fd = -1,
			   .frames = frames};
	memset(frames, 0, sizeof(frames));
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wake, NULL);
	lists_init(p);
	p->dir_fd = open(fuzz_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	mkdirat(p->dir_fd, "frames", 0700);
	p->frames_fd =
		openat(p->dir_fd, "frames", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fuzz_must(p->dir_fd >= 0 && p->frames_fd >= 0);
	fuzz_must(!index_open(p));
	frames_make(p); /* what index_open removed too */
	fuzz_must(p->max_frames <= FRAMES_ROOM);
}

static void pool_down(struct pool *p)
{
	index_close(p);
	close(p->frames_fd);
	close(p->dir_fd);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
}

/* --- what must hold ---------------------------------------------------- */

/* Everybody above believes the path of a committed record. */
static void record_check(const struct pool_record *r)
{
	fuzz_must(r->state == RECORD_COMMITTED);
	fuzz_must(r->path_len && r->path_len <= POOL_PATH_MAX);
	fuzz_must(strlen(r->path) == r->path_len);
	fuzz_must(r->path[0] != '/' && r->path[r->path_len - 1] != '/');
	fuzz_must(!strstr(r->path, "//") && !strstr(r->path, "/../"));
}

static uint32_t list_length(const struct pool *p, const struct frame_list *l,
			    enum frame_state state)
{
	uint32_t n = 0;

	for (uint32_t f = l->head; f != POOL_NO_FRAME; f = p->frames[f].next) {
		fuzz_must(f < p->n_slots && p->frames[f].state == state);
		fuzz_must(n++ < p->n_slots);
	}
	return n;
}

static void books_check(const struct pool *p)
{
	uint32_t n[FRAME_STATES] = {0};
	uint64_t pages[FRAME_STATES] = {0};

	fuzz_must(p->n_slots <= p->n_indexed || !p->n_slots);
	for (uint32_t f = 0; f < p->n_slots; f++) {
		const struct frame *fr = &p->frames[f];

		n[fr->state]++;
		pages[fr->state] += fr->pages;
		if (fr->state == FRAME_COMMITTED)
			record_check(&p->slots[f].record);
	}
	fuzz_must(!memcmp(n, p->n, sizeof(n)));
	fuzz_must(!memcmp(pages, p->pages, sizeof(pages)));
	fuzz_must(n[FRAME_FREE] + n[FRAME_DIRTY] + n[FRAME_COMMITTED] ==
		  p->n_slots);
	fuzz_must(p->adopted == n[FRAME_COMMITTED]);
	fuzz_must(list_length(p, &p->free, FRAME_FREE) == n[FRAME_FREE]);
	fuzz_must(list_length(p, &p->dirty, FRAME_DIRTY) == n[FRAME_DIRTY]);
}

static uint64_t adopt(const uint8_t *file, size_t n)
{
	struct pool p;
	uint64_t adopted;

	if (file)
		fuzz_file("index", file, n);
	pool_up(&p);
	index_adopt(&p);
	books_check(&p);
	adopted = p.adopted;
	if (file) /* whatever the header says */
		fuzz_must(p.n_slots <= n / INDEX_RECORD_BYTES);
	else
		fuzz_must(!p.adopt_dropped);
	pool_down(&p);
	return adopted;
}

/* --- inputs ------------------------------------------------------------ */

static void record_seal(const struct pool *p, uint32_t f, uint8_t *at)
{
	struct pool_record r;

	memcpy(&r, at, sizeof(r));
	if (r.path_len > POOL_PATH_MAX)
		return;
	r.seal = index_seal(p, f, &r, r.path, r.path_len);
	memcpy(at, &r, sizeof(r));
}

static void seal(uint8_t *file, size_t n)
{
	struct pool p = {0};
	struct pool_header h;

	if (n < INDEX_HEADER_BYTES)
		return;
	memcpy(&h, file, sizeof(h));
	h.seal = XXH3_64bits(&h, offsetof(struct pool_header, seal));
	p.seal_seed = h.uuid[0] ^ h.uuid[1];
	for (size_t at = INDEX_HEADER_BYTES, f = 0;
	     n - at >= INDEX_RECORD_BYTES; at += INDEX_RECORD_BYTES, f++) {
		record_seal(&p, (uint32_t)f, file + at);
		if (h.rename_frame == f && h.rename_len <= POOL_PATH_MAX)
			h.rename_seal = index_seal(
				&p, (uint32_t)f,
				(const struct pool_record *)(file + at),
				h.rename_path, h.rename_len);
	}
	memcpy(file, &h, sizeof(h));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	uint8_t *file;

	if (!n || n > (FRAMES_ROOM - 8) * INDEX_RECORD_BYTES)
		return 0;
	file = aligned_alloc(64, (n + 63) / 64 * 64); /* as a mapping is */
	if (!file)
		return 0;
	memcpy(file, data + 1, n - 1);
	if (data[0] & FLAG_SEAL)
		seal(file, n - 1);
	fuzz_must(adopt(file, n - 1) == adopt(NULL, 0));
	free(file);
	return 0;
}

/* --- seeds ------------------------------------------------------------- */

static void commit(struct pool *p, uint32_t f, const char *path)
{
	p->slots[f].record.epoch = f + 1;
	p->slots[f].record.mode = 0644;
	books_move(p, f, FRAME_WRITING, 0);
	fuzz_must(!pool_commit(p, f, path, (uint16_t)strlen(path)));
}

/* The file as it lies there, once with each flag. */
static void seed_file(const struct pool *p)
{
	static uint8_t
		bytes[1 + INDEX_HEADER_BYTES + FRAMES * INDEX_RECORD_BYTES];
	ssize_t n = pread(p->index_fd, bytes + 1, sizeof(bytes) - 1, 0);

	fuzz_must(n == sizeof(bytes) - 1);
	for (bytes[0] = 0; bytes[0] <= FLAG_SEAL; bytes[0]++)
		fuzz_seed(bytes, sizeof(bytes));
}

/* Killed in the middle of a rename. */
static void rename_half(struct pool *p)
{
	struct pool_record before = p->slots[1].record;

	fuzz_must(!pool_rename(p, 1, "ns/renamed", 10));
	p->slots[1].record = before;
	p->header->rename_pending = 1;
}

void fuzz_seeds(void)
{
	char longest[POOL_PATH_MAX + 1];
	struct pool p;

	memset(longest, 'x', POOL_PATH_MAX);
	longest[POOL_PATH_MAX] = 0;
	memcpy(longest, "ns/", 3);
	pool_up(&p);
	fuzz_must(!index_reach(&p, FRAMES - 1));
	seed_file(&p);
	p.n_slots = p.header->n_slots = p.n[FRAME_NONE] = FRAMES;
	commit(&p, 0, "ns/a");
	commit(&p, 1, "ns/deep/er/b");
	commit(&p, 2, longest);
	p.slots[3].record.state = RECORD_WRITING;
	seed_file(&p);
	rename_half(&p);
	seed_file(&p);
	pool_down(&p);
	unlinkat(AT_FDCWD, fuzz_file("index", "", 0), 0);
}
