// SPDX-License-Identifier: MIT
/*
 * Registered buffers by hand: REGISTER, UNREGISTER, GET, PUT.
 *
 *      buffer DIR WORD...
 *
 * The words are done one after the other on one descriptor of DIR; what prints
 * prints a line. AT and LENGTH are of the current buffer, which is also mapped
 * here.
 *
 *      memfd=BYTES huge=BYTES file=PATH rdonly wronly ring
 *              the current descriptor; a memfd has F_SEAL_SHRINK; rdonly,
 *              wronly: the same opened anew; ring: one of io_uring
 *      unsealed=BYTES          a memfd without
 *      seal=write|future       one more seal
 *      fd=NUMBER               no descriptor of ours
 *      register=OFFSET:LENGTH  prints w or r, or the errno; its number goes up
 *      again=N                 as many more of the same; prints how many went
 *      close                   the descriptor
 *      unregister              prints ok or the errno
 *      aside                   a thread does that at each line of stdin
 *      use=N                   the N-th buffer of those that were registered
 *      epoch                   the buffer's is another one
 *      fill=SEED:AT:LENGTH     the pattern
 *      check=SEED:AT:LENGTH[:OFFSET]   prints same, or where it differs
 *      get=FLAGS:OFFSET:LENGTH:AT:STRIDE:NAME[,NAME...]   prints LENGTH/SIZE
 *              of each, with ! where it came straight, or why not; or the
 *              errno of the call
 *      put=FLAGS:LENGTH:AT:STRIDE:NAME[,NAME...]          the same: FLAGS
 *      until=N get=...         that, until N of the names came, 1,000 times
 *      punch=AT:LENGTH         a hole
 *      spoil                   a thread writes into all of it from now on
 *      deadline=MS size=N abi=N reserved=N     of the requests that follow
 *      wait                    until stdin ends
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/kvfs_ioctl.h"
#include "tests/helpers/pattern.h"

static union {
	char bytes[KVFS_IOC_ROOM_MAX + 1];
	struct kvfs_ioc_head head;
	struct kvfs_ioc_register reg;
	struct kvfs_ioc_registered registered;
	struct kvfs_ioc_unregister unregister;
	struct kvfs_ioc_get get;
	struct kvfs_ioc_got got;
	struct kvfs_ioc_commit commit;
	struct kvfs_ioc_committed committed;
} buf;

static int dir_fd, mem_fd = -1;
static char *map;
static size_t map_bytes;
static struct kvfs_ioc_buffer all[5000], buffer;
static unsigned n_buffers, deadline, abi = KVFS_IOC_ABI, reserved;
static long size = -1;
static size_t used;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static int call(unsigned cmd)
{
	buf.head.size = size < 0 ? (uint32_t)used : (uint32_t)size;
	buf.head.abi = abi;
	return ioctl(dir_fd, cmd, &buf) ? errno : 0;
}

static void append(const void *bytes, size_t n)
{
	if (n > sizeof(buf.bytes) - used) {
		errno = E2BIG;
		die("request");
	}
	memcpy(buf.bytes + used, bytes, n);
	used += n;
}

static uint64_t number(char **words)
{
	char *word = strsep(words, ":");

	return word ? strtoull(word, NULL, 0) : 0;
}

/* -- descriptors ---------------------------------------------------- */

static void use_fd(int fd, size_t bytes)
{
	if (fd < 0)
		die("descriptor");
	mem_fd = fd;
	map_bytes = bytes;
	if (!bytes)
		return;
	if (ftruncate(fd, (off_t)bytes))
		die("ftruncate");
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
}

static void seal(unsigned seals)
{
	if (fcntl(mem_fd, F_ADD_SEALS, seals))
		die("seal");
}

static void make_memfd(unsigned flags, char *arg, bool sealed)
{
	use_fd(memfd_create("buffer", MFD_ALLOW_SEALING | MFD_CLOEXEC | flags),
	       number(&arg));
	if (sealed)
		seal(F_SEAL_SHRINK);
}

static void open_again(int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", mem_fd);
	use_fd(open(path, flags), 0);
}

/* -- buffers -------------------------------------------------------- */

static int add(uint64_t offset, uint64_t length)
{
	int err;

	used = sizeof(buf.reg);
	buf.reg = (struct kvfs_ioc_register){
		.flags = reserved,
		.fd = mem_fd,
		.offset = offset,
		.length = length,
	};
	err = call(KVFS_IOC_REGISTER);
	if (err)
		return err;
	all[n_buffers++] = buffer = buf.registered.buffer;
	return 0;
}

