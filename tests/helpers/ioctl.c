// SPDX-License-Identifier: MIT
/*
 * The ioctls of <kvfs/ioctl.h> by hand, also as nobody should call them:
 *
 *      ioctl [OPTION...] DIR version
 *      ioctl [OPTION...] DIR exists|match|touch|evict|prefetch [NAME...]
 *      ioctl [OPTION...] DIR locate [NAME...]
 *      ioctl [OPTION...] DIR store LENGTH NAME...
 *
 * A name "-": names from stdin. store: the frames are filled with the pattern
 * of seeds 0, 1, ..., and stored.
 *
 *      -d BYTES   names are digests in hex of so many bytes
 *      -x SUFFIX  of digests
 *      -f FLAGS   -a ABI   -n COUNT   -s SIZE   -r RESERVED (each of them)
 *      -R ROOM    -c NUMBER of the command instead of its own
 *      -F         DIR may be a file
 *      -t MS      locate: the deadline
 *      -k         store: the frames stay mapped, and are spoilt afterwards
 *      -p         store: the first name is a block that is continued
 *      -A         store: abort instead of commit
 *      -M DIR     store: .kvfs/frames of the mount
 *      -o BYTES   store: so many more are written past the end of each frame,
 *                 or until one is refused
 *      -D N       locate: on N open directories; prints how many pins there are
 *      -w         locate, store: keep the directory open and obey stdin,
 *                 until it ends:
 *                 "unpin I..." the blocks by their place; prints how many
 *                 pins there were
 *                 "next N I... - NAME..." (locate) another LOCATE that gives
 *                 those back and says that there are N of them; prints as
 *                 locate does, or the errno
 *
 * Prints: version: features, room, names, version. exists, match: flags, names,
 * present, prefix, the bitmap as 0 and 1, and NODE:PREFIX of each node. Or the
 * errno's text, and fails.
 * store: FLAGS of each that was stored, or why not.
 * locate: flags, names, located, and FRAME:LENGTH of each block, or why not.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/kvfs_ioctl.h"
#include "tests/helpers/pattern.h"

static union {
	char bytes[KVFS_IOC_ROOM_MAX + 1];
	struct kvfs_ioc_head head;
	struct kvfs_ioc_version version;
	struct kvfs_ioc_find find;
	struct kvfs_ioc_found found;
	struct kvfs_ioc_locate locate;
	struct kvfs_ioc_located located;
	struct kvfs_ioc_pins pins;
	struct kvfs_ioc_reserve reserve;
	struct kvfs_ioc_commit commit;
	struct kvfs_ioc_committed committed;
} buf;

static struct {
	unsigned digest, flags, reserved, cmd;
	unsigned abi;
	const char *suffix;
	long n, size, room, over;
	unsigned deadline, dirs;
	bool file, wait, keep, parent, abort;
	const char *frames;
} opt = {.abi = KVFS_IOC_ABI, .suffix = "", .n = -1, .size = -1, .room = -1};

static size_t used; /* bytes of the request */
static uint32_t n_names;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
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

static void add_name(const char *name)
{
	n_names++;
	if (!opt.digest) {
		append(name, strlen(name) + 1);
		return;
	}
	for (unsigned i = 0; i < opt.digest; i++) {
		unsigned byte = 0;

		sscanf(name + 2 * i, "%2x", &byte);
		append(&(uint8_t){(uint8_t)byte}, 1);
	}
}

static void add_lines(void)
{
	char line[1024];

	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		add_name(line);
	}
}

static void add_names(char **names)
{
	append(opt.suffix, strlen(opt.suffix));
	for (; *names; names++)
		if (!strcmp(*names, "-"))
			add_lines();
		else
			add_name(*names);
}

static struct kvfs_ioc_names names_head(void)
{
	return (struct kvfs_ioc_names){
		.n = opt.n < 0 ? n_names : (uint32_t)opt.n,
		.digest_bytes = (uint8_t)opt.digest,
		.suffix_bytes = (uint8_t)strlen(opt.suffix),
		.reserved = opt.reserved >> 16 & 0xffff,
	};
}

