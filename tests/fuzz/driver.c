// SPDX-License-Identifier: MIT
/*
 * Runs a target of fuzz.h. Mutation n depends on n alone, so whatever breaks
 * is found again by its number. The inputs run in a child: it may crash as a
 * sanitizer likes, the parent says at which input and removes the folder.
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

#define INPUT_MAX (64u << 10)
#define SEEDS_MAX 64
#define INPUT_SECONDS 60 /* under valgrind, on a busy machine */

/* --- the folder -------------------------------------------------------- */

static char dir[PATH_MAX / 2];

const char *fuzz_dir(void)
{
	const char *tmp = getenv("TMPDIR");

	if (*dir)
		return dir;
	strcpy(dir, "/dev/shm/kvfs-fuzz-XXXXXX");
	if (mkdtemp(dir))
		return dir;
	snprintf(dir, sizeof(dir), "%s/kvfs-fuzz-XXXXXX", tmp ? tmp : "/tmp");
	fuzz_must(mkdtemp(dir));
	return dir;
}

static void tree_remove(const char *path)
{
	DIR *d = opendir(path);
	char name[PATH_MAX];
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
		if (e->d_type == DT_DIR)
			tree_remove(name);
		else
			unlink(name);
	}
	if (d)
		closedir(d);
	rmdir(path);
}

static void dir_remove(void)
{
	tree_remove(dir);
}

const char *fuzz_file(const char *name, const void *bytes, size_t n)
{
	static char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", fuzz_dir(), name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	fuzz_must(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
	close(fd);
	return path;
}

/* The messages are many, and not what is tested. */
static void begin(void)
{
	log_set_level(LOG_NONE);
	fuzz_dir();
}

#ifdef FUZZ_LIBFUZZER

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	begin();
	atexit(dir_remove);
	return 0;
}

void fuzz_seed(const void *bytes, size_t n)
{
	(void)bytes;
	(void)n;
}

#else

/* --- seeds ------------------------------------------------------------- */

static struct seed {
	void *bytes;
	size_t n;
} seeds[SEEDS_MAX];
static unsigned n_seeds;

void fuzz_seed(const void *bytes, size_t n)
{
	struct seed *s = &seeds[n_seeds++];

	fuzz_must(n_seeds <= SEEDS_MAX && n <= INPUT_MAX);
	*s = (struct seed){malloc(n + 1), n};
	fuzz_must(s->bytes);
	memcpy(s->bytes, bytes, n);
}

static void seeds_free(void)
{
	while (n_seeds)
		free(seeds[--n_seeds].bytes);
}

static void seeds_write(const char *to)
{
	for (unsigned i = 0; i < n_seeds; i++) {
		char path[PATH_MAX];
		FILE *f;

		snprintf(path, sizeof(path), "%s/seed-%u", to, i);
		f = fopen(path, "we");
		fuzz_must(f && fwrite(seeds[i].bytes, 1, seeds[i].n, f) ==
				       seeds[i].n);
		fclose(f);
	}
}

/* --- mutations --------------------------------------------------------- */

struct input {
	uint64_t random; /* splitmix64 */
	uint8_t bytes[INPUT_MAX];
	size_t n;
};

static uint64_t draw(struct input *in, uint64_t below)
{
	uint64_t z = in->random += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	z ^= z >> 31;
	return below ? z % below : z;
}

static void flip(struct input *in)
{
	if (in->n)
		in->bytes[draw(in, in->n)] ^= (uint8_t)(1u << draw(in, 8));
}

static void cut(struct input *in)
{
	in->n = draw(in, in->n + 1);
}

/* A number that parsers trip over, 1 to 8 bytes wide. */
static void number(struct input *in)
{
	static const uint64_t odd[] = {
		0,	1,    UINT64_MAX, INT64_MAX, UINT32_MAX, INT32_MAX,
		0xffff, 0x7f, '\n',	  ' ',	     '/',	 '.'};
	uint64_t v = odd[draw(in, sizeof(odd) / sizeof(odd[0]))];
	size_t width = (size_t)1 << draw(in, 4);

	v += draw(in, 4) ? 0 : draw(in, 32) - 16;
	if (in->n >= width)
		memcpy(in->bytes + draw(in, in->n - width + 1), &v, width);
}

static void take_out(struct input *in)
{
	size_t at = draw(in, in->n + 1), n = draw(in, in->n - at + 1);

	if (draw(in, 2) && n > 8)
		n = 1 + draw(in, 8);
	memmove(in->bytes + at, in->bytes + at + n, in->n - at - n);
	in->n -= n;
}

static void put_in(struct input *in, const uint8_t *from, size_t n)
{
	size_t at = draw(in, in->n + 1);

	if (in->n + n > INPUT_MAX)
		return;
	memmove(in->bytes + at + n, in->bytes + at, in->n - at);
	memcpy(in->bytes + at, from, n);
	in->n += n;
}

