// SPDX-License-Identifier: MIT
/*
 * Blocks to and from memory of a GPU, by libkvfs:
 *
 *      gds_gpu DIR BYTES N [NAME]    N blocks of so many bytes, NAME0, ...
 *      gds_gpu DIR lost BYTES        a buffer whose card is lost between two of
 *                                    one that lives, in one call
 *      gds_gpu DIR file BYTES PATH   a file with the pattern of seed 5
 *      gds_gpu DIR speed [PATH]      GB/s of each way, 32 blocks of 4 MiB;
 *                                    and of a file that is as large
 *      gds_gpu library               fails where CUDA's is not found
 *
 * Prints what each step came to: how the memory is reached; how many blocks
 * were stored out of it; how many were read into it, and are as they were; the
 * same of parts of them; how many were copied to it out of the pool, and how
 * many of those were pinned for it ("-": the library does not tell). Of a file:
 * how it was read; as a whole, from the middle on, and at the end.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gds/kvfs.h"
#include "tests/helpers/pattern.h"

#define N_MAX 1000
#define GAP 4096 /* between blocks, in the memory */

static struct {
	int (*init)(unsigned flags);
	int (*device)(int *device, int i);
	int (*device_name)(char *name, int n, int device);
	int (*context)(void **context, int device);
	int (*use)(void *context);
	int (*alloc)(uint64_t *pointer, size_t n);
	int (*free)(uint64_t pointer);
	int (*to_device)(uint64_t to, const void *from, size_t n);
	int (*to_host)(void *to, uint64_t from, size_t n);
	unsigned (*pins)(void); /* the stand-in's alone */
} cu;

static uint64_t gpu;
static size_t block_bytes, stride, gpu_bytes;
static uint32_t n_blocks;
static char *host;
static char *names[N_MAX + 2];
static struct kvfs_move moves[N_MAX + 2];
static struct kvfs_buffer *buffer;
static struct kvfs *k;

static void die(const char *what, int err)
{
	printf("%s: %s\n", what, kvfs_strerror(err));
	exit(1);
}

static void must(const char *what, int result)
{
	if (!result)
		return;
	printf("%s: CUDA says %d\n", what, result);
	exit(1);
}

static void find(void *library, const char *name, void *function)
{
	void *found = dlsym(library, name);

	memcpy(function, &found, sizeof(found));
}

static void open_gpu(void)
{
	void *l = dlopen("libcuda.so.1", RTLD_NOW), *context;
	int device;

	if (!l)
		die("gpu", -ENODEV);
	find(l, "cuInit", &cu.init);
	find(l, "cuDeviceGet", &cu.device);
	find(l, "cuDeviceGetName", &cu.device_name);
	find(l, "cuDevicePrimaryCtxRetain", &cu.context);
	find(l, "cuCtxSetCurrent", &cu.use);
	find(l, "cuMemAlloc_v2", &cu.alloc);
	find(l, "cuMemFree_v2", &cu.free);
	find(l, "cuMemcpyHtoD_v2", &cu.to_device);
	find(l, "cuMemcpyDtoH_v2", &cu.to_host);
	if (strcmp(getenv("KVFS_GPU") ?: "", "real"))
		find(l, "kvfs_cuda_pins", &cu.pins);
	if (cu.init(0))
		return; /* libkvfs shall say so */
	must("device", cu.device(&device, 0));
	must("context", cu.context(&context, device));
	must("context", cu.use(context));
}

static void make_memory(void)
{
	stride = block_bytes + GAP - block_bytes % GAP;
	gpu_bytes = (n_blocks + 1) * stride;
	must("memory", cu.alloc(&gpu, gpu_bytes));
	host = malloc(gpu_bytes);
	if (!host)
		die("memory", -ENOMEM);
}

static void make_names(const char *prefix)
{
	char name[64];

	for (uint32_t i = 0; i < n_blocks; i++) {
		snprintf(name, sizeof(name), "%s%u", prefix, i);
		names[i] = strdup(name);
	}
}

