// SPDX-License-Identifier: MIT
/* The cluster's key file. */
#include "engine/auth.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAX 4096

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static const char *skip_blanks(const char *p, const char *end)
{
	while (p < end && blank(*p))
		p++;
	return p;
}

static const char *id_parse(const char *p, const char *end, uint32_t *id)
{
	uint64_t v = 0;

	for (; p < end && *p >= '0' && *p <= '9'; p++) {
		v = v * 10 + (uint64_t)(*p - '0');
		if (v > UINT32_MAX)
			return NULL;
	}
	*id = (uint32_t)v;
	return v ? p : NULL;
}

static const char *hex_parse(const char *p, const char *end,
			     uint8_t bytes[ENGINE_KEY_BYTES])
{
	if (end - p < 2 * ENGINE_KEY_BYTES)
		return NULL;
	for (int i = 0; i < ENGINE_KEY_BYTES; i++, p += 2) {
		int high = digit(p[0]), low = digit(p[1]);

		if (high < 0 || low < 0)
			return NULL;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	return p;
}

/* "ID HEX", blanks around. Returns: NULL, or what is wrong. */
static const char *line_parse(const char *p, const char *end,
			      struct engine_keys *keys)
{
	struct engine_key *key = &keys->key[keys->n];

	if (keys->n == ENGINE_KEYS_MAX)
		return "more than four keys";
	p = id_parse(p, end, &key->id);
	if (!p || p == end || !blank(*p))
		return "a line is no 'ID HEX', such as 1 and 64 "
		       "hexadecimal digits (openssl rand -hex 32)";
	p = hex_parse(skip_blanks(p, end), end, key->bytes);
	if (!p || skip_blanks(p, end) != end)
		return "a key is not 64 hexadecimal digits";
	for (unsigned i = 0; i < keys->n; i++)
		if (keys->key[i].id == key->id)
			return "an id stands there twice";
	keys->n++;
	return NULL;
}

int engine_keys_parse(const char *text, size_t n, struct engine_keys *keys,
		      const char **why)
{
	const char *p = text, *end = text + n;
	struct engine_keys got = {};

	*why = NULL;
	while (p < end && !*why) {
		const char *eol = memchr(p, '\n', (size_t)(end - p));
		const char *next = eol ? eol + 1 : end;

		p = skip_blanks(p, end);
		eol = eol ? eol : end;
		if (p < eol && *p != '#')
			*why = line_parse(p, eol, &got);
		p = next;
	}
	if (!*why && !got.n)
		*why = "no key in it";
	if (!*why)
		*keys = got;
	engine_keys_wipe(&got);
	return *why ? -EINVAL : 0;
}

/* Returns: NULL, or what is wrong with the file. */
static const char *file_wrong(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return "not a regular file";
	if (st->st_mode & 077)
		return "others may read or write it: chmod 600";
	if (st->st_uid != 0 && st->st_uid != geteuid())
		return "belongs neither to root nor to this user";
	return NULL;
}

int engine_keys_load(const char *path, struct engine_keys *keys)
{
	cleanup_close int fd =
		open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	char text[FILE_MAX];
	const char *why = NULL;
	struct stat st;
	ssize_t n;
	int rc;

	if (fd < 0 || fstat(fd, &st)) {
		rc = -errno;
		log_error("cluster key: %s: %s", path, strerror(-rc));
		return rc;
	}
	why = file_wrong(&st);
	if (why) {
		log_error("cluster key: %s: %s", path, why);
		return -EACCES;
	}
	n = read(fd, text, sizeof(text));
	if (n < 0 || n == sizeof(text)) {
		rc = n < 0 ? -errno : -EINVAL;
		why = n < 0 ? strerror(errno) : "longer than 4095 bytes";
	} else {
		rc = engine_keys_parse(text, (size_t)n, keys, &why);
	}
	OPENSSL_cleanse(text, sizeof(text));
	if (rc)
		log_error("cluster key: %s: %s", path, why);
	return rc;
}

void engine_keys_wipe(struct engine_keys *keys)
{
	OPENSSL_cleanse(keys, sizeof(*keys));
}
