// SPDX-License-Identifier: MIT
#include <inttypes.h>

#include "base/size.h"
#include "tools/json.h"
#include "tools/replay.h"
#include "tools/term.h"

static double hit_rate(const struct replay_result *r)
{
	return r->block_refs ? (double)r->block_hits / (double)r->block_refs
			     : 0;
}

/* Hits, as a share of those of one node as large as all together. */
static double of_one_node(const struct replay_result *r)
{
	return (double)r->block_hits / (double)r->one_node_hits;
}

static uint64_t moved_bytes(const struct replay_result *r,
			    const struct samples *s)
{
	return s->n * r->block_bytes;
}

/* Bytes by the time that was spent in the operations themselves. */
static double mib_s(const struct replay_result *r, const struct samples *s)
{
	return s->sum_ns ? (double)moved_bytes(r, s) / (1 << 20) /
				   ((double)s->sum_ns / 1e9)
			 : 0;
}

static void report_json(struct replay_result *r)
{
	json_t *o = json_pack(
		"{s:I, s:I, s:I, s:f, s:I, s:I, s:f}", "requests",
		(json_int_t)r->requests, "block_refs",
		(json_int_t)r->block_refs, "block_hits",
		(json_int_t)r->block_hits, "hit_rate", hit_rate(r),
		"bytes_read", (json_int_t)moved_bytes(r, &r->reads),
		"bytes_written", (json_int_t)moved_bytes(r, &r->writes),
		"seconds", r->seconds);
	struct {
		const char *name;
		double value;
	} figures[] = {
		{"read_mib_s", mib_s(r, &r->reads)},
		{"write_mib_s", mib_s(r, &r->writes)},
		{"read_p50_us", samples_us(&r->reads, 50)},
		{"read_p99_us", samples_us(&r->reads, 99)},
		{"write_p50_us", samples_us(&r->writes, 50)},
		{"write_p99_us", samples_us(&r->writes, 99)},
	};

	for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
		json_object_set_new(o, figures[i].name,
				    r->simulated ? json_null()
						 : json_real(figures[i].value));
	json_object_set_new(o, "verify_errors",
			    json_integer((json_int_t)r->verify_errors));
	json_object_set_new(
		o, "capacity_blocks",
		r->capacity_blocks
			? json_integer((json_int_t)r->capacity_blocks)
			: json_null());
	json_object_set_new(o, "block_bytes",
			    json_integer((json_int_t)r->block_bytes));
	json_object_set_new(o, "simulated", json_boolean(r->simulated));
	json_object_set_new(o, "nodes", json_integer((json_int_t)r->nodes));
	json_object_set_new(o, "of_one_node",
			    r->one_node_hits ? json_real(of_one_node(r))
					     : json_null());
	json_put_line(o);
}

static void print_counts(const struct replay_result *r)
{
	char size[SIZE_FORMAT_BYTES];

	printf("requests   %" PRIu64 " in %.1f s\n", r->requests, r->seconds);
	printf("blocks     %" PRIu64 " referenced, %" PRIu64 " hit, %" PRIu64
	       " stored\n",
	       r->block_refs, r->block_hits, r->stores);
	if (r->capacity_blocks)
		printf("capacity   %" PRIu64 " blocks of %s\n",
		       r->capacity_blocks,
		       size_format(r->block_bytes, size, sizeof(size)));
	else
		printf("capacity   no limit\n");
	printf("%shit rate   %.4f%s\n", term_style(stdout, TERM_BOLD),
	       hit_rate(r), term_style(stdout, TERM_PLAIN));
	if (r->one_node_hits)
		printf("one pool   %.4f of what one node of this capacity "
		       "hits (simulated), on %u nodes\n",
		       of_one_node(r), r->nodes);
}

static void add_row(struct table *t, const struct replay_result *r,
		    const char *what, struct samples *s)
{
	char size[SIZE_FORMAT_BYTES];

	table_add(t, "%s", what);
	table_add(t, "%zu", s->n);
	table_add(t, "%s", size_format(moved_bytes(r, s), size, sizeof(size)));
	table_add(t, "%.0f", mib_s(r, s));
	table_add(t, "%.1f", samples_us(s, 50));
	table_add(t, "%.1f", samples_us(s, 99));
}

static void print_moves(struct replay_result *r)
{
	static const struct table_column columns[] = {
		{"", false},	 {"blocks", true}, {"bytes", true},
		{"MiB/s", true}, {"p50 us", true}, {"p99 us", true},
	};
	struct table *t = table_new(columns, 6);

	printf("\n");
	add_row(t, r, "open + read + close", &r->reads);
	add_row(t, r, "create + write + close + rename", &r->writes);
	table_print(t, stdout);
	table_free(t);
	printf("\n%severy byte of %" PRIu64 " blocks compared: %" PRIu64
	       " wrong%s\n",
	       term_style(stdout, r->verify_errors ? TERM_BAD : TERM_GOOD),
	       r->reads.n + r->verify_errors, r->verify_errors,
	       term_style(stdout, TERM_PLAIN));
}

void replay_report(struct replay_result *r, bool json)
{
	if (json) {
		report_json(r);
		return;
	}
	print_counts(r);
	if (!r->simulated)
		print_moves(r);
}
