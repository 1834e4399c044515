// SPDX-License-Identifier: MIT
/*
 * Copies between frames and memory that only a card reaches, by a real card's
 * queue pair; KVFS_TEST_RDMA says that there is one (tests/rdma/dmabuf.sh), and
 * KVFS_TEST_RDMA_DEVICE which, where there are several. The interface that
 * KVFS_TEST_RDMA_INTERFACE names is taken down and up again.
 *
 * No dma-buf is in the test: Soft-RoCE does not register any (Linux 6.1), which
 * is one of the cases. In the others a memfd stands in for it, of which
 * ibv_reg_dmabuf_mr registers the mapping.
 */
#include <check.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <infiniband/verbs.h>

#include "base/fault.h"
#include "base/log.h"
#include "engine/dmabuf.h"

#define MIB (1u << 20)
#define GPU_BYTES (6 * MIB)
#define FILE_BYTES (6 * MIB)
#define START 4096u /* of the registered part */
#define TWO_PIECES (DMABUF_PIECE_BYTES + 4095)
#define PART_BYTES (GPU_BYTES - 2 * START)

typedef struct ibv_mr *reg_fn(struct ibv_pd *, uint64_t, size_t, uint64_t, int,
			      int);
static bool is_real;

struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t n,
				 uint64_t iova, int fd, int access)
{
	reg_fn *real = (reg_fn *)dlsym(RTLD_NEXT, "ibv_reg_dmabuf_mr");
	struct ibv_mr *mr;
	char *map;

	if (is_real)
		return real(pd, offset, n, iova, fd, access);
	map = mmap(NULL, offset + n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(map, MAP_FAILED);
	ck_assert_int_eq(access, IBV_ACCESS_LOCAL_WRITE);
	mr = ibv_reg_mr_iova(pd, map + offset, n, iova, access);
	munmap(map, offset + n);
	return mr;
}

static struct dmabufs *all;
static struct dmabuf *d;
static int gpu, file;
static unsigned char *gpu_bytes, *file_bytes;

static void *memory(const char *name, size_t n, unsigned seed, int *fd)
{
	uint32_t *p;

	*fd = memfd_create(name, MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(*fd, (off_t)n), 0);
	p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	ck_assert_ptr_ne(p, MAP_FAILED);
	for (uint32_t i = 0; i < n / sizeof(*p); i++)
		p[i] = i * 2654435761u + seed;
	return p;
}

static void fail_at(const char *fault)
{
	setenv("KVFS_FAULT", fault, 1);
	fault_init();
}

static unsigned n_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void begin(void)
{
	gpu_bytes = memory("gpu", GPU_BYTES, 1, &gpu);
	file_bytes = memory("file", FILE_BYTES, 2, &file);
	ck_assert_int_eq(dmabufs_open(&all, getenv("KVFS_TEST_RDMA_DEVICE")),
			 0);
}

static void begin_open(void)
{
	begin();
	ck_assert_int_eq(dmabuf_open(all, gpu, START, PART_BYTES, &d), 0);
}

static void end(void)
{
	dmabufs_close(all);
	munmap(gpu_bytes, GPU_BYTES);
	munmap(file_bytes, FILE_BYTES);
	close(gpu);
	close(file);
}

/* Both ways, and nothing beside it changes. */
static void copy_and_compare(uint64_t at, uint64_t offset, uint64_t n)
{
	unsigned char *was = malloc(GPU_BYTES), *other = file_bytes + offset;

	memcpy(was, gpu_bytes, GPU_BYTES);
	memcpy(was + START + at, other, n);
	ck_assert_int_eq(dmabuf_copy(d, at, DMABUF_FROM_FILE, file, offset, n),
			 0);
	ck_assert_mem_eq(gpu_bytes, was, GPU_BYTES);
	free(was);

	was = malloc(FILE_BYTES);
	memset(gpu_bytes + START + at, 7, n);
	memcpy(was, file_bytes, FILE_BYTES);
	memset(was + offset, 7, n);
	ck_assert_int_eq(dmabuf_copy(d, at, DMABUF_TO_FILE, file, offset, n),
			 0);
	ck_assert_mem_eq(file_bytes, was, FILE_BYTES);
	free(was);
}

static const struct {
	uint64_t at, offset, n;
} copies[] = {
	{0, 0, 1},
	{1, 4095, 2},
	{4096, 8192, 4096},
	{777, 13, 70000},
	{0, 0, DMABUF_PIECE_BYTES},
	{PART_BYTES - TWO_PIECES, FILE_BYTES - TWO_PIECES, TWO_PIECES},
};

START_TEST(bytes_come_and_go_where_they_should)
{
	begin_open();

	copy_and_compare(copies[_i].at, copies[_i].offset, copies[_i].n);

	dmabuf_close(d);
	end();
}
END_TEST

/* ---- what fails ------------------------------------------------------- */

static const struct {
	const char *fault;
	int err;
} open_faults[] = {
	{"verbs.open:1", -EOPNOTSUPP},
	{"verbs.alloc_pd:1", -ENOMEM},
	{"verbs.channel:1", -ENOMEM},
	{"verbs.create_cq:1", -ENOMEM},
	{"verbs.reg_dmabuf_mr:1", -EOPNOTSUPP},
	{"verbs.reg_mr:1", -ENOMEM},
	{"verbs.reg_mr:2", -ENOMEM},
	{"verbs.query_port:1", -EOPNOTSUPP},
	{"verbs.create_qp:1", -EOPNOTSUPP},
	{"verbs.modify_qp:1", -EOPNOTSUPP},
	{"verbs.modify_qp:2", -EOPNOTSUPP},
	{"verbs.modify_qp:3", -EOPNOTSUPP},
	{"verbs.notify:1", -EOPNOTSUPP},
	{"verbs.notify:2", -EOPNOTSUPP},
	{"verbs.post_send:1", -EOPNOTSUPP},
	{"verbs.post_send:2", -EOPNOTSUPP},
	{"verbs.poll:1", -EOPNOTSUPP},
	{"verbs.poll:2", -EOPNOTSUPP},
	{"dmabuf.late:1", -EOPNOTSUPP},
};
#define N_OPEN_FAULTS ((int)(sizeof(open_faults) / sizeof(open_faults[0])))

START_TEST(a_call_that_fails_refuses_it_and_leaves_nothing)
{
	const char *fault = open_faults[_i].fault;
	unsigned fds;
	int rc;

	begin();
	fds = n_fds();
	fail_at(fault);

	rc = dmabuf_open(all, gpu, START, 100000, &d);

	ck_assert_msg(rc == open_faults[_i].err, "%s: %d", fault, rc);
	ck_assert_uint_eq(n_fds(), fds);
	ck_assert_int_eq(dmabuf_open(all, gpu, START, 100000, &d), 0);
	copy_and_compare(0, 0, 100000);
	dmabuf_close(d);
	ck_assert_uint_eq(n_fds(), fds);
	end();
}
END_TEST

static const char *const copy_faults[] = {
	"verbs.reg_mr:2",     "verbs.notify:2",	   "verbs.post_send:2",
	"verbs.poll:2",	      "verbs.poll:1",	   "verbs.create_qp:1",
	"verbs.modify_qp:1",  "verbs.modify_qp:2", "verbs.modify_qp:3",
	"verbs.query_port:1",
};
#define N_COPY_FAULTS ((int)(sizeof(copy_faults) / sizeof(copy_faults[0])))

/* In the second piece; or in what comes after a failure of the first one. */
START_TEST(a_copy_that_fails_says_so_and_the_next_one_is_whole)
{
	const char *fault = copy_faults[_i];
	bool again = strstr(fault, "qp:") || strstr(fault, "query");
	char plan[64];
	int rc;

	begin_open();
	snprintf(plan, sizeof(plan), "%s%s", again ? "verbs.poll:1," : "",
		 fault);
	fail_at(plan);

	for (int i = 0; i < 1 + again; i++) {
		rc = dmabuf_copy(d, 0, i ? DMABUF_TO_FILE : DMABUF_FROM_FILE,
				 file, 0, TWO_PIECES);
		ck_assert_msg(rc == (strstr(fault, "reg_mr") ? -ENOMEM : -EIO),
			      "%s: %d", plan, rc);
	}

	copy_and_compare(5, 7, TWO_PIECES);
	dmabuf_close(d);
	end();
}
END_TEST

START_TEST(a_card_that_does_not_answer_is_lost_and_opened_again)
{
	struct dmabuf *later;

	begin_open();
	fail_at("dmabuf.late:2");

	ck_assert_int_eq(
		dmabuf_copy(d, 0, DMABUF_FROM_FILE, file, 0, TWO_PIECES),
		-ENODEV);
	ck_assert_int_eq(dmabuf_copy(d, 0, DMABUF_FROM_FILE, file, 0, 1),
			 -ENODEV);

	ck_assert_int_eq(dmabuf_open(all, gpu, START, PART_BYTES, &later), 0);
	dmabuf_close(d);
	d = later;
	copy_and_compare(0, 0, MIB);
	dmabuf_close(d);
	end();
}
END_TEST

static void interface(const char *what)
{
	const char *name = getenv("KVFS_TEST_RDMA_INTERFACE");
	char command[100];

	snprintf(command, sizeof(command), "ip link set dev %s %s", name, what);
	ck_assert_int_eq(system(command), 0);
}

/* Its event is that of a port that goes down. */
START_TEST(a_card_that_says_that_it_is_lost_is_opened_again)
{
	begin_open();
	fail_at("dmabuf.fatal:1");
	interface("down");
	interface("up");

	while (dmabuf_copy(d, 0, DMABUF_FROM_FILE, file, 0, 1) != -ENODEV)
		usleep(10000);

	dmabuf_close(d);
	while (dmabuf_open(all, gpu, START, PART_BYTES, &d))
		usleep(10000); /* the port takes its time */
	copy_and_compare(0, 0, 70001);
	dmabuf_close(d);
	end();
}
END_TEST

START_TEST(a_file_that_is_too_short_is_an_error)
{
	begin_open();
	ck_assert_int_eq(ftruncate(file, MIB), 0);

	ck_assert_int_eq(dmabuf_copy(d, 0, DMABUF_TO_FILE, file, 0, 2 * MIB),
			 -EFAULT);
	ck_assert_int_eq(dmabuf_copy(d, 0, DMABUF_TO_FILE, file, 0, MIB), 0);

	ck_assert_mem_eq(file_bytes, gpu_bytes + START, MIB);
	dmabuf_close(d);
	end();
}
END_TEST

START_TEST(what_the_card_does_not_take_is_refused_with_why)
{
	int lines = memfd_create("log", MFD_CLOEXEC), was = dup(2);
	char text[1024] = "";

	is_real = true;
	begin();
	dup2(lines, 2);

	ck_assert_int_eq(dmabuf_open(all, gpu, START, PART_BYTES, &d),
			 -EOPNOTSUPP);
	ck_assert_int_eq(dmabuf_open(all, gpu, START, PART_BYTES, &d),
			 -EOPNOTSUPP);

	dup2(was, 2);
	ck_assert_int_gt(pread(lines, text, sizeof(text) - 1, 0), 0);
	ck_assert_ptr_nonnull(strstr(text, " does not reach it: "));
	ck_assert_ptr_null(strchr(strchr(text, '\n') + 1, '\n'));
	end();
}
END_TEST

START_TEST(a_card_that_is_not_named_is_not_asked)
{
	begin();
	dmabufs_close(all);
	ck_assert_int_eq(dmabufs_open(&all, "no_such_card"), 0);

	ck_assert_int_eq(dmabuf_open(all, gpu, START, PART_BYTES, &d),
			 -EOPNOTSUPP);

	end();
}
END_TEST

START_TEST(memory_that_may_not_be_locked_is_said_with_what_to_do)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[2];
	struct rlimit limit = {MIB, MIB};
	char line[512];

	begin();
	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	ck_assert_int_eq(syscall(SYS_capget, &h, caps), 0);
	caps[0].effective &= ~(1u << CAP_IPC_LOCK);
	caps[0].permitted &= ~(1u << CAP_IPC_LOCK);
	ck_assert_int_eq(syscall(SYS_capset, &h, caps), 0);

	/* The stand-in's own memory is locked, too: let there be room for it.
	 */
	ck_assert_int_eq(dmabuf_open(all, gpu, 0, MIB / 2 + 4096, &d), -ENOMEM);

	log_last_error(line, sizeof(line));
	ck_assert_ptr_nonnull(strstr(line, "ulimit -l unlimited"));
	end();
}
END_TEST

