// SPDX-License-Identifier: MIT
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tools/detach.h"
#include "tools/discard.h"
#include "tools/holders.h"
#include "tools/json.h"
#include "tools/mountinfo.h"
#include "tools/state.h"
#include "tools/verb.h"

#define BUSY_TRIES 20
#define BUSY_WAIT_MS 50
#define HOLDERS_BYTES 2048

struct umount_args {
	bool discard, lazy;
	const char *state_dir;
	unsigned timeout_ms;
};

/* What is unmounted, learned before it is gone. */
struct target {
	char mountpoint[PATH_MAX];
	char state_dir[PATH_MAX];
	bool mounted;
	bool dead;  /* the daemon was killed */
	int daemon; /* pidfd, or -1 */
};

static int daemon_fd(pid_t pid)
{
	return pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
}

/* A live mount says which state directory is its own; a dead one left its
 * mount point's name in the default place. */
static int learn(struct target *t, const struct umount_args *a,
		 const char *path)
{
	cleanup_json json_t *config = NULL;
	struct mount_entry m;
	int rc = mountinfo_resolve(path, t->mountpoint);
	const char *dir;

	t->daemon = -1;
	if (rc)
		return verb_fail(EXIT_TROUBLE, "%s: %s", path, strerror(-rc));
	t->mounted = !mountinfo_at(t->mountpoint, &m) &&
		     !strcmp(m.fstype, MOUNTINFO_FSTYPE);
	t->dead = t->mounted && mountinfo_ping(t->mountpoint) == -ENOTCONN;
	if (t->mounted && !t->dead)
		json_read_control(t->mountpoint, "config", &config);
	dir = json_text(config, "state_dir", a->state_dir);
	if (dir && *dir != '/' && !realpath(dir, t->state_dir))
		return verb_fail(EXIT_TROUBLE, "%s: %s", dir, strerror(errno));
	if (dir && *dir == '/')
		snprintf(t->state_dir, PATH_MAX, "%s", dir);
	else if (!dir && state_default(t->mountpoint, t->state_dir))
		t->state_dir[0] = 0;
	if (t->mounted)
		t->daemon = daemon_fd((pid_t)json_u64(config, "pid", 0));
	return EXIT_FINE;
}

/* -- the unmount -------------------------------------------------------- */

/* What a process that just ended held may take the kernel a moment to drop. */
static int detach_patiently(const struct target *t, bool lazy, char *holders)
{
	int rc = detach(t->mountpoint, lazy);

	for (int i = 0; rc == -EBUSY && i < BUSY_TRIES; i++) {
		if (holders_describe(t->mountpoint, holders, HOLDERS_BYTES))
			break;
		poll(NULL, 0, BUSY_WAIT_MS);
		rc = detach(t->mountpoint, lazy);
	}
	return rc;
}

static int unmount(const struct target *t, bool lazy)
{
	char holders[HOLDERS_BYTES] = "";
	int rc = detach_patiently(t, lazy || t->dead, holders);

	if (!rc)
		return EXIT_FINE;
	if (rc != -EBUSY)
		return verb_fail(EXIT_TROUBLE, "%s: %s", t->mountpoint,
				 strerror(-rc));
	return verb_fail(
		EXIT_TROUBLE, "%s: busy: %s; end what uses it, or use --lazy",
		t->mountpoint,
		*holders ? holders : "something that is not visible here");
}

/* -- afterwards --------------------------------------------------------- */

/* The daemon ends an embedded Redis and writes back; its lock goes last. */
static int wait_daemon(const struct target *t, unsigned timeout_ms)
{
	struct pollfd p = {.fd = t->daemon, .events = POLLIN};
	int fd, ended = 1;

	if (t->daemon >= 0)
		ended = poll(&p, 1, (int)timeout_ms);
	if (!*t->state_dir || !state_has(t->state_dir, "lock"))
		return EXIT_FINE;
	fd = state_lock(t->state_dir, ended > 0 && t->daemon >= 0 ? 1000
				      : t->daemon < 0		  ? timeout_ms
								  : 0);
	if (fd >= 0) {
		close(fd);
		return EXIT_FINE;
	}
	if (fd != -EBUSY)
		return EXIT_FINE; /* not ours to read: pidfd has told */
	return verb_fail(EXIT_TROUBLE,
			 "%s: unmounted, but the daemon (pid %d) has not ended "
			 "within %u s; see %s/kvfs.log",
			 t->mountpoint, (int)state_pid(t->state_dir),
			 timeout_ms / 1000, t->state_dir);
}

