// SPDX-License-Identifier: MIT
/*
 * What comes from outside into meta: replies of Redis, records, addresses.
 *
 *      clang -g -fsanitize=fuzzer,address -D_GNU_SOURCE= -I. \
 *              tests/fuzz/fuzz_meta.c meta/{resp,redis_cmd,record,url}.c \
 *              -lhiredis
 *
 * Built without -fsanitize=fuzzer (and with -DFUZZ_MAIN) it runs the files
 * that are its arguments, once each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "meta/record.h"
#include "meta/redis.h"
#include "meta/resp.h"
#include "meta/url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void reply_walk(const struct redis_reply *r)
{
	const char *p;
	uint64_t u;
	int64_t v;
	size_t n;

	redis_reply_int(r, &v);
	redis_reply_uint(r, &u);
	if (!redis_reply_str(r, &p, &n) && strlen(p) > n)
		abort(); /* not terminated */
	for (size_t i = 0; i < redis_reply_count(r); i++)
		reply_walk(redis_reply_at(r, i));
}

static void replies(const char *bytes, size_t n)
{
	struct resp_reader *reader = resp_reader_new();
	struct redis_reply *reply;

	if (!reader)
		return;
	if (!resp_feed(reader, bytes, n))
		while (!resp_next(reader, &reply) && reply) {
			reply_walk(reply);
			redis_reply_free(reply);
		}
	resp_reader_free(reader);
}

static void records(const char *bytes, size_t n)
{
	char text[RECORD_NS_MAX];
	struct meta_namespace ns, again;
	uint32_t n_sub, n_sub_again;
	uint32_t mode, uid, gid;
	struct record r;

	if (!record_decode(bytes, n, &r) && r.n_holders > RECORD_HOLDERS_MAX)
		abort();
	record_dir_decode(bytes, n, &mode, &uid, &gid);
	if (record_ns_decode(bytes, n, &ns, &n_sub))
		return;
	record_ns_encode(&ns, n_sub, text);
	if (record_ns_decode(text, strlen(text), &again, &n_sub_again) ||
	    n_sub != n_sub_again || ns.quota_bytes != again.quota_bytes)
		abort();
}

static void addresses(const char *bytes, size_t n)
{
	char *text = strndup(bytes, n), shown[URL_TEXT_MAX];
	const char *why;
	struct url u, again;

	if (text && !url_parse(&u, text, &why)) {
		url_format(&u, shown);
		if (url_parse(&again, shown, &why) ||
		    strcmp(u.host, again.host) != 0 || u.db != again.db)
			abort();
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const char *bytes = (const char *)data;

	replies(bytes, n);
	records(bytes, n);
	addresses(bytes, n);
	return 0;
}

#ifdef FUZZ_MAIN
int main(int argc, char **argv)
{
	static uint8_t data[1 << 20];

	for (int i = 1; i < argc; i++) {
		FILE *f = fopen(argv[i], "re");
		size_t n = f ? fread(data, 1, sizeof(data), f) : 0;

		if (!f) {
			perror(argv[i]);
			return EXIT_FAILURE;
		}
		fclose(f);
		LLVMFuzzerTestOneInput(data, n);
	}
	return EXIT_SUCCESS;
}
#endif