/* ---- at the same time -----------------------------------------------------
 */

static void *copier(void *arg)
{
	uint64_t at = (uint64_t)(uintptr_t)arg * MIB;

	for (int i = 0; i < 50; i++) {
		ck_assert_int_eq(
			dmabuf_copy(d, at, DMABUF_FROM_FILE, file, at, 70001),
			0);
		ck_assert_mem_eq(gpu_bytes + START + at, file_bytes + at,
				 70001);
		memset(gpu_bytes + START + at, 0, 70001);
	}
	return NULL;
}

START_TEST(several_copy_while_others_come_and_go)
{
	pthread_t threads[4];
	struct dmabuf *other;

	begin_open();
	for (uintptr_t i = 0; i < 4; i++)
		ck_assert_int_eq(
			pthread_create(&threads[i], NULL, copier, (void *)i),
			0);
	for (int i = 0; i < 5; i++) {
		ck_assert_int_eq(dmabuf_open(all, gpu, 5 * MIB, 4096, &other),
				 0);
		dmabuf_close(other);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	dmabuf_close(d);
	end();
}
END_TEST

int main(void)
{
	bool card = getenv("KVFS_TEST_RDMA");
	Suite *suite = suite_create("dmabuf");
	TCase *t = tcase_create(card ? "a card" : "no card");
	SRunner *runner;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(t, a_card_that_is_not_named_is_not_asked);
	if (card) {
		tcase_add_loop_test(t, bytes_come_and_go_where_they_should, 0,
				    sizeof(copies) / sizeof(copies[0]));
		tcase_add_loop_test(
			t, a_call_that_fails_refuses_it_and_leaves_nothing, 0,
			N_OPEN_FAULTS);
		tcase_add_loop_test(
			t, a_copy_that_fails_says_so_and_the_next_one_is_whole,
			0, N_COPY_FAULTS);
		tcase_add_test(
			t,
			a_card_that_does_not_answer_is_lost_and_opened_again);
		if (getenv("KVFS_TEST_RDMA_INTERFACE"))
			tcase_add_test(
				t,
				a_card_that_says_that_it_is_lost_is_opened_again);
		tcase_add_test(t, a_file_that_is_too_short_is_an_error);
		tcase_add_test(t,
			       what_the_card_does_not_take_is_refused_with_why);
		tcase_add_test(
			t,
			memory_that_may_not_be_locked_is_said_with_what_to_do);
		tcase_add_test(t, several_copy_while_others_come_and_go);
	}
	suite_add_tcase(suite, t);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