static void aim(uint64_t offset)
{
	for (uint32_t i = 0; i < n_blocks; i++)
		moves[i] = (struct kvfs_move){.buffer = buffer,
					      .at = i * stride,
					      .offset = offset,
					      .length = block_bytes};
}

static struct kvfs_names some(uint32_t n)
{
	return (struct kvfs_names){.n = n, .paths = (const char *const *)names};
}

static void fill(void)
{
	for (uint32_t i = 0; i < n_blocks; i++)
		pattern_fill(host + i * stride, i, 0, block_bytes);
	must("copy", cu.to_device(gpu, host, gpu_bytes));
}

static void clear(void)
{
	memset(host, 0xee, gpu_bytes);
	must("copy", cu.to_device(gpu, host, gpu_bytes));
}

/* How many are what they should be, from this offset on; what lies between
 * them was not touched. */
static uint32_t same(uint64_t offset)
{
	uint32_t n = 0;

	must("copy", cu.to_host(host, gpu, gpu_bytes));
	for (uint32_t i = 0; i < n_blocks; i++) {
		const char *p = host + i * stride;
		size_t bytes = block_bytes - offset;
		size_t end = bytes;

		while (end < stride && (unsigned char)p[end] == 0xee)
			end++;
		n += !moves[i].error && moves[i].bytes == bytes &&
		     moves[i].size == block_bytes && end == stride &&
		     pattern_differs(p, i, offset, bytes) < 0;
	}
	return n;
}

static void print_errors(const char *what, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (moves[i].error)
			printf("%s of %s: %s\n", what, names[i],
			       strerrorname_np(-moves[i].error));
}

static void store(void)
{
	struct kvfs_names all = some(n_blocks);
	int n;

	fill();
	aim(0);
	n = kvfs_store_from(k, &all, 0, 0644, moves);
	if (n < 0)
		die("store", n);
	printf("stored %d\n", n);
	print_errors("store", n_blocks);
}

static void read_back(uint64_t offset)
{
	struct kvfs_names all = some(n_blocks);
	int n;

	clear();
	aim(offset);
	n = kvfs_read_into(k, &all, KVFS_FETCH, 0, moves);
	if (n < 0)
		die("read", n);
	printf("read %d, same %u\n", n, same(offset));
	print_errors("read", n_blocks);
}

/* A name that is not there, and one that has no room, between others. */
static void read_odd(void)
{
	char *first = names[0], *second = names[1], *third = names[2];
	struct kvfs_names all = some(3);

	aim(0);
	names[0] = "none";
	moves[1].at = gpu_bytes - 1;
	moves[1].length = 2;
	names[2] = first;
	moves[2] = moves[0];
	if (kvfs_read_into(k, &all, 0, 0, moves) != 1)
		printf("not one was read\n");
	printf("odd: %s %s %d\n", strerrorname_np(-moves[0].error),
	       strerrorname_np(-moves[1].error), moves[2].error);
	names[0] = first;
	names[1] = second;
	names[2] = third;
}

static void copy_pinned(void)
{
	struct kvfs_names all = some(n_blocks);
	struct kvfs_block *blocks = calloc(n_blocks, sizeof(*blocks));
	unsigned before = cu.pins ? cu.pins() : 0;
	int err = kvfs_pool_pin_gpu(k);
	int n = err ? err : kvfs_get(k, &all, KVFS_FETCH, 0, blocks);

	if (n < 0)
		die("pin", n);
	clear();
	aim(0);
	for (uint32_t i = 0; i < n_blocks; i++) {
		moves[i].error = blocks[i].error;
		moves[i].bytes = moves[i].size = blocks[i].bytes;
		if (!blocks[i].error)
			must("copy",
			     cu.to_device(gpu + i * stride, blocks[i].data,
					  blocks[i].bytes));
	}
	printf("copied %d, same %u, pinned ", n, same(0));
	if (cu.pins)
		printf("%u\n", cu.pins() - before);
	else
		printf("-\n");
	kvfs_put(k, blocks, n_blocks);
	free(blocks);
}

