// SPDX-License-Identifier: MIT
#include "tools/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"

/* A trace on its way in, and the place in the file for the messages. */
struct loader {
	struct trace t;
	size_t ids_room, requests_room;
	const char *path;
	size_t line;
};

static int line_refuse(const struct loader *at, const char *why)
{
	log_error("trace: %s:%zu: %s", at->path, at->line, why);
	return -EINVAL;
}

static int memory_refuse(const struct loader *at)
{
	log_error("trace: %s:%zu: no memory for more requests", at->path,
		  at->line);
	return -ENOMEM;
}

/* Makes room for `want` elements, doubling. */
static bool grow(void **array, size_t size, size_t *room, size_t want)
{
	size_t next = *room ? *room : 64;
	void *p;

	if (want <= *room)
		return true;
	while (next < want)
		next *= 2;
	p = reallocarray(*array, next, size);
	if (!p)
		return false;
	*array = p;
	*room = next;
	return true;
}

static int number_get(const struct loader *at, const json_t *o, const char *key,
		      uint64_t *value)
{
	const json_t *v = json_object_get(o, key);
	char why[96];

	if (json_is_integer(v) && json_integer_value(v) >= 0) {
		*value = (uint64_t)json_integer_value(v);
		return 0;
	}
	snprintf(why, sizeof(why), "\"%s\" %s", key,
		 v ? "is not a whole number of 0 or more" : "is missing");
	return line_refuse(at, why);
}

static int ids_get(struct loader *at, const json_t *o, struct trace_request *r)
{
	const json_t *ids = json_object_get(o, "hash_ids");
	struct trace *t = &at->t;

	if (!json_is_array(ids))
		return line_refuse(at, ids ? "\"hash_ids\" is not an array"
					   : "\"hash_ids\" is missing");
	r->first = t->n_ids;
	r->n_ids = json_array_size(ids);
	if (!grow((void **)&t->ids, sizeof(*t->ids), &at->ids_room,
		  t->n_ids + r->n_ids))
		return memory_refuse(at);
	for (size_t i = 0; i < r->n_ids; i++) {
		const json_t *id = json_array_get(ids, i);

		if (!json_is_integer(id) || json_integer_value(id) < 0)
			return line_refuse(at, "\"hash_ids\" holds something "
					       "that is not a whole number of "
					       "0 or more");
		t->ids[t->n_ids++] = (uint64_t)json_integer_value(id);
	}
	return 0;
}

static int request_get(struct loader *at, const json_t *o)
{
	struct trace_request r = {0};
	struct trace *t = &at->t;
	int err;

	if (!json_is_object(o))
		return line_refuse(at, "not a JSON object");
	err = number_get(at, o, "timestamp", &r.timestamp_ms);
	if (!err)
		err = number_get(at, o, "input_length", &r.input_tokens);
	if (!err)
		err = number_get(at, o, "output_length", &r.output_tokens);
	if (!err)
		err = ids_get(at, o, &r);
	if (err)
		return err;
	if (!grow((void **)&t->requests, sizeof(r), &at->requests_room,
		  t->n_requests + 1))
		return memory_refuse(at);
	t->requests[t->n_requests++] = r;
	return 0;
}

static int line_parse(struct loader *at, const char *line, size_t len)
{
	json_error_t error;
	json_t *o;
	char why[sizeof(error.text) + 32];
	int err;

	if (strspn(line, " \t\r\n") == len)
		return 0;
	o = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	if (!o) {
		snprintf(why, sizeof(why), "not JSON: %s (column %d)",
			 error.text, error.column);
		return line_refuse(at, why);
	}
	err = request_get(at, o);
	json_decref(o);
	return err;
}

/* One line into buf, newline included. Returns its length, 0 at the end. */
static ssize_t line_read(const struct loader *at, FILE *f, char *buf)
{
	size_t len = 0;
	int c = 0;

	while (c != '\n' && (c = getc_unlocked(f)) != EOF) {
		if (len == TRACE_LINE_MAX)
			return line_refuse(at, "the line is longer than 1 MiB");
		buf[len++] = (char)c;
	}
	buf[len] = '\0';
	if (!ferror(f))
		return (ssize_t)len;
	c = errno;
	log_error("trace: %s:%zu: cannot read: %m", at->path, at->line);
	return c ? -c : -EIO;
}

static int lines_load(struct loader *at, FILE *f, size_t limit)
{
	cleanup_free char *buf = malloc(TRACE_LINE_MAX + 1);

	if (!buf)
		return memory_refuse(at);
	for (; !limit || at->t.n_requests < limit; at->line++) {
		ssize_t len = line_read(at, f, buf);
		int err;

		if (len <= 0)
			return (int)len;
		err = line_parse(at, buf, (size_t)len);
		if (err)
			return err;
	}
	return 0;
}

int trace_load(struct trace *t, const char *path, size_t limit)
{
	struct loader l = {.path = path, .line = 1};
	cleanup_file FILE *f = fopen(path, "re");
	int err;

	if (!f) {
		err = -errno;
		log_error("trace: %s: cannot open: %m", path);
		return err;
	}
	err = lines_load(&l, f, limit);
	if (!err && !l.t.n_requests) {
		log_error("trace: %s: holds no request", path);
		err = -EINVAL;
	}
	if (err)
		trace_free(&l.t);
	else
		*t = l.t;
	return err;
}

void trace_free(struct trace *t)
{
	free(t->requests);
	free(t->ids);
	*t = (struct trace){0};
}
