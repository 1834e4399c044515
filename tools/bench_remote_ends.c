// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "tools/bench_remote.h"
#include "tools/json.h"
#include "tools/target.h"
#include "tools/verb.h"

#define NAMESPACE "bench-remote"
#define LOOPBACK "127.0.0.1"
#define SEEN_WITHIN_S 10

uint64_t remote_cpu_ns(pid_t pid)
{
	clockid_t clock;

	return pid <= 0 || clock_getcpuclockid(pid, &clock)
		       ? 0
		       : (uint64_t)clock_read_ns(clock);
}

uint64_t remote_cpu_of(const struct remote_ends *e)
{
	return remote_cpu_ns(e->a.daemon) + remote_cpu_ns(e->b.daemon) +
	       remote_cpu_ns(getpid());
}

/* -- where a node is ---------------------------------------------------- */

/* "10.0.0.1:7077" or "[fd00::1]:7077", "tcp:" before it or not: the host. */
static bool take_address(const char *text, char *out)
{
	const char *from = text && !strncmp(text, "tcp:", 4) ? text + 4 : text;
	const char *end;

	if (!from || !strncmp(from, "unix:", 5))
		return false;
	end = strrchr(from, ':');
	if (*from == '[' && strchr(from, ']')) {
		end = strchr(from, ']');
		from++;
	}
	if (!end || end <= from || end - from >= REMOTE_ADDRESS_BYTES)
		return false;
	memcpy(out, from, (size_t)(end - from));
	out[end - from] = '\0';
	return true;
}

static void find_address(struct remote_end *end)
{
	cleanup_json json_t *nodes = NULL;
	json_t *node, *address;
	size_t i, j;

	if (json_read_control(end->mountpoint, "nodes", &nodes))
		return;
	json_array_foreach (json_at(nodes, "nodes"), i, node) {
		if (!json_bool(node, "self", false))
			continue;
		json_array_foreach (json_at(node, "addresses"), j, address)
			if (take_address(json_string_value(address),
					 end->address))
				return;
	}
}

/* A descriptor of its network namespace, or -1: it is ours. */
static int netns_open(pid_t pid)
{
	char path[64];
	struct stat mine, its;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
	if (stat("/proc/self/ns/net", &mine) || stat(path, &its) ||
	    (mine.st_ino == its.st_ino && mine.st_dev == its.st_dev))
		return -1;
	return open(path, O_RDONLY | O_CLOEXEC);
}

int remote_end_enter(const struct remote_end *end)
{
	return end->netns >= 0 && setns(end->netns, CLONE_NEWNET) ? -errno : 0;
}

/* -- two mounts --------------------------------------------------------- */

static int end_find(struct remote_end *end, const char *dir)
{
	cleanup_json json_t *status = NULL;
	struct target at;

	if (target_find(&at, "bench", dir, NAMESPACE))
		return EXIT_TROUBLE;
	if (!at.is_namespace)
		return verb_fail(EXIT_TROUBLE,
				 "%s: not a kvfs mount; name two nodes' mounts",
				 dir);
	if (json_read_control(at.mountpoint, "status", &status))
		return verb_fail(EXIT_TROUBLE, "%s: its daemon does not answer",
				 at.mountpoint);
	strcpy(end->mountpoint, at.mountpoint);
	strcpy(end->path, at.path);
	end->daemon = (pid_t)json_u64(status, "pid", 0);
	end->netns = netns_open(end->daemon);
	find_address(end);
	return 0;
}

/* B sees what A made as soon as it asks, or a moment later. */
static int open_when_seen(const char *path)
{
	int64_t until = clock_now_ns() + SEEN_WITHIN_S * NS_PER_S;
	struct timespec pause = clock_timespec(10 * NS_PER_MS);
	int fd;

	while ((fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 &&
	       errno == ENOENT && clock_now_ns() < until)
		nanosleep(&pause, NULL);
	return fd < 0 ? -errno : fd;
}

static int folders_open(struct remote_ends *e)
{
	e->made_namespace = !mkdir(e->a.path, 0755);
	e->a.dir = open_when_seen(e->a.path);
	if (e->a.dir < 0)
		return verb_fail(EXIT_TROUBLE, "%s: %s", e->a.path,
				 strerror(-e->a.dir));
	e->b.dir = open_when_seen(e->b.path);
	if (e->b.dir < 0)
		return verb_fail(EXIT_TROUBLE,
				 "%s: %s, though %s has it; are both nodes of "
				 "one cluster?",
				 e->b.path, strerror(-e->b.dir),
				 e->a.mountpoint);
	return 0;
}

/* From now on here is where B is; A may be elsewhere. */
static int go_to_b(struct remote_ends *e)
{
	int err = remote_end_enter(&e->b);

	if (err)
		return verb_fail(EXIT_TROUBLE,
				 "%s: its network namespace: %s; run it as "
				 "root",
				 e->b.mountpoint, strerror(-err));
	if (e->a.netns >= 0)
		close(e->a.netns);
	e->a.netns = netns_open(e->a.daemon);
	if (e->a.netns < 0 || !e->a.address[0] || !e->b.address[0]) {
		strcpy(e->a.address, LOOPBACK);
		strcpy(e->b.address, LOOPBACK);
	}
	return 0;
}

int remote_ends_open(struct remote_ends *e, char **dirs)
{
	int status;

	*e = (struct remote_ends){
		.a = {.dir = -1, .netns = -1, .address = LOOPBACK},
		.b = {.dir = -1, .netns = -1, .address = LOOPBACK},
		.mounts = dirs != NULL,
	};
	if (!dirs)
		return 0;
	status = end_find(&e->a, dirs[0]);
	if (!status)
		status = end_find(&e->b, dirs[1]);
	if (!status && !strcmp(e->a.mountpoint, e->b.mountpoint))
		status = verb_fail(EXIT_USAGE,
				   "%s: the same mount twice; two nodes' "
				   "mounts are wanted",
				   e->a.mountpoint);
	if (!status)
		status = folders_open(e);
	if (!status)
		status = go_to_b(e);
	if (status)
		remote_ends_close(e);
	return status;
}

static void end_close(struct remote_end *end)
{
	if (end->dir >= 0)
		close(end->dir);
	if (end->netns >= 0)
		close(end->netns);
}

void remote_ends_close(struct remote_ends *e)
{
	end_close(&e->a);
	end_close(&e->b);
	if (e->made_namespace)
		rmdir(e->a.path);
}
