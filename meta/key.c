// SPDX-License-Identifier: MIT
#include "meta/key.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

static bool is_plain(unsigned char b)
{
	return (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') ||
	       (b >= '0' && b <= '9') || b == '-' || b == '_' || b == '.';
}

int key_prefix_check(const char *prefix)
{
	size_t n = strlen(prefix);

	if (!n || n > KEY_PREFIX_MAX)
		return -EINVAL;
	for (size_t i = 0; i < n; i++)
		if (!is_plain((unsigned char)prefix[i]) && prefix[i] != ':')
			return -EINVAL;
	return 0;
}

void key_make(struct key *k, const char *prefix, const char *tag,
	      const char *fmt, ...)
{
	va_list ap;
	int n, rest;

	n = snprintf(k->text, sizeof(k->text), "%s:{%s}:", prefix, tag);
	if (n < 0 || (size_t)n >= sizeof(k->text))
		n = sizeof(k->text) - 1;
	va_start(ap, fmt);
	rest = vsnprintf(k->text + n, sizeof(k->text) - (size_t)n, fmt, ap);
	va_end(ap);
	k->len = rest < 0 ? (size_t)n : (size_t)n + (size_t)rest;
	if (k->len >= sizeof(k->text))
		k->len = sizeof(k->text) - 1;
}

struct key_place key_place(const void *path, size_t path_len, uint32_t n_sub)
{
	uint64_t h = XXH3_64bits(path, path_len);

	return (struct key_place){
		.group = (uint32_t)(h % KEY_GROUPS),
		.sub = (uint32_t)((h / KEY_GROUPS) % (n_sub ? n_sub : 1)),
	};
}

void key_tag_kv(char *tag, const void *ns, size_t ns_len, uint32_t group)
{
	const unsigned char *p = ns;
	size_t n = 0;

	for (size_t i = 0; i < ns_len && n + 7 <= KEY_TAG_MAX; i++) {
		if (is_plain(p[i]))
			tag[n++] = (char)p[i];
		else
			n += (size_t)sprintf(tag + n, "%%%02X", p[i]);
	}
	snprintf(tag + n, KEY_TAG_MAX - n, "#%u", group);
}
