// SPDX-License-Identifier: MIT
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tools/bench.h"
#include "tools/json.h"

/*
 * /proc/PID/stat counts in ticks of 10 ms; schedstat of each thread in
 * nanoseconds on the CPU.
 */
#define READS 1000

void bench_pin(unsigned i)
{
	cpu_set_t all, one;
	int cpu = -1;

	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	i %= (unsigned)CPU_COUNT(&all);
	do
		cpu++;
	while (!CPU_ISSET(cpu, &all) || i--);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static uint64_t thread_cpu_ns(pid_t pid, const char *tid)
{
	char path[96];
	unsigned long long ns = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%.20s/schedstat", (int)pid,
		 tid);
	{
		cleanup_file FILE *f = fopen(path, "re");

		if (!f || fscanf(f, "%llu", &ns) != 1)
			return 0;
	}
	return ns;
}

static int process_cpu_ns(pid_t pid, uint64_t *ns)
{
	char path[64];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	*ns = 0;
	while ((e = readdir(dir)))
		if (e->d_name[0] != '.')
			*ns += thread_cpu_ns(pid, e->d_name);
	closedir(dir);
	return 0;
}

static const struct bench_op *op_named(const char *name)
{
	const struct bench_op *op = bench_ops;

	while (strcmp(op->name, name))
		op++;
	return op;
}

static int reads(struct bench_task *t, unsigned n)
{
	const struct bench_op *op = op_named("open_read_close");
	int err = 0;

	for (unsigned i = 0; i < n && !err && !bench_stopped; i++)
		err = op->run(t, i);
	return err;
}

static int measure(pid_t pid, struct bench_task *t, double *us)
{
	uint64_t before, after;
	int err = reads(t, BENCH_BLOCKS_MAX);

	if (!err)
		err = process_cpu_ns(pid, &before);
	if (!err)
		err = reads(t, READS);
	if (!err)
		err = process_cpu_ns(pid, &after);
	if (!err)
		*us = (double)(after - before) / READS / 1000;
	return err;
}

pid_t bench_daemon_pid(const char *mountpoint)
{
	cleanup_json json_t *status = NULL;

	if (json_read_control(mountpoint, "status", &status))
		return 0;
	return (pid_t)json_u64(status, "pid", 0);
}

int bench_daemon_cpu(const char *mountpoint, int dir, double *us)
{
	struct bench_set set = {.dir = dir,
				.bytes = BENCH_CPU_BYTES,
				.n_blocks = BENCH_BLOCKS_MAX};
	cleanup_free void *buf = bench_buffer(set.bytes);
	struct bench_task task = {.set = &set, .buf = buf};
	pid_t pid = bench_daemon_pid(mountpoint);
	int err;

	if (!pid || !buf)
		return pid ? -ENOMEM : -ESRCH;
	err = bench_set_make(&set, buf);
	if (!err)
		err = measure(pid, &task, us);
	bench_set_remove(&set, 0);
	return err;
}
