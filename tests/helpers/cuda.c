// SPDX-License-Identifier: MIT
/*
 * A stand-in for NVIDIA's libcuda.so.1: the calls that libkvfs makes, and those
 * by which a test makes memory of a "GPU" and looks into it. The memory is a
 * memfd; where its pointer points nobody can read, as with a GPU's. A copy on
 * a stream happens as late as it may, when the stream is waited for.
 *
 *      KVFS_CUDA_FAIL=NAME:N    the N-th call of cuNAME fails
 *      KVFS_CUDA_NO_GPU=1       cuInit finds none
 *      KVFS_CUDA_EXPORT=memfd   memory is exported, and the daemon reaches it;
 *                      =other   as something that it does not take
 *                      =readonly  as the first, but only to read it
 *                      =dri     as a dma-buf, of no memory of its own
 *                      =dmabuf  as what stands in for one (dmabuf.c); made
 *                               after a template for mkstemp, KVFS_CUDA_FILE
 *
 * cuFile's calls are in cufile.c.
 *
 * What would be an error of the caller's ends the process. What he still has
 * when the library is unloaded is told on stderr.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/helpers/cuda.h"

enum {
	OK,
	INVALID = 1,
	NO_MEMORY = 2,
	NO_DEVICE = 100,
	ILLEGAL_ADDRESS = 700,
	NOT_SUPPORTED = 801,
};
#define MEMORIES_MAX 16
#define COPIES_MAX 256
#define STREAMS_MAX 64
#define PINS_MAX 1024

struct memory {
	uint64_t pointer;
	size_t bytes;
	char *at; /* its bytes */
	int fd;
};

struct copy {
	void *to;
	const void *from;
	size_t n;
};

