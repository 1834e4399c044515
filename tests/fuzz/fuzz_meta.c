// SPDX-License-Identifier: MIT
/* What comes from outside into meta: replies of Redis, records, addresses. */
#include "tests/fuzz/fuzz.h"

#include "meta/ckpt_keepers.h"
#include "meta/member.h"
#include "meta/record.h"
#include "meta/redis.h"
#include "meta/resp.h"
#include "meta/url.h"

const unsigned fuzz_runs = 100000;

static void reply_walk(const struct redis_reply *r)
{
	const char *p;
	uint64_t u;
	int64_t v;
	size_t n;

	redis_reply_int(r, &v);
	redis_reply_uint(r, &u);
	if (!redis_reply_str(r, &p, &n))
		fuzz_must(strlen(p) <= n); /* it is terminated */
	for (size_t i = 0; i < redis_reply_count(r); i++)
		reply_walk(redis_reply_at(r, i));
}

/* What was read can be written, and is then the same. */
static void keepers_same(const struct ckpt_keepers *k)
{
	char text[CKPT_KEEPERS_TEXT_MAX];
	struct ckpt_keepers again;

	fuzz_must(k->n <= CKPT_KEEPERS_MAX);
	ckpt_keepers_encode(k, text);
	fuzz_must(strlen(text) < sizeof(text));
	fuzz_must(!ckpt_keepers_decode(text, strlen(text), &again));
	fuzz_must(again.n == k->n && again.version == k->version &&
		  again.tree == k->tree && again.token == k->token &&
		  again.life == k->life);
	for (unsigned i = 0; i < k->n; i++) {
		fuzz_must(!strcmp(again.list[i].uuid, k->list[i].uuid));
		fuzz_must(!strcmp(again.list[i].name, k->list[i].name));
	}
}

static void keepers(const struct redis_reply *r)
{
	struct ckpt_keepers k = {.tree = 1};

	if (!ckpt_keepers_read(r, &k))
		keepers_same(&k);
}

static void keepers_file(const char *bytes, size_t n)
{
	struct ckpt_keepers k;

	if (!ckpt_keepers_decode(bytes, n, &k))
		keepers_same(&k);
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
			keepers(reply);
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

	if (!record_decode(bytes, n, &r))
		fuzz_must(r.n_holders <= RECORD_HOLDERS_MAX);
	record_dir_decode(bytes, n, &mode, &uid, &gid);
	if (record_ns_decode(bytes, n, &ns, &n_sub))
		return;
	record_ns_encode(&ns, n_sub, text);
	fuzz_must(!record_ns_decode(text, strlen(text), &again, &n_sub_again));
	fuzz_must(n_sub == n_sub_again && ns.quota_bytes == again.quota_bytes);
}

static void members(const char *bytes, size_t n)
{
	struct meta_node node = {.incarnation = 1}, again = node;
	struct meta_load load, load_again;
	char text[MEMBER_TEXT_MAX], load_text[MEMBER_LOAD_MAX];

	if (!member_decode(bytes, n, &node)) {
		member_encode(&node, text);
		fuzz_must(strlen(text) < sizeof(text));
		fuzz_must(!member_decode(text, strlen(text), &again));
		fuzz_must(!strcmp(node.name, again.name) &&
			  !strcmp(node.host, again.host) &&
			  !memcmp(&node.self, &again.self, sizeof(node.self)));
	}
	if (!member_load_decode(bytes, n, &load)) {
		member_load_encode(&load, load_text);
		fuzz_must(!member_load_decode(load_text, strlen(load_text),
					      &load_again));
		fuzz_must(load.victim_age_ms == load_again.victim_age_ms &&
			  load.pool_bytes == load_again.pool_bytes);
	}
}

static void addresses(const char *bytes, size_t n)
{
	char *text = strndup(bytes, n), shown[URL_TEXT_MAX];
	const char *why;
	struct url u, again;

	if (text && !url_parse(&u, text, &why)) {
		url_format(&u, shown);
		fuzz_must(!url_parse(&again, shown, &why));
		fuzz_must(!strcmp(u.host, again.host) && u.db == again.db);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	const char *bytes = (const char *)data;

	replies(bytes, n);
	records(bytes, n);
	members(bytes, n);
	keepers_file(bytes, n);
	addresses(bytes, n);
	return 0;
}

static void seed_text(const char *text)
{
	fuzz_seed(text, strlen(text));
}

static void seed_records(void)
{
	const struct meta_kv_state s = {.generation = 7,
					.size_bytes = 1 << 20,
					.checksum = {1, 2},
					.mode = 0644,
					.uid = 1000,
					.gid = 1000};
	const struct meta_namespace ns = {.mode = 040755, .replicas = 1};
	uint8_t r[RECORD_HEAD_BYTES + 1 + 8] = {}, d[RECORD_DIR_BYTES];
	char text[RECORD_NS_MAX];

	record_encode(&s, r);
	r[RECORD_HEAD_BYTES] = 2; /* holders */
	fuzz_seed(r, sizeof(r));
	record_dir_encode(040755, 0, 0, d);
	fuzz_seed(d, sizeof(d));
	record_ns_encode(&ns, 16, text);
	seed_text(text);
}

#define UUID "0f0e0d0c-0b0a-4908-8706-050403020100"

static void seed_keepers(void)
{
	struct ckpt_keepers k = {.tree = 0x1234,
				 .life = 3,
				 .token = ~0ull,
				 .version = 7,
				 .n = 2};
	char text[CKPT_KEEPERS_TEXT_MAX];

	for (unsigned i = 0; i < k.n; i++) {
		strcpy(k.list[i].uuid, UUID);
		strcpy(k.list[i].name, "node \n1");
	}
	ckpt_keepers_encode(&k, text);
	seed_text(text);
	seed_text("*8\r\n$1\r\n0\r\n$2\r\n17\r\n$1\r\n7\r\n$36\r\n" UUID
		  "\r\n$2\r\n12\r\n$2\r\n17\r\n$1\r\nk\r\n$3\r\na%20\r\n");
	seed_text("*3\r\n$1\r\n0\r\n$1\r\n1\r\n:0\r\n");
}

void fuzz_seeds(void)
{
	seed_records();
	seed_text("1 0f0e0d0c-0b0a-4908-8706-050403020100 draining 2 5 h%C3%A9 "
		  "node%20a 10.0.0.2:7411 [fd00::1]:7411 unix:/run/kvfs");
	seed_text("1099511627776 4096 17 1235 3 0 later");
	seed_text("+OK\r\n:12\r\n$-1\r\n-ERR no such key\r\n");
	seed_text("*3\r\n$3\r\nfoo\r\n:-7\r\n*2\r\n$0\r\n\r\n*0\r\n");
	seed_keepers();
	seed_text("*-1\r\n$5\r\na\r\nbc\r\n*1\r\n*1\r\n*1\r\n:1\r\n");
	seed_text("redis://user@host.example:6380/3");
	/* Found here: shown, each was another address. */
	seed_text("redis://@@host:6380/3");
	seed_text("redis://[[x]:6379");
	seed_text("rediss://[::1]:6379");
	seed_text("unix:///run/redis/redis.sock?db=2");
}