static size_t room_for(size_t answer)
{
	return opt.room >= 0 ? (size_t)opt.room : used > answer ? used : answer;
}

static int call(const char *dir, unsigned cmd)
{
	int fd = open(dir, O_RDONLY | (opt.file ? 0 : O_DIRECTORY));

	if (fd < 0)
		die(dir);
	buf.head.size = opt.size < 0 ? (uint32_t)used : (uint32_t)opt.size;
	buf.head.abi = opt.abi;
	if (ioctl(fd, opt.cmd ? opt.cmd : cmd, &buf))
		die("ioctl");
	return fd;
}

static void version(const char *dir)
{
	used = sizeof(buf.version);
	buf.version.names_max = opt.reserved;
	call(dir, KVFS_IOC_VERSION);
	printf("%" PRIx64 " %u %u %s\n", buf.version.features,
	       buf.version.room_max, buf.version.names_max,
	       buf.version.version);
}

static void print_found(void)
{
	const struct kvfs_ioc_node *nodes = kvfs_ioc_nodes(&buf.found);

	printf("%x %u %u %u ", buf.found.flags, buf.found.n,
	       buf.found.n_present, buf.found.n_prefix);
	for (uint32_t i = 0; i < buf.found.n; i++)
		putchar('0' + kvfs_ioc_is_there(&buf.found, i));
	for (uint32_t i = 0; i < buf.found.n_nodes; i++)
		printf(" %s:%u%s", nodes[i].name, nodes[i].n_prefix,
		       nodes[i].flags & KVFS_IOC_SELF ? ":self" : "");
	putchar('\n');
}

static void find(const char *dir, char **names, unsigned cmd)
{
	size_t answer = sizeof(buf.found) +
			(cmd == KVFS_IOC_MATCH(0) ? 4096 : 256),
	       room;

	used = sizeof(buf.find);
	add_names(names);
	buf.find.flags = opt.flags;
	buf.find.reserved = opt.reserved & 0xffff;
	buf.find.names = names_head();
	room = room_for(answer);
	call(dir, cmd | (unsigned)room << _IOC_SIZESHIFT);
	print_found();
}

static struct kvfs_ioc_pin pins[1000];

static void print_located(void)
{
	const struct kvfs_ioc_block *b = kvfs_ioc_blocks(&buf.located);

	printf("%x %u %u", buf.located.flags, buf.located.n,
	       buf.located.n_located);
	for (uint32_t i = 0; i < buf.located.n; i++) {
		pins[i] = (struct kvfs_ioc_pin){b[i].frame, b[i].epoch};
		if (b[i].error)
			printf(" %s", strerrorname_np((int)b[i].error));
		else
			printf(" %u:%" PRIu64, b[i].frame, b[i].length);
	}
	putchar('\n');
	fflush(stdout);
}

static void unpin(int fd, char *words)
{
	uint32_t n = 0;

	used = sizeof(buf.pins);
	for (char *w = strtok(words, " \n"); w; w = strtok(NULL, " \n")) {
		append(&pins[atoi(w) % 1000], sizeof(*pins));
		n++;
	}
	buf.pins = (struct kvfs_ioc_pins){
		.head = {(uint32_t)used, KVFS_IOC_ABI}, .n = n};
	if (ioctl(fd, KVFS_IOC_UNPIN(used), &buf))
		die("unpin");
	printf("%u\n", buf.pins.n);
	fflush(stdout);
}

static void locate_on_many(const char *dir, unsigned cmd)
{
	static __typeof__(buf) request;
	unsigned n_pins = 0;

	request = buf;
	for (unsigned i = 0; i < opt.dirs; i++) {
		buf = request;
		call(dir, cmd);
		n_pins += buf.located.n_located;
	}
	printf("%u\n", n_pins);
}

