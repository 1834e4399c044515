// SPDX-License-Identifier: MIT
#include "tools/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "tools/term.h"

#define QUIET_NS NS_PER_S
#define REDRAW_NS (100 * NS_PER_MS)
#define BAR_MIN 10 /* narrower than this no bar is drawn */
#define BAR_MAX 40
#define LINE_BYTES 512

void progress_start(struct progress *p, const char *label, uint64_t total,
		    enum progress_unit unit)
{
	*p = (struct progress){
		.label = label,
		.total = total,
		.unit = unit,
		.start_ns = clock_now_ns(),
		.enabled = isatty(STDERR_FILENO),
	};
}

static const char *amount(const struct progress *p, uint64_t n, char *buf,
			  size_t buf_bytes)
{
	if (p->unit == PROGRESS_BYTES)
		return size_format(n, buf, buf_bytes);
	snprintf(buf, buf_bytes, "%" PRIu64, n);
	return buf;
}

/* " 512 MiB/s  0:03 left", as far as it is known. */
static void format_pace(const struct progress *p, uint64_t done,
			int64_t spent_ns, char *buf, size_t buf_bytes)
{
	double rate = spent_ns > 0 ? (double)done * 1e9 / (double)spent_ns : 0;
	uint64_t left_s;
	char text[24];
	int n;

	*buf = 0;
	if (rate < 1)
		return;
	n = snprintf(buf, buf_bytes, "  %s/s",
		     amount(p, (uint64_t)rate, text, sizeof(text)));
	if (!p->total || done > p->total)
		return;
	left_s = (uint64_t)((double)(p->total - done) / rate + 0.5);
	if (left_s < 100 * 3600)
		snprintf(buf + n, buf_bytes - (size_t)n,
			 "  %" PRIu64 ":%02u left", left_s / 60,
			 (unsigned)(left_s % 60));
}

static void format_bar(double share, unsigned room, char *buf)
{
	unsigned full = (unsigned)(share * room);

	buf[0] = '[';
	memset(buf + 1, '#', full);
	memset(buf + 1 + full, ' ', room - full);
	strcpy(buf + 1 + room, "] ");
}

void progress_format(const struct progress *p, uint64_t done, int64_t spent_ns,
		     unsigned columns, char *buf, size_t buf_bytes)
{
	double share = p->total ? (double)done / (double)p->total : 0;
	char head[96], tail[128], pace[64], bar[BAR_MAX + 4] = "", a[24], b[24];
	unsigned used;

	share = share > 1 ? 1 : share;
	format_pace(p, done, spent_ns, pace, sizeof(pace));
	if (p->total) {
		snprintf(head, sizeof(head), "%s %3d%% ", p->label,
			 (int)(share * 100));
		snprintf(tail, sizeof(tail), "%s of %s%s",
			 amount(p, done, a, sizeof(a)),
			 amount(p, p->total, b, sizeof(b)), pace);
	} else {
		snprintf(head, sizeof(head), "%s ", p->label);
		snprintf(tail, sizeof(tail), "%s%s",
			 amount(p, done, a, sizeof(a)), pace);
	}
	used = (unsigned)(strlen(head) + strlen(tail)) + 3;
	if (p->total && used + BAR_MIN <= columns)
		format_bar(share,
			   columns - used < BAR_MAX ? columns - used : BAR_MAX,
			   bar);
	snprintf(buf, buf_bytes, "%s%s%s", head, bar, tail);
	if (strlen(buf) > columns)
		buf[columns] = 0;
}

void progress_update(struct progress *p, uint64_t done)
{
	char line[LINE_BYTES];
	unsigned columns;
	int64_t now;

	if (!p->enabled)
		return;
	now = clock_now_ns();
	if (now - p->start_ns < QUIET_NS || now - p->drawn_ns < REDRAW_NS)
		return;
	p->drawn_ns = now;
	p->drawn = true;
	columns = term_width(stderr) - 1;
	if (columns >= sizeof(line))
		columns = sizeof(line) - 1;
	progress_format(p, done, now - p->start_ns, columns, line,
			sizeof(line));
	fprintf(stderr, "\r%s\033[K", line);
	fflush(stderr);
}

void progress_clear(struct progress *p)
{
	if (!p->drawn)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	p->drawn = false;
	p->drawn_ns = 0;
}

void progress_finish(struct progress *p)
{
	progress_clear(p);
	p->enabled = false;
}
