// SPDX-License-Identifier: MIT
/*
 * RING by hand, as nobody should use it:
 *
 *      ring DIR refused           each way to ask for none; prints what is said
 *      ring DIR garbage           one wrong field at a time
 *      ring DIR hostile SEED MS   scribble over all that is shared, and punch
 *                                 holes, while the daemon works
 *      ring DIR full              its eventfd's counter is full, and waits
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fs/kvfs_ioctl.h"

#define ENTRIES 64u
#define DATA (1u << 20)

static const char *dir;
static struct kvfs_ring_shared *shared;
static struct kvfs_ring_submission *sq;
static struct kvfs_ring_completion *cq;
static char *data;
static int memory, submit_fd, complete_fd;

static struct kvfs_ioc_ring request(void)
{
	return (struct kvfs_ioc_ring){
		.head = {sizeof(struct kvfs_ioc_ring), KVFS_IOC_ABI},
		.memory_fd = memory,
		.submit_fd = submit_fd,
		.complete_fd = complete_fd,
		.entries = ENTRIES,
		.data_bytes = DATA,
	};
}

static size_t map_bytes(void)
{
	return kvfs_ring_data_at(ENTRIES) + DATA;
}

static int memory_new(unsigned flags, int seals, size_t bytes)
{
	int fd = memfd_create("ring", flags | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)bytes) ||
	    fcntl(fd, F_ADD_SEALS, seals)) {
		perror("memfd");
		exit(1);
	}
	return fd;
}

static void parts_new(void)
{
	char *at;

	memory = memory_new(0, F_SEAL_SHRINK, map_bytes());
	submit_fd = eventfd(0, 0);
	complete_fd = eventfd(0, 0);
	at = mmap(NULL, map_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, memory,
		  0);
	shared = (void *)at;
	sq = (void *)(at + KVFS_RING_SQ_AT);
	cq = (void *)(at + kvfs_ring_cq_at(ENTRIES));
	data = at + kvfs_ring_data_at(ENTRIES);
}

/* In a directory of its own; prints what is said. */
static int ask(const char *what, struct kvfs_ioc_ring r)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY);
	int err = ioctl(fd, KVFS_IOC_RING, &r) ? errno : 0;

	printf("%s %s\n", what, err ? strerrorname_np(err) : "ok");
	return fd;
}

static int ring_new(void)
{
	struct kvfs_ioc_ring r;
	int fd = open(dir, O_RDONLY | O_DIRECTORY);

	parts_new();
	r = request();
	if (fd < 0 || ioctl(fd, KVFS_IOC_RING, &r)) {
		perror("ring");
		exit(1);
	}
	return fd;
}

static void refused(void)
{
	struct kvfs_ioc_ring r;
	int fd;

#define TRY(what, change)            \
	do {                         \
		r = request();       \
		change;              \
		close(ask(what, r)); \
	} while (0)
	parts_new();
	TRY("flags", r.flags = 1);
	TRY("reserved", r.reserved = 1);
	TRY("size", r.head.size--);
	TRY("abi", r.head.abi = 9);
	TRY("no-entries", r.entries = 0);
	TRY("odd-entries", r.entries = 3);
	TRY("many-entries", r.entries = 2 * KVFS_RING_ENTRIES_MAX);
	TRY("no-data", r.data_bytes = 0);
	TRY("much-data", r.data_bytes = ~0ull);
	TRY("more-than-there-is", r.data_bytes++);
	TRY("no-such-fd", r.memory_fd = 999);
	TRY("negative-fd", r.memory_fd = -7);
	TRY("eventfd-as-memory", r.memory_fd = submit_fd);
	TRY("memory-as-eventfd", r.submit_fd = memory);
	TRY("directory-as-eventfd",
	    r.submit_fd = open(dir, O_RDONLY | O_DIRECTORY));
	TRY("null-as-eventfd", r.complete_fd = open("/dev/null", O_RDWR));
	TRY("unsealed", r.memory_fd = memory_new(0, F_SEAL_GROW, map_bytes()));
	TRY("read-only",
	    r.memory_fd = memory_new(0, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE,
				     map_bytes()));
	TRY("no-complete-fd", r.complete_fd = -1);
	fd = ask("first", request());
	r = request();
	printf("second %s\n",
	       ioctl(fd, KVFS_IOC_RING, &r) ? strerrorname_np(errno) : "ok");
	close(fd);
}

static void submit(const struct kvfs_ring_submission *s)
{
	uint32_t tail = shared->sq_tail.value;

	sq[tail % ENTRIES] = *s;
	__atomic_store_n(&shared->sq_tail.value, tail + 1, __ATOMIC_SEQ_CST);
	eventfd_write(submit_fd, 1);
}

static int completion(void)
{
	uint32_t head = shared->cq_head.value;
	int result;

	for (int i = 0; i < 10000; i++) {
		if (__atomic_load_n(&shared->cq_tail.value, __ATOMIC_ACQUIRE) !=
		    head) {
			result = cq[head % ENTRIES].result;
			__atomic_store_n(&shared->cq_head.value, head + 1,
					 __ATOMIC_RELEASE);
			return result;
		}
		if (shared->daemon.value & KVFS_RING_STOPPED)
			return -EPIPE;
		usleep(1000);
	}
	return -ETIME;
}

static struct kvfs_ring_submission exists(const char *name, uint64_t at)
{
	struct kvfs_ioc_find q = {.names = {.n = 1}};
	size_t bytes = sizeof(q) + strlen(name) + 1;