static void locate_next(int fd, char *words)
{
	char *w = strtok(words, " \n");
	uint32_t n_unpin = (uint32_t)atoi(w);

	used = sizeof(buf.locate);
	n_names = 0;
	while ((w = strtok(NULL, " \n")) && strcmp(w, "-"))
		append(&pins[atoi(w) % 1000], sizeof(*pins));
	while ((w = strtok(NULL, " \n")))
		add_name(w);
	buf.locate = (struct kvfs_ioc_locate){
		.head = {(uint32_t)used, KVFS_IOC_ABI},
		.n_unpin = n_unpin,
		.names = names_head(),
	};
	if (!ioctl(fd, KVFS_IOC_LOCATE(KVFS_IOC_ROOM_MAX), &buf)) {
		print_located();
		return;
	}
	puts(strerrorname_np(errno));
	fflush(stdout);
}

static void locate(const char *dir, char **names)
{
	char line[1024];
	size_t room;
	int fd;

	used = sizeof(buf.locate);
	add_names(names);
	buf.locate.flags = opt.flags;
	buf.locate.deadline_ms = opt.deadline;
	buf.locate.names = names_head();
	room = room_for(sizeof(buf.located) +
			n_names * sizeof(struct kvfs_ioc_block));
	if (opt.dirs) {
		locate_on_many(dir, KVFS_IOC_LOCATE(room));
		return;
	}
	fd = call(dir, KVFS_IOC_LOCATE(room));
	print_located();
	while (opt.wait && fgets(line, sizeof(line), stdin))
		if (!strncmp(line, "unpin ", 6))
			unpin(fd, line + 6);
		else if (!strncmp(line, "next ", 5))
			locate_next(fd, line + 5);
}

static char *map_frame(uint32_t frame, size_t length)
{
	char path[4096], *map;
	int fd;

	snprintf(path, sizeof(path), "%s/%u", opt.frames, frame);
	fd = open(path, O_RDWR);
	if (fd < 0)
		die(path);
	map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		die("mmap");
	close(fd);
	return map;
}

static void write_over(uint32_t frame, uint64_t length)
{
	static const char bytes[1 << 20] = {1};
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%u", opt.frames, frame);
	fd = open(path, O_RDWR);
	if (fd < 0)
		die(path);
	for (long at = 0; at < opt.over; at += (long)sizeof(bytes))
		if (pwrite(fd, bytes, sizeof(bytes), (off_t)length + at) < 0) {
			fprintf(stderr, "%s\n", strerrorname_np(errno));
			break;
		}
	close(fd);
}

static int reserve(const char *dir, uint32_t n, uint64_t length)
{
	int fd;

	used = sizeof(buf.reserve);
	buf.reserve.flags = opt.reserved;
	buf.reserve.n = n;
	buf.reserve.length = length;
	fd = call(dir, KVFS_IOC_RESERVE(
			       room_for(sizeof(buf.pins) + n * sizeof(*pins))));
	memcpy(pins, &buf.pins + 1, n * sizeof(*pins));
	return fd;
}

/* Not the place for the first call's options. */
static void again(int fd, unsigned cmd)
{
	buf.head = (struct kvfs_ioc_head){(uint32_t)used, KVFS_IOC_ABI};
	if (ioctl(fd, cmd, &buf))
		die("ioctl");
}

static void commit(int fd, uint32_t n, uint64_t length, char **names)
{
	const struct kvfs_ioc_stored *out;

	used = sizeof(buf.commit);
	for (uint32_t i = 0; i < n; i++)
		append(&(struct kvfs_ioc_store){pins[i], length},
		       sizeof(struct kvfs_ioc_store));
	add_names(names);
	buf.commit.flags = opt.flags | (opt.parent ? KVFS_IOC_PARENT : 0);
	buf.commit.n = n;
	buf.commit.mode = 0644;
	buf.commit.reserved = 0;
	buf.commit.names = names_head();
	again(fd, KVFS_IOC_COMMIT(used));
	out = (const void *)(&buf.committed + 1);
	for (uint32_t i = 0; i < n; i++)
		if (out[i].error)
			printf("%s ", strerrorname_np((int)out[i].error));
		else
			printf("%u ", out[i].flags);
	putchar('\n');
}