/* -- a card is lost -------------------------------------------------- */

static struct kvfs_buffer *also(void)
{
	struct kvfs_buffer *b;
	int err = kvfs_register_gpu(k, (void *)(uintptr_t)gpu, gpu_bytes, &b);

	if (err)
		die("register", err);
	return b;
}

static void print_flags(const char *what, int n)
{
	printf("%s %d:", what, n);
	for (uint32_t i = 0; i < n_blocks; i++)
		printf(" %d/%s%s", moves[i].error,
		       moves[i].flags & KVFS_STAGED ? "staged" : "direct",
		       moves[i].flags & KVFS_WAS_THERE ? ", was there" : "");
	putchar('\n');
}

static void aim_by(struct kvfs_buffer *around, struct kvfs_buffer *between)
{
	aim(0);
	moves[0].buffer = moves[2].buffer = around;
	moves[1].buffer = between;
}

/* What the user may have in buffers is used up: no ring can be made. */
static void store_without_room(const struct kvfs_names *one)
{
	static struct kvfs_buffer *all[2000];
	int n = 0, err = 0;

	while (n < 2000 && !(err = kvfs_buffer_new(k, 1, 0, &all[n])))
		n++;
	kvfs_store_from(k, one, 0, 0644, moves);
	printf("%s: %s\n", strerrorname_np(-err),
	       strerrorname_np(-moves[0].error));
	while (n)
		kvfs_unregister(all[--n]);
}

/* The first store finds the card lost, by a fault in the daemon. */
static void lose_one(void)
{
	struct kvfs_buffer *lost[] = {also(), also()}, *live;
	struct kvfs_names first = some(1), all = some(n_blocks);

	fill();
	aim(0);
	store_without_room(&first);
	kvfs_store_from(k, &first, 0, 0644, moves);
	live = also();
	printf("%s, then %s\n", kvfs_buffer_is_staged(buffer) ? "staged" : "?",
	       kvfs_buffer_is_staged(live) ? "?" : "direct");
	names[0] = strdup("another");
	aim_by(live, lost[0]);
	print_flags("stored", kvfs_store_from(k, &all, 0, 0644, moves));
	clear();
	aim_by(live, lost[1]);
	print_flags("read", kvfs_read_into(k, &all, 0, 0, moves));
	printf("same %u\n", same(0));
	kvfs_unregister(live);
	kvfs_unregister(lost[0]);
	kvfs_unregister(lost[1]);
}

/* -- a file ---------------------------------------------------------- */

#define FILE_SEED 5

static const char *way_of(uint32_t flags)
{
	return flags == (KVFS_CUFILE | KVFS_COMPAT) ? "cuFile, compat"
	       : flags == KVFS_CUFILE		    ? "cuFile"
	       : flags == KVFS_STAGED		    ? "staged"
						    : "?";
}

static void read_part(struct kvfs_file *f, uint64_t offset, uint64_t length,
		      uint64_t at)
{
	uint64_t size = block_bytes, end = offset + length;
	uint64_t want = offset >= size ? 0 : (end > size ? size : end) - offset;
	uint32_t flags = 0;
	int64_t n;

	memset(host, 0xee, gpu_bytes);
	must("copy", cu.to_device(gpu, host, gpu_bytes));
	n = kvfs_file_read(f, offset, length, buffer, at, &flags);
	if (n < 0) {
		printf("read: %s\n", strerrorname_np((int)-n));
		return;
	}
	must("copy", cu.to_host(host, gpu, gpu_bytes));
	end = at + want;
	if ((uint64_t)n != want ||
	    pattern_differs(host + at, FILE_SEED, offset, want) >= 0 ||
	    (at && (unsigned char)host[at - 1] != 0xee) ||
	    (unsigned char)host[end] != 0xee)
		printf("%s: %lld of %llu, not the same\n", way_of(flags),
		       (long long)n, (unsigned long long)want);
	else
		printf("%s: same\n", way_of(flags));
}

