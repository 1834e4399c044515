// SPDX-License-Identifier: MIT
#include "meta/ckpt_keepers.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "meta/member.h"
#include "meta/record.h"
#include "meta/redis.h"

#define FILE_NAME "ckpt.keepers"

/* --- text -------------------------------------------------------------- */

void ckpt_keepers_encode(const struct ckpt_keepers *k,
			 char out[static CKPT_KEEPERS_TEXT_MAX])
{
	out += sprintf(out, "1 %" PRIx64 " %" PRIu64 " %" PRIx64 " %" PRIu64,
		       k->tree, k->life, k->token, k->version);
	for (unsigned i = 0; i < k->n; i++) {
		out += sprintf(out, "\n%s ", k->list[i].uuid);
		out = record_text_encode(out, k->list[i].name);
	}
	strcpy(out, "\n");
}

static bool take_number(const char **p, const char *end, unsigned base,
			uint64_t *v)
{
	const char *from = *p;

	for (*v = 0; *p < end; ++*p) {
		unsigned digit = 16;

		if (**p >= '0' && **p <= '9')
			digit = (unsigned)(**p - '0');
		else if (**p >= 'a' && **p <= 'f')
			digit = (unsigned)(**p - 'a') + 10;
		if (digit >= base)
			break;
		if (__builtin_mul_overflow(*v, base, v) ||
		    __builtin_add_overflow(*v, digit, v))
			return false;
	}
	return *p > from;
}

static bool take_char(const char **p, const char *end, char c)
{
	return *p < end && *(*p)++ == c;
}

static bool head_decode(const char **p, const char *end, struct ckpt_keepers *k)
{
	return take_char(p, end, '1') && take_char(p, end, ' ') &&
	       take_number(p, end, 16, &k->tree) && take_char(p, end, ' ') &&
	       take_number(p, end, 10, &k->life) && take_char(p, end, ' ') &&
	       take_number(p, end, 16, &k->token) && take_char(p, end, ' ') &&
	       take_number(p, end, 10, &k->version) && take_char(p, end, '\n');
}

static bool keeper_decode(const char **p, const char *end,
			  struct ckpt_keepers *k)
{
	const char *line = *p,
		   *newline = memchr(line, '\n', (size_t)(end - line));
	struct ckpt_keeper *one = &k->list[k->n];
	const char *name = line + META_UUID_LEN + 1;

	if (!newline || newline < name || k->n == CKPT_KEEPERS_MAX ||
	    !member_uuid_valid(line, META_UUID_LEN) ||
	    line[META_UUID_LEN] != ' ' ||
	    record_text_decode(name, (size_t)(newline - name), one->name,
			       META_NODE_NAME_MAX))
		return false;
	memcpy(one->uuid, line, META_UUID_LEN);
	one->uuid[META_UUID_LEN] = '\0';
	one->whole = true;
	k->n++;
	*p = newline + 1;
	return true;
}

int ckpt_keepers_decode(const char *text, size_t n, struct ckpt_keepers *k)
{
	const char *p = text, *end = text + n;
	struct ckpt_keepers v = {0};

	if (!head_decode(&p, end, &v))
		return -EPROTO;
	while (p < end)
		if (!keeper_decode(&p, end, &v))
			return -EPROTO;
	*k = v;
	return 0;
}

/* --- what Redis says --------------------------------------------------- */

#define FIELDS 5u /* of a keeper */
#define HEAD 3u	  /* status, seq, version */

static bool name_read(const struct redis_reply *r, char *name)
{
	const char *p;
	size_t n;

	return !redis_reply_str(r, &p, &n) &&
	       !record_text_decode(p, n, name, META_NODE_NAME_MAX);
}

static bool keeper_read(const struct redis_reply *r, size_t at,
			struct ckpt_keeper *k)
{
	const char *uuid, *state = redis_reply_text(redis_reply_at(r, at + 3));
	uint64_t inc;
	size_t n;

	if (redis_reply_str(redis_reply_at(r, at), &uuid, &n) ||
	    !member_uuid_valid(uuid, n) ||
	    redis_reply_uint(redis_reply_at(r, at + 1), &inc) ||
	    inc > UINT32_MAX ||
	    redis_reply_uint(redis_reply_at(r, at + 2), &k->seq) ||
	    !name_read(redis_reply_at(r, at + 4), k->name))
		return false;
	memcpy(k->uuid, uuid, n);
	k->uuid[n] = '\0';
	k->incarnation = (uint32_t)inc;
	k->whole = !strcmp(state, "k");
	return true;
}

int ckpt_keepers_read(const struct redis_reply *r, struct ckpt_keepers *k)
{
	size_t n = redis_reply_count(r);
	struct ckpt_keepers v = {0};

	if (n < HEAD || (n - HEAD) % FIELDS ||
	    (n - HEAD) / FIELDS > CKPT_KEEPERS_MAX ||
	    redis_reply_uint(redis_reply_at(r, 2), &v.version))
		return -EPROTO;
	for (size_t at = HEAD; at < n; at += FIELDS)
		if (!keeper_read(r, at, &v.list[v.n++]))
			return -EPROTO;
	k->version = v.version;
	k->n = v.n;
	memcpy(k->list, v.list, sizeof(k->list));
	return 0;
}

/* --- the file ---------------------------------------------------------- */

int ckpt_keepers_load(struct ckpt_keepers *k, const char *dir)
{
	char text[CKPT_KEEPERS_TEXT_MAX];
	cleanup_free char *path = NULL;
	cleanup_close int fd = -1;
	ssize_t n;

	*k = (struct ckpt_keepers){0};
	if (asprintf(&path, "%s/" FILE_NAME, dir) < 0)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return 0;
	n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (n < 0) {
		int err = -errno;

		log_error("ckpt: %s: %s", path, strerror(-err));
		return err;
	}
	if (ckpt_keepers_decode(text, (size_t)n, k))
		log_warn("ckpt: %s: damaged: it counts as absent", path);
	return 0;
}

static int save(const struct ckpt_keepers *k, const char *path, const char *tmp)
{
	cleanup_close int fd =
		open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char text[CKPT_KEEPERS_TEXT_MAX];

	ckpt_keepers_encode(k, text);
	if (fd < 0 || dprintf(fd, "%s", text) < 0 || fsync(fd) ||
	    rename(tmp, path))
		return -errno;
	return 0;
}

int ckpt_keepers_save(const struct ckpt_keepers *k, const char *dir)
{
	cleanup_free char *path = NULL, *tmp = NULL;
	int err = -ENOMEM;

	if (asprintf(&path, "%s/" FILE_NAME, dir) >= 0 &&
	    asprintf(&tmp, "%s.tmp", path) >= 0)
		err = save(k, path, tmp);
	if (err)
		log_error("ckpt: %s/" FILE_NAME ": %s", dir, strerror(-err));
	return err;
}

const struct ckpt_keeper *ckpt_keepers_find(const struct ckpt_keepers *k,
					    const char *uuid)
{
	for (unsigned i = 0; i < k->n; i++)
		if (!strcmp(k->list[i].uuid, uuid))
			return &k->list[i];
	return NULL;
}
