// SPDX-License-Identifier: MIT
#include "meta/resp.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "meta/redis.h"

/*
 * A struct redis_reply is hiredis' redisReply under another name, so that no
 * reply is copied and no other file needs hiredis' header.
 */

#if HIREDIS_MAJOR >= 1
typedef size_t array_count;
#else
typedef int array_count;
#endif

struct resp_reader {
	redisReader *reader;
	redisReplyObjectFunctions fn; /* hiredis' own, arrays guarded */
	void *(*hiredis_array)(const redisReadTask *, array_count);
};

/* hiredis allocates what the server announces; a hostile length ends here. */
static void *array_create(const redisReadTask *task, array_count n)
{
	struct resp_reader *r = task->privdata;

	return n > RESP_ELEMENTS_MAX ? NULL : r->hiredis_array(task, n);
}

struct resp_reader *resp_reader_new(void)
{
	struct resp_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->reader = redisReaderCreate();
	if (!r->reader) {
		free(r);
		return NULL;
	}
	r->fn = *r->reader->fn;
	r->hiredis_array = r->fn.createArray;
	r->fn.createArray = array_create;
	r->reader->fn = &r->fn;
	r->reader->privdata = r;
	return r;
}

void resp_reader_free(struct resp_reader *r)
{
	if (!r)
		return;
	redisReaderFree(r->reader);
	free(r);
}

int resp_feed(struct resp_reader *r, const char *bytes, size_t n)
{
	if (r->reader->len - r->reader->pos > RESP_REPLY_BYTES_MAX)
		return -EPROTO;
	return redisReaderFeed(r->reader, bytes, n) == REDIS_OK ? 0 : -ENOMEM;
}

int resp_next(struct resp_reader *r, struct redis_reply **reply)
{
	void *p = NULL;

	if (redisReaderGetReply(r->reader, &p) != REDIS_OK)
		return r->reader->err == REDIS_ERR_OOM ? -ENOMEM : -EPROTO;
	*reply = p;
	return 0;
}

int resp_format(const struct redis_cmd *cmd, char **out, size_t *n)
{
	cleanup_free const char **argv = NULL;
	cleanup_free size_t *lens = NULL;
	size_t start = 0;
	int len;

	if (cmd->err)
		return cmd->err;
	if (!cmd->n_args)
		return -EINVAL;
	if (cmd->n_args > RESP_ELEMENTS_MAX || cmd->n_bytes > INT_MAX / 2)
		return -E2BIG;
	argv = malloc(cmd->n_args * sizeof(*argv));
	lens = malloc(cmd->n_args * sizeof(*lens));
	if (!argv || !lens)
		return -ENOMEM;
	for (size_t i = 0; i < cmd->n_args; i++) {
		argv[i] = cmd->bytes + start;
		lens[i] = cmd->ends[i] - start;
		start = cmd->ends[i];
	}
	len = redisFormatCommandArgv(out, (int)cmd->n_args, argv, lens);
	if (len < 0)
		return -ENOMEM;
	*n = (size_t)len;
	return 0;
}

/* --- accessors: nothing is taken for granted --------------------------- */

static const redisReply *raw(const struct redis_reply *r)
{
	return (const redisReply *)(const void *)r;
}

enum reply_type redis_reply_type(const struct redis_reply *r)
{
	switch (r ? raw(r)->type : REDIS_REPLY_NIL) {
	case REDIS_REPLY_STATUS:
		return REPLY_STATUS;
	case REDIS_REPLY_STRING:
		return REPLY_STRING;
	case REDIS_REPLY_INTEGER:
		return REPLY_INTEGER;
	case REDIS_REPLY_ARRAY:
		return REPLY_ARRAY;
	case REDIS_REPLY_ERROR:
		return REPLY_ERROR;
	default:
		return REPLY_NIL;
	}
}

size_t redis_reply_count(const struct redis_reply *r)
{
	return redis_reply_type(r) == REPLY_ARRAY ? (size_t)raw(r)->elements
						  : 0;
}

const struct redis_reply *redis_reply_at(const struct redis_reply *r, size_t i)
{
	if (i >= redis_reply_count(r))
		return NULL;
	return (const struct redis_reply *)(const void *)raw(r)->element[i];
}

int redis_reply_str(const struct redis_reply *r, const char **p, size_t *n)
{
	switch (redis_reply_type(r)) {
	case REPLY_STATUS:
	case REPLY_STRING:
	case REPLY_ERROR:
		*p = raw(r)->str;
		*n = (size_t)raw(r)->len;
		return 0;
	default:
		return -EPROTO;
	}
}

const char *redis_reply_text(const struct redis_reply *r)
{
	const char *p = "";
	size_t n;

	redis_reply_str(r, &p, &n);
	return p;
}

/* The whole of it must be digits: no blanks, no sign past the first byte. */
static int digits_parse(const char *p, size_t n, uint64_t *v)
{
	uint64_t sum = 0;

	if (!n || n > 20)
		return -EPROTO;
	for (size_t i = 0; i < n; i++) {
		if (p[i] < '0' || p[i] > '9' ||
		    __builtin_mul_overflow(sum, 10u, &sum) ||
		    __builtin_add_overflow(sum, (unsigned)(p[i] - '0'), &sum))
			return -EPROTO;
	}
	*v = sum;
	return 0;
}

int redis_reply_uint(const struct redis_reply *r, uint64_t *v)
{
	const char *p;
	size_t n;

	if (redis_reply_type(r) == REPLY_INTEGER) {
		if (raw(r)->integer < 0)
			return -EPROTO;
		*v = (uint64_t)raw(r)->integer;
		return 0;
	}
	if (redis_reply_type(r) == REPLY_ERROR || redis_reply_str(r, &p, &n))
		return -EPROTO;
	return digits_parse(p, n, v);
}

int redis_reply_int(const struct redis_reply *r, int64_t *v)
{
	bool negative = false;
	uint64_t u = 0;
	const char *p;
	size_t n;

	if (redis_reply_type(r) == REPLY_INTEGER) {
		*v = raw(r)->integer;
		return 0;
	}
	if (redis_reply_type(r) == REPLY_ERROR || redis_reply_str(r, &p, &n))
		return -EPROTO;
	if (n && *p == '-') {
		negative = true;
		p++;
		n--;
	}
	if (digits_parse(p, n, &u) || u > INT64_MAX)
		return -EPROTO;
	*v = negative ? -(int64_t)u : (int64_t)u;
	return 0;
}

void redis_reply_free(struct redis_reply *r)
{
	if (r)
		freeReplyObject(r);
}
