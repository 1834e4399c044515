// SPDX-License-Identifier: MIT
/*
 * A hand that holds things: descriptors, mappings and pipes live in slots
 * 0..63 of this process while a shell test goes on. One command a line on
 * stdin, one answer a line on stdout: "ok", "ok VALUES" or "err ENAME".
 * Paths are the last words of a line and have no blanks.
 *
 *   open SLOT FLAGS PATH     flags: r w b(oth) c(reat) x(excl) t(runc)
 *                            a(ppend) d(irect)
 *   write SLOT SEED LEN      the pattern, at the end of what was written
 *   pwrite SLOT OFF SEED LEN
 *   check SLOT OFF SEED LEN  read back and compare: err EBADMSG
 *   stat SLOT                ok SIZE NLINK
 *   fill SLOT LEN            write until an error: ok WRITTEN ENAME
 *   truncate SLOT LEN, allocate SLOT LEN, sync SLOT, close SLOT
 *   map SLOT MODE LEN        mode: r w (shared) p (private, populated)
 *   mcheck SLOT OFF SEED LEN
 *   mset SLOT OFF SEED LEN
 *   unmap SLOT
 *   splice SLOT OFF LEN      file pages into the slot's pipe
 *   pcheck SLOT SEED OFF LEN the pipe must hold the pattern from OFF on
 *   mkdir PATH, unlink PATH
 *   rename FLAGS OLD NEW     flags: 0, 1 NOREPLACE, 2 EXCHANGE
 *   lock SLOT r|w|u, flock SLOT r|w|u
 */
#include "tests/helpers/pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOTS 64
#define BUF_BYTES (4 << 20)

struct slot {
	int fd;
	uint64_t written;
	char *map;
	size_t map_bytes;
	int pipe[2];
};

static struct slot slots[SLOTS];
static char *buf;
static char answer[128];

/* The words of a command after its verb: numbers, then text. */
struct words {
	struct slot *s;
	char *text[4];
	uint64_t n[4];
};

static int flags_of(const char *text)
{
	int flags = O_RDONLY;

	for (; *text; text++) {
		switch (*text) {
		case 'w':
			flags |= O_WRONLY;
			break;
		case 'b':
			flags |= O_RDWR;
			break;
		case 'c':
			flags |= O_CREAT;
			break;
		case 'x':
			flags |= O_EXCL;
			break;
		case 't':
			flags |= O_TRUNC;
			break;
		case 'a':
			flags |= O_APPEND;
			break;
		case 'd':
			flags |= O_DIRECT;
			break;
		}
	}
	return flags;
}

static int do_open(struct words *w)
{
	w->s->fd = open(w->text[0], flags_of(w->text[1]) | O_CLOEXEC, 0644);
	w->s->written = 0;
	return w->s->fd < 0 ? -errno : 0;
}

static int write_at(struct slot *s, uint64_t off, uint64_t seed, uint64_t len)
{
	for (uint64_t done = 0; done < len;) {
		size_t n = len - done < BUF_BYTES ? len - done : BUF_BYTES;
		ssize_t r;

		pattern_fill(buf, seed, off + done, n);
		r = pwrite(s->fd, buf, n, (off_t)(off + done));
		if (r < 0)
			return -errno;
		if (r == 0)
			return -ENOSPC;
		done += (uint64_t)r;
	}
	return 0;
}

static int do_write(struct words *w)
{
	int r = write_at(w->s, w->s->written, w->n[0], w->n[1]);

	if (!r)
		w->s->written += w->n[1];
	return r;
}

static int do_pwrite(struct words *w)
{
	return write_at(w->s, w->n[0], w->n[1], w->n[2]);
}

static int do_check(struct words *w)
{
	uint64_t off = w->n[0], end = off + w->n[2];

	while (off < end) {
		size_t n = end - off < BUF_BYTES ? end - off : BUF_BYTES;
		ssize_t r = pread(w->s->fd, buf, n, (off_t)off);

		if (r < 0)
			return -errno;
		if (r == 0 ||
		    pattern_differs(buf, w->n[1], off, (size_t)r) >= 0)
			return -EBADMSG;
		off += (uint64_t)r;
	}
	return 0;
}

static int do_stat(struct words *w)
{
	struct stat st;

	if (fstat(w->s->fd, &st))
		return -errno;
	snprintf(answer, sizeof(answer), " %lld %lu", (long long)st.st_size,
		 (unsigned long)st.st_nlink);
	return 0;
}

static int do_fill(struct words *w)
{
	uint64_t done = 0;
	int err = 0;

	while (done < w->n[0] && !err) {
		ssize_t r = write(w->s->fd, buf, BUF_BYTES);

		if (r > 0)
			done += (uint64_t)r;
		else
			err = r ? errno : ENOSPC;
	}
	snprintf(answer, sizeof(answer), " %llu %s", (unsigned long long)done,
		 err ? strerrorname_np(err) : "0");
	return 0;
}

static int do_truncate(struct words *w)
{
	return ftruncate(w->s->fd, (off_t)w->n[0]) ? -errno : 0;
}

static int do_allocate(struct words *w)
{
	return fallocate(w->s->fd, 0, 0, (off_t)w->n[0]) ? -errno : 0;
}

static int do_sync(struct words *w)
{
	return fsync(w->s->fd) ? -errno : 0;
}

static int do_close(struct words *w)
{
	int r = close(w->s->fd);

	w->s->fd = -1;
	return r ? -errno : 0;
}

