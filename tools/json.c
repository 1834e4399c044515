// SPDX-License-Identifier: MIT
#include "tools/json.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

static int read_all(int fd, char **text, size_t *len)
{
	size_t room = 1 << 16, n = 0;
	char *buf = malloc(room), *more;
	ssize_t got = 1;
	int rc;

	while (buf && (got = read(fd, buf + n, room - n)) > 0) {
		n += (size_t)got;
		if (n < room)
			continue;
		room *= 2;
		more = realloc(buf, room);
		if (!more)
			free(buf);
		buf = more;
	}
	if (!buf)
		return -ENOMEM;
	if (got < 0) {
		rc = -errno;
		free(buf);
		return rc;
	}
	*text = buf;
	*len = n;
	return 0;
}

int json_read(const char *path, json_t **json)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	cleanup_free char *text = NULL;
	size_t len = 0;
	int rc;

	if (fd < 0)
		return -errno;
	rc = read_all(fd, &text, &len);
	if (rc)
		return rc;
	*json = json_loadb(text, len, 0, NULL);
	return *json ? 0 : -EBADMSG;
}

int json_read_control(const char *mountpoint, const char *name, json_t **json)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/.kvfs/%s", mountpoint, name);
	return json_read(path, json);
}

json_t *json_at(json_t *json, const char *path)
{
	char key[64];
	size_t n;

	for (; json && *path; path += n + (path[n] == '.')) {
		n = strcspn(path, ".");
		if (n >= sizeof(key))
			return NULL;
		memcpy(key, path, n);
		key[n] = 0;
		json = json_object_get(json, key);
	}
	return json;
}

uint64_t json_u64(json_t *json, const char *path, uint64_t fallback)
{
	json_t *v = json_at(json, path);

	if (json_is_integer(v))
		return (uint64_t)json_integer_value(v);
	return json_is_real(v) ? (uint64_t)json_real_value(v) : fallback;
}

double json_f64(json_t *json, const char *path, double fallback)
{
	json_t *v = json_at(json, path);

	return json_is_number(v) ? json_number_value(v) : fallback;
}

const char *json_text(json_t *json, const char *path, const char *fallback)
{
	json_t *v = json_at(json, path);

	return json_is_string(v) ? json_string_value(v) : fallback;
}

bool json_bool(json_t *json, const char *path, bool fallback)
{
	json_t *v = json_at(json, path);

	return json_is_boolean(v) ? json_is_true(v) : fallback;
}

static void put(json_t *json, size_t flags)
{
	json_dumpf(json, stdout, flags | JSON_REAL_PRECISION(15));
	putchar('\n');
	json_decref(json);
}

void json_put_line(json_t *json)
{
	put(json, JSON_COMPACT);
}

void json_put(json_t *json)
{
	put(json, JSON_INDENT(2));
}

/* Length of the well-formed UTF-8 sequence at s, or 0. */
static size_t sequence(const unsigned char *s)
{
	size_t n = *s < 0x80   ? 1
		   : *s < 0xc2 ? 0
		   : *s < 0xe0 ? 2
		   : *s < 0xf0 ? 3
		   : *s < 0xf5 ? 4
			       : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

json_t *json_name(const char *name)
{
	cleanup_free char *safe = NULL;
	json_t *json = json_string(name);
	size_t n, len;
	char *to;

	if (json)
		return json;
	safe = to = malloc(3 * strlen(name) + 1);
	if (!safe)
		return NULL;
	for (; *name; name += len) {
		n = sequence((const unsigned char *)name);
		len = n ? n : 1;
		memcpy(to, n ? name : "\xef\xbf\xbd", n ? n : 3);
		to += n ? n : 3;
	}
	*to = 0;
	json = json_string(safe);
	return json ? json : json_string("?");
}