/* A part of this or another seed, somewhere else. */
static void graft(struct input *in)
{
	const struct seed *s = &seeds[draw(in, n_seeds)];
	size_t from = draw(in, s->n + 1), n = draw(in, s->n - from + 1);

	put_in(in, (const uint8_t *)s->bytes + from, n);
}

static void noise(struct input *in)
{
	uint64_t v[4] = {draw(in, 0), draw(in, 0), draw(in, 0), draw(in, 0)};

	put_in(in, (const uint8_t *)v, 1 + draw(in, sizeof(v)));
}

/* Input i: a seed as it is, then mutations. */
static void input_make(struct input *in, unsigned i)
{
	static void (*const ways[])(struct input *) = {
		flip, flip, flip, number, number, cut, take_out, graft, noise};
	const struct seed *s;
	unsigned n;

	in->random = i;
	s = &seeds[i < n_seeds ? i : draw(in, n_seeds)];
	memcpy(in->bytes, s->bytes, s->n);
	in->n = s->n;
	if (i < n_seeds)
		return;
	for (n = 1 + (unsigned)draw(in, 4); n; n--)
		ways[draw(in, sizeof(ways) / sizeof(ways[0]))](in);
}

/* --- runs -------------------------------------------------------------- */

/* In memory of its own size, so that a byte too far is seen. */
static void run_one(const void *bytes, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);

	fuzz_must(copy);
	memcpy(copy, bytes, n);
	alarm(INPUT_SECONDS);
	LLVMFuzzerTestOneInput(copy, n);
	alarm(0);
	free(copy);
}

static void run_inputs(unsigned from, unsigned to, volatile unsigned *at)
{
	static struct input in;

	for (unsigned i = from; i < to; i++) {
		*at = i;
		input_make(&in, i);
		run_one(in.bytes, in.n);
	}
	*at = to;
}

/* Returns: 0, or 1 with the input named. */
static int run_in_child(const char *program, unsigned from, unsigned to)
{
	volatile unsigned *at = mmap(NULL, sizeof(*at), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = -1;
	pid_t pid;

	fuzz_must(at != MAP_FAILED);
	pid = fork();
	fuzz_must(pid >= 0);
	if (!pid) {
		run_inputs(from, to, at);
		seeds_free();
		exit(0); /* a sanitizer looks for leaks */
	}
	waitpid(pid, &status, 0);
	if (!status) {
		printf("%s: %u inputs\n", program, to - from);
		return 0;
	}
	if (*at == to)
		fprintf(stderr, "%s: leaks\n", program);
	else
		fprintf(stderr, "%s: status %#x at input %u: %s -n %u\n",
			program, (unsigned)status, *at, program, *at);
	return 1;
}

static int run_file(const char *path)
{
	static uint8_t bytes[INPUT_MAX];
	FILE *f = fopen(path, "re");
	size_t n = f ? fread(bytes, 1, sizeof(bytes), f) : 0;

	if (!f) {
		perror(path);
		return 1;
	}
	fclose(f);
	run_one(bytes, n);
	return 0;
}

/* The kept inputs: each once more, by itself, named where it breaks. */
static int run_kept(const char *program)
{
	const char *srcdir = getenv("srcdir"), *name = strrchr(program, '/');
	char path[PATH_MAX], file[PATH_MAX + 256];
	struct dirent *e;
	unsigned n = 0;
	int status = 0;
	DIR *d;

	snprintf(path, sizeof(path), "%s/tests/fuzz/kept/%s",
		 srcdir ? srcdir : ".", name ? name + 1 : program);
	d = opendir(path);
	while (d && !status && (e = readdir(d))) {
		pid_t pid = *e->d_name == '.' ? 0 : fork();

		if (*e->d_name == '.')
			continue;
		fuzz_must(pid >= 0);
		snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
		if (!pid)
			_exit(run_file(file));
		n++;
		waitpid(pid, &status, 0);
		if (status)
			fprintf(stderr, "%s: status %#x at %s\n", program,
				(unsigned)status, file);
	}
	if (d)
		closedir(d);
	if (n)
		printf("%s: %u kept inputs\n", program, n);
	return !!status;
}

int main(int argc, char **argv)
{
	unsigned n = 0;
	int rc = 0;

	begin();
	fuzz_seeds();
	if (argc == 1) {
		rc = run_in_child(argv[0], 0, n_seeds + fuzz_runs) ||
		     run_kept(argv[0]);
	} else if (argc == 3 && !strcmp(argv[1], "-n")) {
		n = (unsigned)strtoul(argv[2], NULL, 10);
		rc = run_in_child(argv[0], n, n + 1);
	} else if (argc == 3 && !strcmp(argv[1], "-r")) {
		n = (unsigned)strtoul(argv[2], NULL, 10);
		rc = run_in_child(argv[0], 0, n);
	} else if (argc == 3 && !strcmp(argv[1], "-w")) {
		seeds_write(argv[2]);
	} else {
		for (int i = 1; i < argc && !rc; i++)
			rc = run_file(argv[i]);
	}
	dir_remove();
	seeds_free();
	return rc;
}

#endif