static void do_register(char *arg)
{
	uint64_t offset = number(&arg), length = number(&arg);
	int err = add(offset, length);

	puts(err					? strerrorname_np(err)
	     : buf.registered.flags & KVFS_IOC_WRITABLE ? "w"
							: "r");
}

static void do_again(char *arg)
{
	uint64_t n = number(&arg), done = 0;
	int err = 0;

	while (done < n && !(err = add(0, 1)))
		done++;
	printf("%" PRIu64 " %s\n", done, err ? strerrorname_np(err) : "all");
}

static void do_unregister(void)
{
	int err;

	used = sizeof(buf.unregister);
	buf.unregister = (struct kvfs_ioc_unregister){.buffer = buffer,
						      .reserved = reserved};
	err = call(KVFS_IOC_UNREGISTER);
	puts(err ? strerrorname_np(err) : "ok");
}

static void *unregister_aside(void *arg)
{
	char line[16];

	while (fgets(line, sizeof(line), stdin)) {
		struct kvfs_ioc_unregister u = {
			.head = {sizeof(u), KVFS_IOC_ABI}, .buffer = buffer};

		puts(ioctl(dir_fd, KVFS_IOC_UNREGISTER, &u)
			     ? strerrorname_np(errno)
			     : "ok");
	}
	return arg;
}

static void do_aside(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, unregister_aside, NULL);
}

static void do_check(char *arg)
{
	uint64_t seed = number(&arg), at = number(&arg), n = number(&arg);
	long wrong = pattern_differs(map + at, seed, number(&arg), n);

	if (wrong < 0)
		puts("same");
	else
		printf("differs at %ld\n", wrong);
}

static void do_fill(char *arg)
{
	uint64_t seed = number(&arg), at = number(&arg);

	pattern_fill(map + at, seed, 0, number(&arg));
}

static void do_punch(char *arg)
{
	off_t at = (off_t)number(&arg);

	if (fallocate(mem_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
		      (off_t)number(&arg)))
		die("punch");
}

static void *spoil(void *arg)
{
	for (volatile char *p = map;;
	     p = p == map + map_bytes - 1 ? map : p + 1)
		*p = (char)(*p + 1);
	return arg;
}

static void do_spoil(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, spoil, NULL);
}

/* -- GET, PUT ------------------------------------------------------- */