	q.head = (struct kvfs_ioc_head){(uint32_t)bytes, KVFS_IOC_ABI};
	memcpy(data + at, &q, sizeof(q));
	memcpy(data + at + sizeof(q), name, strlen(name) + 1);
	return (struct kvfs_ring_submission){
		.command = _IOC_NR(KVFS_IOC_EXISTS(0)),
		.at = at,
		.bytes = (uint32_t)bytes,
		.room = 512,
	};
}

static struct kvfs_ring_submission reserve(uint32_t n)
{
	struct kvfs_ioc_reserve q = {
		.head = {sizeof(q), KVFS_IOC_ABI},
		.n = n,
		.length = 1,
	};

	memcpy(data, &q, sizeof(q));
	return (struct kvfs_ring_submission){
		.command = _IOC_NR(KVFS_IOC_RESERVE(0)),
		.bytes = sizeof(q),
		.room = KVFS_RING_BYTES_MAX,
	};
}

static void told(const char *what, int result)
{
	printf("%s %s\n", what, result < 0 ? strerrorname_np(-result) : "ok");
}

static void garbage(void)
{
	struct kvfs_ring_submission s;

#define WRONG(what, change)               \
	do {                              \
		s = exists("a", 0);       \
		change;                   \
		submit(&s);               \
		told(what, completion()); \
	} while (0)
	ring_new();
	WRONG("right", (void)0);
	WRONG("command-0", s.command = 0);
	WRONG("command-ring", s.command = 16);
	WRONG("command-register", s.command = 12);
	WRONG("command-large", s.command |= 0x100);
	WRONG("flags", s.flags = 1);
	WRONG("at-the-end", s.at = DATA);
	WRONG("at-far", s.at = ~0ull);
	WRONG("at-last-byte", s.at = DATA - 511);
	WRONG("no-bytes", s.bytes = 0);
	WRONG("few-bytes", s.bytes = 7);
	WRONG("many-bytes", s.bytes = ~0u);
	WRONG("over-the-most", s.room = KVFS_RING_BYTES_MAX + 1);
	WRONG("the-most", s.room = KVFS_RING_BYTES_MAX);
	WRONG("no-room", s.room = 0);
	WRONG("little-room", s.room = 8);
	WRONG("many-frames", s = reserve(3000));
	WRONG("all-frames", s = reserve(~0u));
	WRONG("head", data[0]++);
	WRONG("name", data[sizeof(struct kvfs_ioc_find)] = 0);
	WRONG("right", (void)0);
	shared->sq_head.value = 77; /* the daemon's, which it does not read */
	WRONG("right", (void)0);
	shared->sq_tail.value += ENTRIES + 1;
	eventfd_write(submit_fd, 1);
	told("index", completion());
	ring_new();
	WRONG("right", (void)0);
	shared->cq_head.value -= ENTRIES;
	submit(&s);
	while (!(shared->daemon.value & KVFS_RING_STOPPED))
		usleep(1000);
	puts("seen stopped");
}

static uint64_t random_state;
static uint32_t rnd(void)
{
	random_state = random_state * 6364136223846793005u + 1;
	return (uint32_t)(random_state >> 33);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Good requests among it, so that the daemon gets far. */
static void scribble(void)
{
	uint32_t tail = shared->sq_tail.value, n = 1 + rnd() % 8;
	static const char *const names[] = {"a", "b", "none", "d/x"};

	for (uint32_t i = 0; i < n; i++, tail++) {
		struct kvfs_ring_submission *s = &sq[tail % ENTRIES];

		*s = exists(names[rnd() % 4], rnd() % 32 * 512);
		if (rnd() % 2)
			s->command = rnd() % 18;
		if (rnd() % 4 == 0)
			((char *)s)[rnd() % sizeof(*s)] = (char)rnd();
	}
	__atomic_store_n(&shared->sq_tail.value, tail, __ATOMIC_RELEASE);
	eventfd_write(submit_fd, 1);
	for (int i = 0; i < 64; i++)
		data[rnd() % 16384] = (char)rnd();
	shared->client.value = rnd();
	shared->cq_head.value = shared->cq_tail.value;
	if (rnd() % 64 == 0)
		fallocate(memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)(rnd() % 8 * 4096), 4096);
	if (rnd() % 256 == 0)
		((char *)shared)[rnd() % 4096] = (char)rnd();
}

static void hostile(unsigned ms)
{
	double end = now() + ms / 1e3;

	while (now() < end) {
		int fd = ring_new();

		for (int i = 0; i < 2000 && now() < end &&
				!(shared->daemon.value & KVFS_RING_STOPPED);
		     i++)
			scribble();
		close(fd);
		munmap(shared, map_bytes());
		close(memory);
		close(submit_fd);
		close(complete_fd);
	}
}

static void full(void)
{
	struct kvfs_ring_submission s;

	ring_new();
	eventfd_write(complete_fd, 0xfffffffffffffffe);
	for (int i = 0; i < 10; i++) {
		shared->client.value = KVFS_RING_WANT_EVENT;
		s = exists("a", 0);
		submit(&s);
		told("full", completion());
	}
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	dir = argv[1];
	if (!strcmp(argv[2], "refused"))
		refused();
	else if (!strcmp(argv[2], "garbage"))
		garbage();
	else if (!strcmp(argv[2], "full"))
		full();
	else if (argc > 4) {
		random_state = strtoull(argv[3], NULL, 0);
		hostile((unsigned)atoi(argv[4]));
	}
	return 0;
}
