// SPDX-License-Identifier: MIT
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "tools/mountinfo.h"
#include "tools/order.h"
#include "tools/property.h"
#include "tools/verb.h"

struct drain_args {
	bool json, keep;
};

/* What other nodes hold needs nothing; the last copy is given away. This node
 * does not count any more: it drains. */
static int act(const struct order *o, const char *path)
{
	char state[32];
	int rc;

	(void)o;
	if (property_get(path, "state", state, sizeof(state)) < 0 ||
	    !strcmp(state, "remote"))
		return -EALREADY;
	rc = order_copies(path, 1);
	return rc == -ENOENT || rc == -ESTALE || rc == -ENODATA ? -EALREADY
								: rc;
}

static int unmount(const char *mountpoint)
{
	char verb[] = "umount", path[PATH_MAX];
	char *argv[] = {verb, path, NULL};

	snprintf(path, sizeof(path), "%s", mountpoint);
	return verb_call(&verb_umount, 2, argv);
}

static int move(const struct drain_args *a, char *kv, char *ckpt)
{
	struct order o = {.verb = "given to other nodes",
			  .label = "draining",
			  .json = a->json,
			  .recursive = true,
			  .act = act};
	char *paths[] = {kv, ckpt, NULL};
	int status = order_run(&o, paths);

	if (status == EXIT_NEGATIVE)
		return verb_fail(EXIT_NEGATIVE,
				 "%llu files could not be given away; still "
				 "mounted, but takes nothing new; 'kvfs "
				 "umount' gives them up",
				 (unsigned long long)o.n_failed);
	return status;
}

static int run(void *args, char **operands)
{
	const struct drain_args *a = args;
	char path[PATH_MAX], kv[PATH_MAX + 4], ckpt[PATH_MAX + 6];
	struct mount_entry m;
	int rc, status;

	/* Who names a directory in it does not mean all of the node. */
	if (mountinfo_resolve(operands[0], path) || mountinfo_of(path, &m) ||
	    strcmp(path, m.mountpoint) != 0)
		return verb_fail(EXIT_NEGATIVE, "%s: no kvfs is mounted there",
				 operands[0]);
	snprintf(kv, sizeof(kv), "%s/kv", m.mountpoint);
	snprintf(ckpt, sizeof(ckpt), "%s/ckpt", m.mountpoint);
	rc = order_set(kv, "drain", "on");
	if (rc)
		return verb_fail(EXIT_TROUBLE, "%s: %s", m.mountpoint,
				 rc == -EINVAL ? "it is in no cluster; 'kvfs "
						 "umount' does"
					       : strerror(-rc));
	status = move(a, kv, ckpt);
	return status || a->keep ? status : unmount(m.mountpoint);
}

#define AT(member) offsetof(struct drain_args, member)

static const struct option_spec options[] = {
	{"keep", 'k', OPTION_FLAG, AT(keep), NULL,
	 "stay mounted once all is given away"},
	{"json", 0, OPTION_FLAG, AT(json), NULL,
	 "one JSON object a line for each file"},
	{}};

const struct verb verb_drain = {
	.name = "drain",
	.operands = "MOUNTPOINT",
	.summary = "give away what only this node holds, then unmount",
	.about = "The others are told that this node takes nothing new. "
		 "Each block, and each file of ckpt/, that no other node "
		 "holds is fetched by one that does not drain itself; what "
		 "others hold too needs nothing. Then it is unmounted. "
		 "Interrupted, it can be run again; mounting again ends it."
		 "\n\n"
		 "Exit status: 0 drained; 1 some files could not be given "
		 "away, or are being written: still mounted; 2, 3 as always.",
	.options = options,
	.min_operands = 1,
	.max_operands = 1,
	.args_bytes = sizeof(struct drain_args),
	.examples = "kvfs drain /mnt/kvfs\n"
		    "kvfs drain --keep /mnt/kvfs",
	.run = run,
};