struct stream {
	int used;
	unsigned n;
	struct copy copies[COPIES_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct memory memories[MEMORIES_MAX];
static struct stream streams[STREAMS_MAX];
static void *pins[PINS_MAX];
static int the_context;
static _Thread_local unsigned depth; /* contexts of this thread */

void cuda_broken(const char *what)
{
	fprintf(stderr, "cuda stand-in: %s\n", what);
	abort();
}

int cuda_fails(const char *name)
{
	static unsigned n_calls;
	const char *fail = getenv("KVFS_CUDA_FAIL");
	size_t n = strlen(name);

	if (!fail || strncmp(fail, name, n) || fail[n] != ':')
		return 0;
	return __atomic_add_fetch(&n_calls, 1, __ATOMIC_RELAXED) ==
	       (unsigned)atoi(fail + n + 1);
}

static struct memory *memory_of(uint64_t pointer)
{
	for (unsigned i = 0; i < MEMORIES_MAX; i++)
		if (pointer >= memories[i].pointer &&
		    pointer - memories[i].pointer < memories[i].bytes)
			return &memories[i];
	return NULL;
}

char *cuda_bytes(uint64_t pointer, size_t n)
{
	struct memory *m = memory_of(pointer);
	uint64_t at = m ? pointer - m->pointer : 0;

	if (!m || n > m->bytes - at)
		cuda_broken("a copy outside of the GPU's memory");
	return m->at + at;
}

int cuda_has_context(void)
{
	return depth > 0;
}

/* -- for tests ------------------------------------------------------ */

int cuDeviceGet(int *device, int i)
{
	*device = i;
	return i ? NO_DEVICE : OK;
}

int cuDeviceGetName(char *name, int n, int device)
{
	(void)device;
	snprintf(name, (size_t)n, "stand-in");
	return OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
	(void)device;
	*context = &the_context;
	return OK;
}

int cuCtxSetCurrent(void *context)
{
	depth = !!context;
	return OK;
}

static int exported_as(const char *what)
{
	const char *as = getenv("KVFS_CUDA_EXPORT");

	return as && !strcmp(as, what);
}

static int new_file(void)
{
	const char *template = getenv("KVFS_CUDA_FILE");
	char path[256];
	int fd;

	if (!exported_as("dmabuf")) {
		fd = memfd_create("gpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
		return fd;
	}
	snprintf(path, sizeof(path), "%s", template ? template : "");
	fd = mkostemp(path, O_CLOEXEC);
	unlink(path);
	return fd;
}

/* What <drm/drm.h> has, which is not everywhere. */
struct dumb {
	uint32_t height, width, bpp, flags, handle, pitch;
	uint64_t size;
};
struct prime {
	uint32_t handle, flags;
	int32_t fd;
};
#define CREATE_DUMB _IOWR('d', 0xb2, struct dumb)
#define TO_FD _IOWR('d', 0x2d, struct prime)

/* Of the kernel's driver for no graphics card (vgem). */
static int new_dmabuf(size_t bytes)
{
	int card = open("/dev/dri/card0", O_RDWR | O_CLOEXEC);
	struct dumb dumb = {.height = (uint32_t)(bytes >> 12) + 1,
			    .width = 1024,
			    .bpp = 32};
	struct prime prime = {.flags = O_CLOEXEC | O_RDWR};

	if (ioctl(card, CREATE_DUMB, &dumb))
		cuda_broken("no memory of /dev/dri/card0");
	prime.handle = dumb.handle;
	if (ioctl(card, TO_FD, &prime))
		cuda_broken("it is not exported");
	close(card);
	return prime.fd;
}

int cuMemAlloc_v2(uint64_t *pointer, size_t bytes)
{
	for (unsigned i = 0; i < MEMORIES_MAX; i++) {
		struct memory *m = &memories[i];
		void *nobody;

		if (m->bytes)
			continue;
		m->fd = new_file();
		if (ftruncate(m->fd, (off_t)bytes))
			return NO_MEMORY;
		m->at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
			     m->fd, 0);
		nobody = mmap(NULL, bytes, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		*pointer = m->pointer = (uint64_t)(uintptr_t)nobody;
		m->bytes = bytes;
		return OK;
	}
	return NO_MEMORY;
}

int cuMemFree_v2(uint64_t pointer)
{
	struct memory *m = memory_of(pointer);

	if (!m)
		return INVALID;
	munmap(m->at, m->bytes);
	munmap((void *)(uintptr_t)m->pointer, m->bytes);
	close(m->fd);
	memset(m, 0, sizeof(*m));
	return OK;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t n)
{
	memcpy(cuda_bytes(to, n), from, n);
	return OK;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t n)
{
	memcpy(to, cuda_bytes(from, n), n);
	return OK;
}

/* -- what libkvfs calls
 * -------------------------------------------------------- */

int cuInit(unsigned flags)
{
	return flags || getenv("KVFS_CUDA_NO_GPU") || cuda_fails("Init")
		       ? NO_DEVICE
		       : OK;
}

int cuPointerGetAttribute(void *data, int attribute, uint64_t pointer)
{
	struct memory *m = memory_of(pointer);

	if (!m || cuda_fails("PointerGetAttribute"))
		return INVALID;
	if (attribute == 1)
		*(void **)data = &the_context;
	else if (attribute == 2)
		*(unsigned *)data = 2;
	else if (attribute == 11)
		*(uint64_t *)data = m->pointer;
	else if (attribute == 12)
		*(size_t *)data = m->bytes;
	else
		return INVALID;
	return OK;
}

int cuCtxPushCurrent_v2(void *context)
{
	if (context != &the_context)
		cuda_broken("not a context");
	if (cuda_fails("CtxPushCurrent"))
		return INVALID;
	depth++;
	return OK;
}

int cuCtxPopCurrent_v2(void **context)
{
	if (!depth)
		cuda_broken("no context to pop");
	depth--;
	*context = &the_context;
	return OK;
}

static struct stream *stream_of(void *stream)
{
	struct stream *s = stream;

	if (!depth)
		cuda_broken("no context is current");
	if (s < streams || s >= streams + STREAMS_MAX || !s->used)
		cuda_broken("no stream of this context");
	return s;
}

int cuStreamCreate(void **stream, unsigned flags)
{
	if (!depth || flags != 1)
		cuda_broken("cuStreamCreate");
	if (cuda_fails("StreamCreate"))
		return NO_MEMORY;
	for (unsigned i = 0; i < STREAMS_MAX; i++)
		if (!streams[i].used) {
			streams[i].used = 1;
			*stream = &streams[i];
			return OK;
		}
	return NO_MEMORY;
}

int cuStreamDestroy_v2(void *stream)
{
	struct stream *s = stream_of(stream);

	if (s->n)
		cuda_broken("a stream with copies under way is destroyed");
	s->used = 0;
	return OK;
}

int cuStreamSynchronize(void *stream)
{
	struct stream *s = stream_of(stream);
	int failed = cuda_fails("StreamSynchronize");

	for (unsigned i = 0; i < s->n && !failed; i++)
		memcpy(s->copies[i].to, s->copies[i].from, s->copies[i].n);
	s->n = 0;
	return failed ? ILLEGAL_ADDRESS : OK;
}

static int queue(void *stream, void *to, const void *from, size_t n)
{
	struct stream *s = stream_of(stream);

	if (s->n == COPIES_MAX)
		cuda_broken("too many copies");
	s->copies[s->n++] = (struct copy){to, from, n};
	return OK;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *stream)
{
	if (cuda_fails("MemcpyHtoDAsync"))
		return ILLEGAL_ADDRESS;
	return queue(stream, cuda_bytes(to, n), from, n);
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *stream)
{
	if (cuda_fails("MemcpyDtoHAsync"))
		return ILLEGAL_ADDRESS;
	return queue(stream, to, cuda_bytes(from, n), n);
}

static void **pin_of(void *p)
{
	for (unsigned i = 0; i < PINS_MAX; i++)
		if (pins[i] == p)
			return &pins[i];
	return NULL;
}

int cuMemHostRegister_v2(void *p, size_t n, unsigned flags)
{
	void **free_pin;
	int err = NO_MEMORY;

	if (!n || !(flags & 1))
		cuda_broken("cuMemHostRegister");
	if (cuda_fails("MemHostRegister"))
		return err;
	pthread_mutex_lock(&lock);
	free_pin = pin_of(NULL);
	if (pin_of(p))
		cuda_broken("registered twice");
	if (free_pin) {
		*free_pin = p;
		err = OK;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

int cuMemHostUnregister(void *p)
{
	void **pin;

	pthread_mutex_lock(&lock);
	pin = p ? pin_of(p) : NULL;
	if (!pin)
		cuda_broken("it was not registered");
	*pin = NULL;
	pthread_mutex_unlock(&lock);
	return OK;
}

static int export(int fd, size_t bytes)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return exported_as("dri")	 ? new_dmabuf(bytes)
	       : exported_as("other")	 ? open("/dev/null", O_RDWR | O_CLOEXEC)
	       : exported_as("readonly") ? open(path, O_RDONLY | O_CLOEXEC)
					 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

int cuMemGetHandleForAddressRange(void *handle, uint64_t pointer, size_t n,
				  int type, unsigned long long flags)
{
	const char *as = getenv("KVFS_CUDA_EXPORT");
	struct memory *m = memory_of(pointer);

	if (!m || type != 1 || flags || n > m->bytes)
		cuda_broken("cuMemGetHandleForAddressRange");
	if (!as || cuda_fails("MemGetHandleForAddressRange"))
		return NOT_SUPPORTED;
	*(int *)handle = export(m->fd, n);
	return OK;
}

/* How many memories are pinned: for tests. */
unsigned kvfs_cuda_pins(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PINS_MAX; i++)
		n += !!pins[i];
	return n;
}

__attribute__((destructor)) static void tell(void)
{
	for (unsigned i = 0; i < STREAMS_MAX; i++)
		if (streams[i].used)
			fprintf(stderr, "cuda stand-in: a stream is left\n");
	if (kvfs_cuda_pins())
		fprintf(stderr, "cuda stand-in: memory is still registered\n");
}