static int discard(const struct target *t)
{
	cleanup_close int lock = -1;
	char why[STATE_WHY_BYTES];

	if (!*t->state_dir || !state_has(t->state_dir, "kvfs.state"))
		return verb_fail(EXIT_TROUBLE,
				 "%s: no state directory of kvfs; name the one "
				 "of %s with --state=DIR",
				 *t->state_dir ? t->state_dir : "?",
				 t->mountpoint);
	lock = state_lock(t->state_dir, state_patience_ms(t->state_dir));
	if (lock < 0)
		return verb_fail(EXIT_TROUBLE, "%s: %s", t->state_dir,
				 lock == -EBUSY ? "in use by another daemon"
						: strerror(-lock));
	if (discard_pool(t->state_dir, why))
		return verb_fail(EXIT_TROUBLE, "%s", why);
	return EXIT_FINE;
}

static int finish(const struct target *t, const struct umount_args *a)
{
	int status = EXIT_FINE;

	if (!t->mounted && !a->discard)
		return verb_fail(EXIT_TROUBLE, "%s: no kvfs is mounted there",
				 t->mountpoint);
	if (t->mounted)
		status = unmount(t, a->lazy);
	if (!status && t->mounted && !a->lazy)
		status = wait_daemon(t, a->timeout_ms);
	return !status && a->discard ? discard(t) : status;
}

static int run(void *args, char **operands)
{
	const struct umount_args *a = args;
	struct target t;
	int status;

	if (a->lazy && a->discard)
		return verb_fail(EXIT_USAGE,
				 "--lazy does not wait for the daemon, without "
				 "which --discard cannot be; choose one");
	status = learn(&t, a, operands[0]);
	if (!status && chdir("/")) /* or we would hold it ourselves */
		status = verb_fail(EXIT_TROUBLE, "/: %s", strerror(errno));
	if (status)
		return status;
	status = finish(&t, a);
	if (t.daemon >= 0)
		close(t.daemon);
	return status;
}

#define AT(member) offsetof(struct umount_args, member)

static const struct option_spec options[] = {
	{"discard", 'd', OPTION_FLAG, AT(discard), NULL,
	 "give the pool's memory back and lose the blocks of\n"
	 "kv/; what is in ckpt/ stays; also for a mount that is\n"
	 "unmounted already"},
	{"lazy", 'l', OPTION_FLAG, AT(lazy), NULL,
	 "take it out of sight now; the daemon ends once the\n"
	 "last open file is closed"},
	{"state", 's', OPTION_TEXT, AT(state_dir), "DIR",
	 "the state directory, where nothing is mounted that\n"
	 "could tell (default: as for kvfs mount)"},
	{"timeout", 't', OPTION_MS, AT(timeout_ms), "SECONDS",
	 "how long to wait for the daemon's end (default: 30)"},
	{}};

static const struct umount_args defaults = {.timeout_ms = 30000};

const struct verb verb_umount = {
	.name = "umount",
	.operands = "MOUNTPOINT",
	.summary = "unmount kvfs and wait for its daemon to end",
	.about = "The blocks stay in memory for the next mount, unless "
		 "--discard is given. A mount whose daemon was killed is "
		 "taken away too.",
	.options = options,
	.min_operands = 1,
	.max_operands = 1,
	.defaults = &defaults,
	.args_bytes = sizeof(defaults),
	.examples = "kvfs umount /mnt/kvfs\n"
		    "kvfs umount --discard /mnt/kvfs",
	.run = run,
};