static void abort_all(int fd, uint32_t n)
{
	used = sizeof(buf.pins);
	append(pins, n * sizeof(*pins));
	buf.pins.flags = 0;
	buf.pins.n = n;
	again(fd, KVFS_IOC_ABORT(used));
	printf("%u\n", buf.pins.n);
}

static void store(const char *dir, uint64_t length, char **names)
{
	static char *maps[1000];
	uint32_t n = 0;
	int fd;

	while (names[n + opt.parent])
		n++;
	fd = reserve(dir, n, length);
	for (uint32_t i = 0; i < n; i++) {
		maps[i] = map_frame(pins[i].frame, length);
		pattern_fill(maps[i], i, 0, length);
		if (opt.over)
			write_over(pins[i].frame, length);
		if (!opt.keep)
			munmap(maps[i], length);
		else if (msync(maps[i], length, MS_SYNC))
			die("msync");
	}
	if (opt.abort)
		abort_all(fd, n);
	else
		commit(fd, n, length, names);
	for (uint32_t i = 0; opt.keep && i < n; i++)
		memset(maps[i], 0xee, length);
	fflush(stdout);
	while (opt.wait && getchar() != EOF)
		;
}

static void take_option(int o)
{
	if (o == 'x')
		opt.suffix = optarg;
	else if (o == 'F')
		opt.file = true;
	else if (o == 'k')
		opt.keep = true;
	else if (o == 'p')
		opt.parent = true;
	else if (o == 'A')
		opt.abort = true;
	else if (o == 'M')
		opt.frames = optarg;
	else if (o == 'w')
		opt.wait = true;
	else if (o == 'n')
		opt.n = strtol(optarg, NULL, 0);
	else if (o == 's')
		opt.size = strtol(optarg, NULL, 0);
	else if (o == 'o')
		opt.over = strtol(optarg, NULL, 0);
	else if (o == 'R')
		opt.room = strtol(optarg, NULL, 0);
	else
		*(o == 'd'   ? &opt.digest
		  : o == 'f' ? &opt.flags
		  : o == 'a' ? &opt.abi
		  : o == 'r' ? &opt.reserved
		  : o == 't' ? &opt.deadline
		  : o == 'D' ? &opt.dirs
			     : &opt.cmd) = (unsigned)strtoul(optarg, NULL, 0);
}

static unsigned find_command(const char *name)
{
	return !strcmp(name, "exists")	   ? KVFS_IOC_EXISTS(0)
	       : !strcmp(name, "match")	   ? KVFS_IOC_MATCH(0)
	       : !strcmp(name, "touch")	   ? KVFS_IOC_TOUCH(0)
	       : !strcmp(name, "evict")	   ? KVFS_IOC_EVICT(0)
	       : !strcmp(name, "prefetch") ? KVFS_IOC_PREFETCH(0)
					   : 0;
}

int main(int argc, char **argv)
{
	int o;

	while ((o = getopt(argc, argv, "+d:x:f:a:n:s:r:R:c:t:D:M:o:FwkpA")) !=
	       -1) {
		if (o == '?')
			return 2;
		take_option(o);
	}
	argv += optind;
	if (argc - optind < 2)
		return 2;
	if (!strcmp(argv[1], "version"))
		version(argv[0]);
	else if (find_command(argv[1]))
		find(argv[0], argv + 2, find_command(argv[1]));
	else if (!strcmp(argv[1], "locate"))
		locate(argv[0], argv + 2);
	else if (!strcmp(argv[1], "store") && argc - optind > 3)
		store(argv[0], strtoull(argv[2], NULL, 0), argv + 3);
	else
		return 2;
	return 0;
}