static void read_file(const char *path)
{
	struct kvfs_file *f;
	uint32_t flags;
	int err = kvfs_file_open(k, path, &f);

	if (err)
		die("file", err);
	read_part(f, 0, block_bytes, 0);
	read_part(f, block_bytes / 2 + 1, block_bytes / 3, 77);
	read_part(f, block_bytes - 9, 100, 1);
	read_part(f, block_bytes + 1, 100, 1);
	printf("odd: %s\n", strerrorname_np((int)-kvfs_file_read(
				    f, 0, 2, buffer, gpu_bytes - 1, &flags)));
	kvfs_file_close(f);
}

/* -- how fast ------------------------------------------------------- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void file_speed(const char *path)
{
	uint64_t bytes = n_blocks * block_bytes;
	uint32_t flags = 0;
	struct kvfs_file *f;
	double start;
	int64_t n = 0;
	int err = kvfs_file_open(k, path, &f);

	if (err)
		die("file", err);
	n = kvfs_file_read(f, 0, 1, buffer, 0, &flags); /* to get ready */
	start = now();
	if (n > 0)
		n = kvfs_file_read(f, 0, bytes, buffer, 0, &flags);
	if (n < 0)
		die("file", (int)n);
	printf("file, %s: %.2f GB/s\n", way_of(flags),
	       (double)n / 1e9 / (now() - start));
	kvfs_file_close(f);
}

static void speed(void)
{
	struct kvfs_names all = some(n_blocks);
	double start, gb = (double)n_blocks * (double)block_bytes / 1e9;
	const char *how = kvfs_buffer_is_staged(buffer) ? "staged" : "direct";

	aim(0);
	start = now();
	kvfs_store_from(k, &all, 0, 0644, moves);
	printf("store, %s: %.2f GB/s\n", how, gb / (now() - start));
	aim(0);
	start = now();
	kvfs_read_into(k, &all, 0, 0, moves);
	printf("read, %s: %.2f GB/s\n", how, gb / (now() - start));
	start = now();
	copy_pinned();
	printf("out of the pool: %.2f GB/s, mapping and comparing included\n",
	       gb / (now() - start));
}

int main(int argc, char **argv)
{
	bool fast = argc >= 3 && !strcmp(argv[2], "speed");
	bool file = argc == 5 && !strcmp(argv[2], "file");
	bool lost = argc == 4 && !strcmp(argv[2], "lost");
	char name[100] = "?";
	int err;

	if (argc == 2 && !strcmp(argv[1], "library"))
		return !dlopen("libcuda.so.1", RTLD_NOW);
	if (argc < 4 && !fast)
		return 2;
	block_bytes =
		fast ? 4 << 20 : strtoull(argv[file || lost ? 3 : 2], NULL, 0);
	n_blocks = fast	  ? 32
		   : file ? 1
		   : lost ? 3
			  : (uint32_t)atoi(argv[3]) % N_MAX;
	open_gpu();
	err = kvfs_open(argv[1], &k);
	if (err)
		die("open", err);
	make_memory();
	make_names(fast ? "speed" : argc > 4 ? argv[4] : "g");
	err = kvfs_register_gpu(k, (void *)(uintptr_t)gpu, gpu_bytes, &buffer);
	if (err)
		die("register", err);
	puts(kvfs_buffer_is_staged(buffer) ? "staged" : "direct");
	if (fast) {
		cu.device_name(name, sizeof(name), 0);
		printf("GPU: %s\n", name);
		fill();
		speed();
		if (argc > 3)
			file_speed(argv[3]);
	} else if (file) {
		read_file(argv[4]);
	} else if (lost) {
		lose_one();
	} else {
		store();
		read_back(0);
		read_back(block_bytes / 2);
		if (n_blocks > 1)
			read_odd();
		copy_pinned();
	}
	err = kvfs_unregister(buffer);
	if (err)
		die("unregister", err);
	kvfs_close(k);
	must("free", cu.free(gpu));
	free(host);
	return 0;
}