static uint32_t add_moves(char *names, uint64_t offset, uint64_t length,
			  uint64_t at, uint64_t stride)
{
	uint32_t n = 0;

	for (const char *p = names; p;
	     p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		append(&(struct kvfs_ioc_move){.offset = offset,
					       .length = length,
					       .at = at + n++ * stride,
					       .buffer = buffer},
		       sizeof(struct kvfs_ioc_move));
	for (char *name; (name = strsep(&names, ","));)
		append(name, strlen(name) + 1);
	return n;
}

static size_t room(size_t answer)
{
	return used > answer ? used : answer;
}

static void print_got(void)
{
	const struct kvfs_ioc_moved *m = kvfs_ioc_moves(&buf.got);

	for (uint32_t i = 0; i < buf.got.n; i++) {
		if (m[i].error)
			printf("%s", strerrorname_np((int)m[i].error));
		else
			printf("%" PRIu64 "/%" PRIu64 "%s", m[i].length,
			       m[i].size,
			       m[i].flags & KVFS_IOC_STRAIGHT ? "!" : "");
		putchar(i + 1 < buf.got.n ? ' ' : '\n');
	}
}

/* Returns: an errno. */
static int get(char *arg)
{
	unsigned flags = (unsigned)number(&arg);
	uint64_t offset = number(&arg), length = number(&arg);
	uint64_t at = number(&arg), stride = number(&arg);
	uint32_t n;

	used = sizeof(buf.get);
	n = add_moves(arg, offset, length, at, stride);
	buf.get = (struct kvfs_ioc_get){
		.flags = flags,
		.deadline_ms = deadline,
		.names = {.n = n, .reserved = (uint16_t)reserved},
	};
	return call(KVFS_IOC_GET(
		room(sizeof(buf.got) + n * sizeof(struct kvfs_ioc_moved))));
}

static void do_get(char *arg)
{
	int err = get(arg);

	if (err)
		puts(strerrorname_np(err));
	else
		print_got();
}

static void do_until(char *want, const char *get_word)
{
	uint32_t n = (uint32_t)number(&want);

	for (unsigned i = 0; i < 1000; i++) {
		char *word = strdup(get_word + strlen("get="));
		int err = get(word);

		free(word);
		if (!err && buf.got.n_got >= n)
			break;
		usleep(20000);
	}
	print_got();
}

static void do_put(char *arg)
{
	unsigned flags = (unsigned)number(&arg);
	uint64_t length = number(&arg), at = number(&arg);
	uint64_t stride = number(&arg);
	const struct kvfs_ioc_stored *out = (const void *)(&buf.committed + 1);
	uint32_t n;
	int err;

	used = sizeof(buf.commit);
	n = add_moves(arg, reserved, length, at, stride);
	buf.commit = (struct kvfs_ioc_commit){
		.flags = flags, .n = n, .mode = 0644, .names = {.n = n}};
	err = call(KVFS_IOC_PUT(room(sizeof(buf.committed) +
				     n * sizeof(struct kvfs_ioc_stored))));
	if (err) {
		puts(strerrorname_np(err));
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (out[i].error)
			printf("%s", strerrorname_np((int)out[i].error));
		else
			printf("%u", out[i].flags);
		putchar(i + 1 < n ? ' ' : '\n');
	}
}

/* -------------------------------------------------------------------------- */

/* Returns: whether the word was one of these. */
static bool do_descriptor(const char *word, char *arg)
{
	if (!strcmp(word, "memfd"))
		make_memfd(0, arg, true);
	else if (!strcmp(word, "huge"))
		make_memfd(MFD_HUGETLB, arg, true);
	else if (!strcmp(word, "unsealed"))
		make_memfd(0, arg, false);
	else if (!strcmp(word, "file"))
		use_fd(open(arg, O_RDONLY), 0);
	else if (!strcmp(word, "rdonly"))
		open_again(O_RDONLY);
	else if (!strcmp(word, "wronly"))
		open_again(O_WRONLY);
	else if (!strcmp(word, "seal"))
		seal(*arg == 'w' ? F_SEAL_WRITE : F_SEAL_FUTURE_WRITE);
	else if (!strcmp(word, "unmap"))
		munmap(map, map_bytes);
	else if (!strcmp(word, "fd"))
		mem_fd = atoi(arg);
	else if (!strcmp(word, "close"))
		close(mem_fd);
	else
		return false;
	return true;
}

static bool do_option(const char *word, char *arg)
{
	if (!strcmp(word, "use"))
		buffer = all[number(&arg)];
	else if (!strcmp(word, "epoch"))
		buffer.epoch++;
	else if (!strcmp(word, "deadline"))
		deadline = (unsigned)number(&arg);
	else if (!strcmp(word, "size"))
		size = strtol(arg, NULL, 0);
	else if (!strcmp(word, "abi"))
		abi = (unsigned)number(&arg);
	else if (!strcmp(word, "reserved"))
		reserved = (unsigned)number(&arg);
	else if (!strcmp(word, "wait"))
		while (getchar() != EOF)
			;
	else
		return false;
	return true;
}

static bool do_memory(const char *word, char *arg)
{
	if (!strcmp(word, "fill"))
		do_fill(arg);
	else if (!strcmp(word, "check"))
		do_check(arg);
	else if (!strcmp(word, "punch"))
		do_punch(arg);
	else if (!strcmp(word, "spoil"))
		do_spoil();
	else
		return false;
	return true;
}

static bool do_call(const char *word, char *arg)
{
	if (!strcmp(word, "register"))
		do_register(arg);
	else if (!strcmp(word, "again"))
		do_again(arg);
	else if (!strcmp(word, "unregister"))
		do_unregister();
	else if (!strcmp(word, "aside"))
		do_aside();
	else if (!strcmp(word, "get"))
		do_get(arg);
	else if (!strcmp(word, "put"))
		do_put(arg);
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3)
		return 2;
	dir_fd = open(argv[1], O_RDONLY | O_DIRECTORY);
	if (dir_fd < 0)
		die(argv[1]);
	for (int i = 2; i < argc; i++) {
		char *arg = argv[i], *word = strsep(&arg, "=");

		if (!strcmp(word, "until") && i + 1 < argc)
			do_until(arg, argv[++i]);
		else if (!do_descriptor(word, arg) && !do_option(word, arg) &&
			 !do_memory(word, arg) && !do_call(word, arg))
			return 2;
	}
	return 0;
}