static int do_map(struct words *w)
{
	bool store = w->text[0][0] == 'w', private = w->text[0][0] == 'p';
	void *p = mmap(
		NULL, w->n[0], store ? PROT_READ | PROT_WRITE : PROT_READ,
		private ? MAP_PRIVATE | MAP_POPULATE : MAP_SHARED, w->s->fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	w->s->map = p;
	w->s->map_bytes = w->n[0];
	return 0;
}

static int do_mcheck(struct words *w)
{
	return pattern_differs(w->s->map + w->n[0], w->n[1], w->n[0],
			       w->n[2]) >= 0
		       ? -EBADMSG
		       : 0;
}

static int do_mset(struct words *w)
{
	pattern_fill(w->s->map + w->n[0], w->n[1], w->n[0], w->n[2]);
	return 0;
}

static int do_unmap(struct words *w)
{
	int r = munmap(w->s->map, w->s->map_bytes);

	w->s->map = NULL;
	return r ? -errno : 0;
}

static int do_splice(struct words *w)
{
	loff_t off = (loff_t)w->n[0];
	ssize_t r;

	if (pipe2(w->s->pipe, O_CLOEXEC))
		return -errno;
	fcntl(w->s->pipe[1], F_SETPIPE_SZ, 1 << 20);
	r = splice(w->s->fd, &off, w->s->pipe[1], NULL, w->n[1], 0);
	if (r < 0)
		return -errno;
	return (uint64_t)r == w->n[1] ? 0 : -EMSGSIZE;
}

static int do_pcheck(struct words *w)
{
	uint64_t done = 0;

	while (done < w->n[2]) {
		ssize_t r = read(w->s->pipe[0], buf, w->n[2] - done);

		if (r <= 0)
			return r ? -errno : -EPIPE;
		if (pattern_differs(buf, w->n[0], w->n[1] + done, (size_t)r) >=
		    0)
			return -EBADMSG;
		done += (uint64_t)r;
	}
	close(w->s->pipe[0]);
	close(w->s->pipe[1]);
	return 0;
}

static int do_rename(struct words *w)
{
	return renameat2(AT_FDCWD, w->text[1], AT_FDCWD, w->text[0],
			 (unsigned)strtoul(w->text[2], NULL, 0))
		       ? -errno
		       : 0;
}

static int do_mkdir(struct words *w)
{
	return mkdir(w->text[0], 0755) ? -errno : 0;
}

static int do_unlink(struct words *w)
{
	return unlink(w->text[0]) ? -errno : 0;
}

static int do_lock(struct words *w)
{
	char kind = w->text[0][0];
	struct flock l = {.l_type = kind == 'r'	  ? F_RDLCK
				    : kind == 'w' ? F_WRLCK
						  : F_UNLCK};

	return fcntl(w->s->fd, F_SETLK, &l) ? -errno : 0;
}

static int do_flock(struct words *w)
{
	char kind = w->text[0][0];
	int op = kind == 'r' ? LOCK_SH : kind == 'w' ? LOCK_EX : LOCK_UN;

	return flock(w->s->fd, op | LOCK_NB) ? -errno : 0;
}

/* Words: a slot first (s), numbers in order (n), text last word first (t). */
static const struct verb {
	const char *name, *words;
	int (*fn)(struct words *w);
} verbs[] = {
	{"open", "stt", do_open},	 {"write", "snn", do_write},
	{"pwrite", "snnn", do_pwrite},	 {"check", "snnn", do_check},
	{"stat", "s", do_stat},		 {"fill", "sn", do_fill},
	{"truncate", "sn", do_truncate}, {"allocate", "sn", do_allocate},
	{"sync", "s", do_sync},		 {"close", "s", do_close},
	{"map", "stn", do_map},		 {"mcheck", "snnn", do_mcheck},
	{"mset", "snnn", do_mset},	 {"unmap", "s", do_unmap},
	{"splice", "snn", do_splice},	 {"pcheck", "snnn", do_pcheck},
	{"rename", "ttt", do_rename},	 {"lock", "st", do_lock},
	{"flock", "st", do_flock},	 {"mkdir", "t", do_mkdir},
	{"unlink", "t", do_unlink},
};

/* -EBADR: the line is not a command. */
static int obey(char *line)
{
	struct words w = {.s = NULL};
	const struct verb *v = NULL;
	char *save = NULL, *word = strtok_r(line, " \n", &save);
	int n_numbers = 0;

	for (size_t i = 0; word && i < sizeof(verbs) / sizeof(*verbs); i++)
		if (!strcmp(verbs[i].name, word))
			v = &verbs[i];
	if (!v)
		return -EBADR;
	for (const char *kind = v->words; *kind; kind++) {
		word = strtok_r(NULL, " \n", &save);
		if (!word)
			return -EBADR;
		if (*kind == 's') {
			w.s = &slots[strtoul(word, NULL, 0) % SLOTS];
		} else if (*kind == 'n') {
			w.n[n_numbers++] = strtoull(word, NULL, 0);
		} else {
			memmove(&w.text[1], &w.text[0], 3 * sizeof(char *));
			w.text[0] = word;
		}
	}
	return v->fn(&w);
}

int main(void)
{
	char line[4096];

	buf = aligned_alloc(4096, BUF_BYTES);
	if (!buf)
		return 2;
	while (fgets(line, sizeof(line), stdin)) {
		int r;

		answer[0] = 0;
		r = obey(line);
		if (r)
			printf("err %s\n", strerrorname_np(-r));
		else
			printf("ok%s\n", answer);
		fflush(stdout);
	}
	return 0;
}
