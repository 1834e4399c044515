// SPDX-License-Identifier: MIT
#include "tools/status.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "tools/mountinfo.h"
#include "tools/verb.h"

struct status_args {
	bool json;
	unsigned watch_ms;
};

struct shown {
	const struct status_args *args;
	json_t *all; /* where no mount was named: the answers, for --json */
	bool every;  /* whatever is mounted, not a named one */
	unsigned n;
	int status;
};

static int fail_read(const char *mountpoint, int rc)
{
	if (rc == -ENOTCONN || rc == -ECONNABORTED || rc == -ECANCELED)
		return verb_fail(EXIT_NEGATIVE,
				 "%s: its daemon is gone; 'kvfs mount' there "
				 "again, or 'kvfs umount %s'",
				 mountpoint, mountpoint);
	return verb_fail(EXIT_TROUBLE, "%s/.kvfs/status: %s", mountpoint,
			 rc == -EBADMSG ? "not JSON" : strerror(-rc));
}

static void show(struct shown *s, const char *mountpoint)
{
	json_t *status = NULL;
	int rc = json_read_control(mountpoint, "status", &status);

	if (rc == -EACCES && s->every)
		return; /* another user's */
	if (rc) {
		s->status = fail_read(mountpoint, rc);
		return;
	}
	if (s->all) {
		json_array_append_new(s->all, status);
	} else if (s->args->json) {
		json_put(status);
	} else {
		if (s->n)
			putchar('\n');
		status_draw(status, stdout);
		json_decref(status);
	}
	s->n++;
}

static bool show_kvfs(void *arg, const struct mount_entry *m)
{
	struct mount_entry top;

	/* One mount may lie over another at the same place. */
	if (!strcmp(m->fstype, MOUNTINFO_FSTYPE) &&
	    !mountinfo_at(m->mountpoint, &top) && top.id == m->id)
		show(arg, m->mountpoint);
	return true;
}

static int show_all(struct shown *s)
{
	int rc;

	s->every = true;
	if (s->args->json)
		s->all = json_array();
	rc = mountinfo_each(show_kvfs, s);
	if (s->all)
		json_put(s->all);
	if (rc)
		return verb_fail(EXIT_TROUBLE, "/proc/self/mountinfo: %s",
				 strerror(-rc));
	if (!s->n && !s->status)
		return verb_fail(EXIT_NEGATIVE,
				 "no kvfs is mounted; 'kvfs mount MOUNTPOINT'");
	return s->status;
}

static int show_one(struct shown *s, const char *path)
{
	struct mount_entry m;
	int rc = mountinfo_of(path, &m);

	if (rc == -ENODEV)
		return verb_fail(EXIT_NEGATIVE, "%s: no kvfs is mounted there",
				 path);
	if (rc)
		return verb_fail(EXIT_TROUBLE, "%s: %s", path, strerror(-rc));
	show(s, m.mountpoint);
	return s->status;
}

static int show_once(const struct status_args *a, const char *path)
{
	struct shown s = {.args = a};

	return path ? show_one(&s, path) : show_all(&s);
}

static int run(void *args, char **operands)
{
	const struct status_args *a = args;
	bool clear = !a->json && isatty(STDOUT_FILENO);
	int status = show_once(a, operands[0]);

	while (!status && a->watch_ms) {
		fflush(stdout);
		poll(NULL, 0, (int)a->watch_ms);
		if (clear)
			fputs("\033[H\033[J", stdout);
		else if (!a->json)
			putchar('\n');
		status = show_once(a, operands[0]);
	}
	return status;
}

#define AT(member) offsetof(struct status_args, member)

static const struct option_spec options[] = {
	{"json", 0, OPTION_FLAG, AT(json), NULL,
	 "as JSON: an object for one mount, an array for all"},
	{"watch", 'w', OPTION_MS, AT(watch_ms), "SECONDS",
	 "show it again and again, until interrupted or\n"
	 "unmounted"},
	{}};

const struct verb verb_status = {
	.name = "status",
	.operands = "[MOUNTPOINT]",
	.summary = "show pool, hit rate, Redis and latencies",
	.about = "Without MOUNTPOINT: of every kvfs that is mounted and "
		 "may be read. Any path below a mount point does as well. "
		 "The pool's picture: # committed, = being written, + "
		 "prepared for the next block, ! set aside until its "
		 "reader lets go, . free.\n\n"
		 "Exit status: 0 shown; 1 no kvfs is mounted, or its "
		 "daemon is gone; 2, 3 as always.",
	.options = options,
	.max_operands = 1,
	.args_bytes = sizeof(struct status_args),
	.examples = "kvfs status /mnt/kvfs\n"
		    "kvfs status --watch=1\n"
		    "kvfs status --json /mnt/kvfs | jq .kv.hit_rate",
	.run = run,
};
