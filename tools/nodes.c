// SPDX-License-Identifier: MIT
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "tools/json.h"
#include "tools/mountinfo.h"
#include "tools/term.h"
#include "tools/verb.h"

struct nodes_args {
	bool json;
};

static const struct table_column columns[] = {
	{"node", false}, {"address", false}, {"via", false},
	{"link", false}, {"rtt", true},	     {"rate", true},
	{"asked", true}, {"blocks", true},   {"used", true},
	{"pool", true},	 {"sent", true},     {"received", true}};
#define N_COLUMNS (sizeof(columns) / sizeof(*columns))

static const char *link_of(json_t *node)
{
	if (json_bool(node, "draining", false))
		return "draining";
	if (json_bool(node, "self", false))
		return "self";
	if (!json_array_size(json_at(node, "addresses")))
		return "not listening";
	if (json_bool(node, "connected", false))
		return "connected";
	return json_text(node, "problem", "idle");
}

static void add_bytes(struct table *t, json_t *node, const char *name)
{
	char shown[SIZE_FORMAT_BYTES];

	if (!json_at(node, name)) {
		table_add(t, "-");
		return;
	}
	size_format(json_u64(node, name, 0), shown, sizeof(shown));
	table_add(t, "%s", shown);
}

static void add_rate(struct table *t, uint64_t bytes_s)
{
	char shown[SIZE_FORMAT_BYTES];

	if (bytes_s)
		table_add(t, "%s/s",
			  size_format(bytes_s, shown, sizeof(shown)));
	else
		table_add(t, "-");
}

static void add_count(struct table *t, json_t *node, const char *name)
{
	if (json_at(node, name))
		table_add(t, "%" PRIu64, json_u64(node, name, 0));
	else
		table_add(t, "-");
}

static void add_row(struct table *t, json_t *node)
{
	json_t *addresses = json_at(node, "addresses");
	const char *first = json_string_value(json_array_get(addresses, 0));
	uint64_t rtt = json_u64(node, "rtt_us", 0);
	char name[128];

	table_add(t, "%s",
		  term_printable(json_text(node, "name", "?"), name,
				 sizeof(name)));
	table_add(t, "%s", first ? first : "-");
	table_add(t, "%s", first ? json_text(node, "transport", "-") : "-");
	table_add(t, "%s", link_of(node));
	if (rtt)
		table_add(t, "%" PRIu64 " us", rtt);
	else
		table_add(t, "-");
	add_rate(t, json_u64(node, "rate_bytes_s", 0));
	add_count(t, node, "calls_in_flight");
	add_count(t, node, "blocks");
	add_bytes(t, node, "used_bytes");
	add_bytes(t, node, "pool_bytes");
	add_bytes(t, node, "sent_bytes");
	add_bytes(t, node, "received_bytes");
}

static void print_table(json_t *nodes)
{
	struct table *t = table_new(columns, N_COLUMNS);
	json_t *list = json_at(nodes, "nodes"), *node;
	size_t i;

	json_array_foreach (list, i, node)
		add_row(t, node);
	table_print(t, stdout);
	table_free(t);
}

static void print_advice(json_t *nodes)
{
	json_t *list = json_at(nodes, "nodes"), *node;
	char name[128];
	size_t i;

	json_array_foreach (list, i, node)
		if (json_at(node, "problem"))
			printf("%s: %s, %" PRIu64 " s ago: %s\n",
			       term_printable(json_text(node, "name", "?"),
					      name, sizeof(name)),
			       json_text(node, "problem", ""),
			       json_u64(node, "problem_age_ms", 0) / 1000,
			       json_text(node, "advice", ""));
}

struct search {
	char mountpoint[PATH_MAX];
	unsigned n;
};

static bool note_kvfs(void *arg, const struct mount_entry *m)
{
	struct search *s = arg;
	struct mount_entry top;

	if (strcmp(m->fstype, MOUNTINFO_FSTYPE) ||
	    mountinfo_at(m->mountpoint, &top) || top.id != m->id)
		return true;
	snprintf(s->mountpoint, sizeof(s->mountpoint), "%s", m->mountpoint);
	s->n++;
	return true;
}

/* The mount that was named, or the only one. */
static int find(const char *path, char mountpoint[PATH_MAX])
{
	struct search s = {.n = 0};
	struct mount_entry m;
	int rc;

	if (path) {
		rc = mountinfo_of(path, &m);
		if (rc == -ENODEV)
			return verb_fail(EXIT_NEGATIVE,
					 "%s: no kvfs is mounted there", path);
		if (rc)
			return verb_fail(EXIT_TROUBLE, "%s: %s", path,
					 strerror(-rc));
		strcpy(mountpoint, m.mountpoint);
		return EXIT_FINE;
	}
	mountinfo_each(note_kvfs, &s);
	if (!s.n)
		return verb_fail(EXIT_NEGATIVE,
				 "no kvfs is mounted; 'kvfs mount MOUNTPOINT'");
	if (s.n > 1)
		return verb_fail(EXIT_USAGE,
				 "%u kvfs are mounted; name one of them", s.n);
	strcpy(mountpoint, s.mountpoint);
	return EXIT_FINE;
}

static int run(void *args, char **operands)
{
	const struct nodes_args *a = args;
	cleanup_json json_t *nodes = NULL;
	char mountpoint[PATH_MAX];
	int status = find(operands[0], mountpoint), rc;

	if (status)
		return status;
	rc = json_read_control(mountpoint, "nodes", &nodes);
	if (rc)
		return verb_fail(rc == -ENOTCONN ? EXIT_NEGATIVE : EXIT_TROUBLE,
				 "%s/.kvfs/nodes: %s", mountpoint,
				 rc == -EBADMSG ? "not JSON" : strerror(-rc));
	if (a->json) {
		json_put(json_incref(nodes));
		return EXIT_FINE;
	}
	print_table(nodes);
	print_advice(nodes);
	return EXIT_FINE;
}

static const struct option_spec options[] = {
	{"json", 0, OPTION_FLAG, offsetof(struct nodes_args, json), NULL,
	 "what .kvfs/nodes has, as JSON"},
	{}};

const struct verb verb_nodes = {
	.name = "nodes",
	.operands = "[MOUNTPOINT]",
	.summary = "who is in the cluster, and the way to each",
	.about =
		"The live members that use the same Redis: where they are "
		"reached and by what (rdma, tcp, tls, unix), whether this node "
		"has a connection to them (idle: none was needed lately; or "
		"why the last one failed: another key, refused, unreachable, "
		"..., and below what mends it), "
		"the round trip and the rate measured, what they were asked "
		"and have not answered, and how full they are, as they told "
		"with a recent heartbeat. MOUNTPOINT may be left "
		"out where only one kvfs is mounted; any path below it does "
		"as well.\n\n"
		"Exit status: 0 shown; 1 no kvfs is mounted, or its daemon "
		"is gone; 2, 3 as always.",
	.options = options,
	.max_operands = 1,
	.args_bytes = sizeof(struct nodes_args),
	.examples = "kvfs nodes\n"
		    "kvfs nodes --json /mnt/kvfs | jq '.nodes[].name'",
	.run = run,
};
