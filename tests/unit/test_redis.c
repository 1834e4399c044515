// SPDX-License-Identifier: MIT
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "meta/key.h"
#include "meta/record.h"
#include "meta/redis.h"
#include "meta/resp.h"
#include "meta/url.h"
#include "meta_fixture.h"

/* --- a server that says what the test wants ---------------------------- */

#define FAKE_INFO "redis_version:7.0.15\r\nrun_id:%s\r\n"

static struct fake {
	pthread_mutex_t lock;
	int fd;
	char log[65536]; /* "connection: words" lines */
	const char *info;
	const char *_Atomic run_id;
	const char *_Atomic answer; /* to what the handshake does not know */
	bool hang_up;		    /* at once after accepting */
	_Atomic int n_accepted;
} fake;

static void fake_log(int connection, char *const *words, int n)
{
	scoped_lock(&fake.lock);
	for (int i = 0; i < n; i++) {
		size_t at = strlen(fake.log);

		snprintf(fake.log + at, sizeof(fake.log) - at, "%s%.40s",
			 i ? " " : "", words[i]);
	}
	(void)connection;
	strcat(fake.log, "\n");
}

static void say(int fd, const char *text)
{
	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		return;
}

static void fake_answer(int fd, int connection, char *const *words, int n)
{
	char text[256], info[200];

	if (!strcmp(words[0], "INFO")) {
		snprintf(info, sizeof(info), fake.info, fake.run_id);
		snprintf(text, sizeof(text), "$%zu\r\n%s\r\n", strlen(info),
			 info);
		say(fd, text);
	} else if (!strcmp(words[0], "CLIENT") && !strcmp(words[1], "ID")) {
		snprintf(text, sizeof(text), ":%d\r\n", 100 + connection);
		say(fd, text);
	} else if (!strcmp(words[0], "CLIENT") || !strcmp(words[0], "PING")) {
		say(fd, "+OK\r\n");
	} else {
		say(fd, fake.answer);
	}
	for (int i = 0; i < n; i++)
		free(words[i]);
}

struct fake_connection {
	int fd, number;
};

static void *fake_serve(void *arg)
{
	struct fake_connection *c = arg;
	FILE *f = fdopen(c->fd, "r+");
	char *words[16];
	int n, len;

	while (f && fscanf(f, "*%d\r\n", &n) == 1 && n <= 16) {
		for (int i = 0; i < n; i++) {
			ck_assert_int_eq(fscanf(f, "$%d", &len), 1);
			fgetc(f);
			fgetc(f);
			words[i] = calloc(1, (size_t)len + 1);
			ck_assert_uint_eq(fread(words[i], 1, (size_t)len, f),
					  (size_t)len);
			fgetc(f);
			fgetc(f);
		}
		fake_log(c->number, words, n);
		fake_answer(c->fd, c->number, words, n);
	}
	if (f)
		fclose(f);
	free(c);
	return NULL;
}

static void *fake_accept(void *arg)
{
	int fd;

	(void)arg;
	while ((fd = accept4(fake.fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		struct fake_connection *c = calloc(1, sizeof(*c));
		pthread_t t;

		c->fd = fd;
		c->number = ++fake.n_accepted;
		if (fake.hang_up) {
			close(fd);
			free(c);
			continue;
		}
		pthread_create(&t, NULL, fake_serve, c);
		pthread_detach(t);
	}
	return NULL;
}

static void fake_start(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	pthread_t t;

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path_of("redis.sock"));
	pthread_mutex_init(&fake.lock, NULL);
	fake.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert(!bind(fake.fd, (struct sockaddr *)&a, sizeof(a)));
	ck_assert(!listen(fake.fd, 16));
	if (!fake.info)
		fake.info = FAKE_INFO;
	if (!fake.run_id)
		fake.run_id = "aaaa";
	pthread_create(&t, NULL, fake_accept, NULL);
	pthread_detach(t);
}

static unsigned fake_heard(const char *text)
{
	unsigned n = 0;

	scoped_lock(&fake.lock);
	for (const char *p = fake.log; (p = strstr(p, text)); p++)
		n++;
	return n;
}

/* --- the connection under test ----------------------------------------- */

static struct redis *r;

static int open_for(int64_t ns)
{
	static struct url url;
	const char *why;
	struct redis_config c = {.url = &url, .name = "test"};

	ck_assert_int_eq(url_parse(&url, server_url(), &why), 0);
	return redis_open(&r, &c, clock_now_ns() + ns);
}

static int call(enum redis_wait wait, int64_t ns, const char *words, char *text,
		size_t room)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	int err;

	redis_cmd_words(&c, words);
	err = redis_call(r, wait, clock_now_ns() + ns, &c, &reply);
	if (!err && text)
		snprintf(text, room, "%s", redis_reply_text(reply));
	return err;
}

START_TEST(a_late_reply_is_dropped_and_the_next_call_gets_its_own)
{
	char text[32];

	server_start(NULL);
	ck_assert_int_eq(open_for(5 * NS_PER_S), 0);
	server_signal(SIGSTOP);
	ck_assert_int_eq(call(REDIS_TRY, 50 * NS_PER_MS, "ECHO old", NULL, 0),
			 -ETIMEDOUT);
	ck_assert(!redis_up(r));
	ck_assert_int_eq(call(REDIS_TRY, 50 * NS_PER_MS, "ECHO no", NULL, 0),
			 -ENOTCONN);
	ck_assert_int_eq(call(REDIS_WAIT, 50 * NS_PER_MS, "ECHO no", NULL, 0),
			 -ENOTCONN);
	server_signal(SIGCONT);

	ck_assert_int_eq(
		call(REDIS_WAIT, 5 * NS_PER_S, "ECHO new", text, sizeof(text)),
		0);
	ck_assert_str_eq(text, "new");
	redis_close(r);
}
END_TEST

START_TEST(a_deadline_that_is_over_says_nothing_about_redis)
{
	server_start(NULL);
	ck_assert_int_eq(open_for(5 * NS_PER_S), 0);
	ck_assert_int_eq(call(REDIS_TRY, -1, "SET k 1", NULL, 0), -ETIMEDOUT);
	ck_assert(redis_up(r));
	ck_assert_int_eq(server_int("EXISTS k"), 0);
	redis_close(r);
}
END_TEST

static void *call_waiting(void *arg)
{
	char *text = arg;

	ck_assert_int_eq(call(REDIS_WAIT, 10 * NS_PER_S, "ECHO y", text, 32),
			 0);
	return NULL;
}

START_TEST(a_waiting_call_lives_through_a_restart_of_the_server)
{
	char text[32] = "";
	pthread_t t;

	server_start(NULL);
	ck_assert_int_eq(open_for(5 * NS_PER_S), 0);
	server_stop();
	WAIT_FOR(!redis_up(r));
	ck_assert_int_eq(call(REDIS_TRY, NS_PER_S, "ECHO x", NULL, 0),
			 -ENOTCONN);
	pthread_create(&t, NULL, call_waiting, text);
	wait_ms(100); /* it is waiting by now, most likely */
	server_start(NULL);
	pthread_join(t, NULL);
	ck_assert_str_eq(text, "y");
	redis_close(r);
}
END_TEST

static _Atomic int n_done, n_failed;

static void done(void *ctx, int err, struct redis_reply *reply)
{
	(void)ctx;
	(void)reply;
	n_done++;
	n_failed += err != 0;
}

START_TEST(what_waits_for_a_silent_redis_is_bounded_and_every_call_ends)
{
	redis_cmd_auto struct redis_cmd c = {0};
	static char big[1 << 17]; /* few and large: done in well under 2 s */
	int n = 0, err;

	server_start(NULL);
	ck_assert_int_eq(open_for(5 * NS_PER_S), 0);
	server_signal(SIGSTOP);
	memset(big, 'x', sizeof(big));
	redis_cmd_str(&c, "ECHO");
	redis_cmd_bin(&c, big, sizeof(big));
	while (!(err = redis_send(r, &c, done, NULL)))
		n++;
	/* on a machine that took 2 s for that the breaker is open by now */
	ck_assert(err == -EAGAIN || err == -ENOTCONN);
	ck_assert_int_lt(n, 150);
	ck_assert_int_eq(n_done, 0);
	redis_close(r);
	ck_assert_int_eq(n_done, n);
	ck_assert_int_eq(n_failed, n);
}
END_TEST

START_TEST(all_of_a_large_pipeline_is_answered)
{
	redis_cmd_auto struct redis_cmd c = {0};
	char big[4096];

	server_start(NULL);
	ck_assert_int_eq(open_for(5 * NS_PER_S), 0);
	memset(big, 'x', sizeof(big));
	redis_cmd_str(&c, "ECHO");
	redis_cmd_bin(&c, big, sizeof(big));
	for (int i = 0; i < 10000; i++) {
		int err;

		/* past 16 MiB unsent it says so: a slow machine gets there */
		WAIT_FOR((err = redis_send(r, &c, done, NULL)) != -EAGAIN);
		ck_assert_int_eq(err, 0);
	}
	WAIT_FOR(n_done == 10000);
	ck_assert_int_eq(n_failed, 0);
	redis_close(r);
}
END_TEST

START_TEST(a_new_connection_first_kills_the_one_before_it)
{
	char *first;

	fake.answer = "garbage\r\n";
	fake_start();
	ck_assert_int_eq(open_for(5 * NS_PER_S), 0);
	ck_assert_int_eq(redis_client_id(r), 101);
	ck_assert_int_eq(fake_heard("CLIENT KILL"), 0);
	ck_assert_int_eq(call(REDIS_TRY, 5 * NS_PER_S, "GET x", NULL, 0),
			 -ECONNRESET);
	WAIT_FOR(redis_client_id(r) == 102);
	ck_assert_int_eq(fake_heard("CLIENT KILL ID 101"), 1);
	first = strstr(fake.log, "GET x");
	ck_assert_ptr_nonnull(strstr(first, "INFO server\nCLIENT KILL ID 101"));

	fake.run_id = "bbbb"; /* another server: that id is somebody else's */
	ck_assert_int_eq(call(REDIS_TRY, 5 * NS_PER_S, "GET x", NULL, 0),
			 -ECONNRESET);
	WAIT_FOR(redis_client_id(r) == 103);
	ck_assert_int_eq(fake_heard("CLIENT KILL"), 1);
	redis_close(r);
}
END_TEST

START_TEST(replies_of_a_hostile_server_end_the_connection_and_nothing_else)
{
	static const char *const answers[] = {
		"*2000000000\r\n:1\r\n",
		"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
		"$99999999999999999999\r\n",
		"$-7\r\n",
		":12x\r\n",
		"\r\n",
		"HTTP/1.1 400 Bad Request\r\n\r\n",
		"+OK\r\n+AND\r\n+MORE\r\n",
	};

	fake.answer = "+OK\r\n";
	fake_start();
	ck_assert_int_eq(open_for(5 * NS_PER_S), 0);
	for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		int64_t id = redis_client_id(r);
		int err;

		fake.answer = answers[i];
		err = call(REDIS_TRY, 5 * NS_PER_S, "GET x", NULL, 0);
		ck_assert_msg(err == -ECONNRESET || i == 7, "%s: %d",
			      answers[i], err);
		fake.answer = "+OK\r\n";
		WAIT_FOR(redis_client_id(r) > id && redis_up(r));
	}
	ck_assert_int_eq(call(REDIS_TRY, 5 * NS_PER_S, "GET x", NULL, 0), 0);
	redis_close(r);
}
END_TEST

START_TEST(a_server_that_hangs_up_is_tried_again_at_growing_pauses)
{
	int64_t start = clock_now_ns();

	fake.hang_up = true;
	fake_start();
	ck_assert_int_ne(open_for(700 * NS_PER_MS), 0);
	ck_assert_int_ge(clock_now_ns() - start, 690 * NS_PER_MS);
	ck_assert_int_ge(fake.n_accepted, 4);
	ck_assert_int_le(fake.n_accepted, 9);
}
END_TEST

START_TEST(an_older_redis_is_refused)
{
	fake.info = "redis_version:6.2.11\r\nrun_id:%s\r\n";
	fake_start();
	ck_assert_int_eq(open_for(5 * NS_PER_S), -EPROTONOSUPPORT);
	ck_assert(logged("Redis 7.0 or later is needed, this is 6.2.11"));
}
END_TEST

START_TEST(what_is_not_redis_is_not_waited_for_beyond_the_deadline)
{
	fake.info = "%s";
	fake_start();
	ck_assert_int_ne(open_for(NS_PER_S), 0);
}
END_TEST

/* --- pure functions ---------------------------------------------------- */

START_TEST(addresses_are_taken_apart)
{
	static const struct {
		const char *text, *host, *user, *shown;
		unsigned port, db;
		int err;
	} cases[] = {
		{"redis://h", "h", "", "redis://h:6379/0", 6379, 0, 0},
		{"redis://u@h:1/3", "h", "u", "redis://u@h:1/3", 1, 3, 0},
		{"rediss://u@h:7/1", "h", "u", "rediss://u@h:7/1", 7, 1, 0},
		{"redis://[::1]:7/", "::1", "", "redis://[::1]:7/0", 7, 0, 0},
		{"unix:///a/b?db=2", "/a/b", "", "unix:///a/b?db=2", 0, 2, 0},
		{"unix:///a/b", "/a/b", "", "unix:///a/b", 0, 0, 0},
		{"redis://", .err = -EINVAL},
		{"redis://:6379", .err = -EINVAL},
		{"redis://h:", .err = -EINVAL},
		{"redis://h:0", .err = -EINVAL},
		{"redis://h:65536", .err = -EINVAL},
		{"redis://h:99999999999", .err = -EINVAL},
		{"redis://h/x", .err = -EINVAL},
		{"redis://[::1", .err = -EINVAL},
		{"redis://[::1]x", .err = -EINVAL},
		{"redis://u:p@h", .err = -EINVAL},
		{"unix://relative", .err = -EINVAL},
		{"unix:///a?x=1", .err = -EINVAL},
		{"rediss://", .err = -EINVAL},
		{"rediss://u:p@h", .err = -EINVAL},
		{"", .err = -EINVAL},
	};
	char shown[URL_TEXT_MAX];

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const char *why = NULL;
		struct url u;
		int err = url_parse(&u, cases[i].text, &why);

		ck_assert_msg(err == cases[i].err, "%s", cases[i].text);
		if (err) {
			ck_assert_ptr_nonnull(why);
			continue;
		}
		url_format(&u, shown);
		ck_assert_str_eq(u.host, cases[i].host);
		ck_assert_str_eq(u.user, cases[i].user);
		ck_assert_str_eq(shown, cases[i].shown);
		ck_assert_uint_eq(u.port, cases[i].port);
		ck_assert_uint_eq(u.db, cases[i].db);
	}
}
END_TEST

START_TEST(a_record_is_read_back_whole_and_refused_in_any_other_length)
{
	struct meta_kv_state s = {.generation = 1ull << 40,
				  .size_bytes = 77,
				  .checksum = {1, UINT64_MAX},
				  .mode = 0644,
				  .uid = 5,
				  .gid = UINT32_MAX};
	uint8_t bytes[RECORD_HEAD_BYTES + 1 + 4 * 17] = {0};
	struct record rec;

	record_encode(&s, bytes);
	bytes[RECORD_HEAD_BYTES] = 2;
	bytes[RECORD_HEAD_BYTES + 1] = 9;
	for (size_t n = 0; n <= sizeof(bytes); n++)
		ck_assert_int_eq(record_decode(bytes, n, &rec),
				 n == RECORD_HEAD_BYTES + 9 ? 0 : -EPROTO);
	ck_assert_int_eq(record_decode(bytes, RECORD_HEAD_BYTES + 9, &rec), 0);
	ck_assert_uint_eq(rec.generation, 1ull << 40);
	ck_assert_uint_eq(rec.checksum[1], UINT64_MAX);
	ck_assert_uint_eq(rec.gid, UINT32_MAX);
	ck_assert_uint_eq(rec.holders[0], 9);
	bytes[RECORD_HEAD_BYTES] = 17;
	ck_assert_int_eq(record_decode(bytes, sizeof(bytes), &rec), -EPROTO);
	bytes[0] = 2;
	ck_assert_int_eq(record_decode(bytes, RECORD_HEAD_BYTES + 9, &rec),
			 -EPROTO);
}
END_TEST

START_TEST(a_namespace_s_record_is_nine_numbers)
{
	static const char *const bad[] = {
		"",
		"1 2 3 4 5 1 16 0",
		"1 2 3 4 5 1 0 0 0",
		"1 2 3 4 5 2 16 0 0",
		"1 2 3 4 5 1 16 0 0 7",
		"1  2 3 4 5 1 16 0 0",
		" 1 2 3 4 5 1 16 0 0",
		"1 2 3 4 5 1 16 0 0 ",
		"a 2 3 4 5 1 16 0 0",
		"1 2 3 99999999999999999999 5 1 16 0 0",
		"4294967296 2 3 4 5 1 16 0 0",
		"1 2 3 4 5 1 16 0 4294967296"};
	struct meta_namespace ns = {040755, 1, 2, UINT64_MAX, 3, true, 4, 60},
			      got;
	char text[RECORD_NS_MAX];
	uint32_t n_sub;

	record_ns_encode(&ns, 16, text);
	ck_assert_int_eq(record_ns_decode(text, strlen(text), &got, &n_sub), 0);
	ck_assert_uint_eq(got.quota_bytes, UINT64_MAX);
	ck_assert_uint_eq(got.replicas, 3);
	ck_assert(got.checksum);
	ck_assert_uint_eq(got.hot_reads, 4);
	ck_assert_uint_eq(got.hot_seconds, 60);
	ck_assert_uint_eq(n_sub, 16);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_msg(record_ns_decode(bad[i], strlen(bad[i]), &got,
					       &n_sub) == -EPROTO,
			      "%s", bad[i]);
}
END_TEST

START_TEST(keys_have_one_tag_whatever_the_namespace_is_called)
{
	char name[255], tag[KEY_TAG_MAX];
	struct key k;

	key_tag_kv(tag, "a}{b/\n", 6, 63);
	ck_assert_str_eq(tag, "a%7D%7Bb%2F%0A#63");
	memset(name, 0xff, sizeof(name));
	key_tag_kv(tag, name, sizeof(name), 63);
	ck_assert_uint_eq(strlen(tag), 255 * 3 + 3);
	key_make(&k, "p", tag, "b%u", 65535u);
	ck_assert_uint_eq(k.len, 255 * 3 + 3 + 11);
	ck_assert_str_eq(k.text + k.len - 8, "}:b65535");
	ck_assert_int_eq(key_prefix_check("kvfs:a.b-c_1"), 0);
	ck_assert_int_eq(key_prefix_check(""), -EINVAL);
	ck_assert_int_eq(key_prefix_check("a{b"), -EINVAL);
	ck_assert_int_eq(key_prefix_check("a b"), -EINVAL);
}
END_TEST

static struct redis_reply *parse(struct resp_reader *reader, const char *text)
{
	struct redis_reply *reply = NULL;

	ck_assert_int_eq(resp_feed(reader, text, strlen(text)), 0);
	ck_assert_int_eq(resp_next(reader, &reply), 0);
	return reply;
}

START_TEST(replies_of_the_wrong_type_are_an_error_not_a_crash)
{
	struct resp_reader *reader = resp_reader_new();
	redis_reply_auto struct redis_reply *reply = NULL;
	const struct redis_reply *at;
	const char *p;
	uint64_t u;
	int64_t v;
	size_t n;

	reply = parse(reader, "*5\r\n:-3\r\n$2\r\n-4\r\n$3\r\n1x3\r\n$-1\r\n"
			      "$20\r\n18446744073709551615\r\n");
	ck_assert_uint_eq(redis_reply_count(reply), 5);
	ck_assert_int_eq(redis_reply_int(redis_reply_at(reply, 0), &v), 0);
	ck_assert_int_eq(v, -3);
	ck_assert_int_eq(redis_reply_uint(redis_reply_at(reply, 0), &u),
			 -EPROTO);
	ck_assert_int_eq(redis_reply_int(redis_reply_at(reply, 1), &v), 0);
	ck_assert_int_eq(v, -4);
	ck_assert_int_eq(redis_reply_int(redis_reply_at(reply, 2), &v),
			 -EPROTO);
	at = redis_reply_at(reply, 3);
	ck_assert_int_eq(redis_reply_type(at), REPLY_NIL);
	ck_assert_int_eq(redis_reply_str(at, &p, &n), -EPROTO);
	ck_assert_int_eq(redis_reply_int(redis_reply_at(reply, 4), &v),
			 -EPROTO);
	ck_assert_int_eq(redis_reply_uint(redis_reply_at(reply, 4), &u), 0);
	ck_assert_uint_eq(u, UINT64_MAX);
	ck_assert_ptr_null(redis_reply_at(reply, 5));
	ck_assert_ptr_null(redis_reply_at(NULL, 0));
	ck_assert_str_eq(redis_reply_text(reply), "");
	ck_assert_int_eq(redis_reply_int(NULL, &v), -EPROTO);
	resp_reader_free(reader);
}
END_TEST

START_TEST(random_bytes_never_pass_for_more_than_they_are)
{
	unsigned seed = 4711;
	char bytes[64];

	for (int round = 0; round < 20000; round++) {
		struct resp_reader *reader = resp_reader_new();
		struct redis_reply *reply = NULL;
		struct meta_namespace ns;
		struct record rec;
		struct url u;
		const char *why;
		uint32_t n_sub;
		size_t n = (size_t)rand_r(&seed) % sizeof(bytes);

		for (size_t i = 0; i < n; i++)
			bytes[i] =
				rand_r(&seed) % 2
					? "*$:+-0123456789\r\n /"
						  [(unsigned)rand_r(&seed) % 19]
					: (char)rand_r(&seed);
		bytes[n] = '\0';
		if (!resp_feed(reader, bytes, n))
			while (!resp_next(reader, &reply) && reply)
				redis_reply_free(reply);
		resp_reader_free(reader);
		record_decode(bytes, n, &rec);
		record_ns_decode(bytes, n, &ns, &n_sub);
		url_parse(&u, bytes, &why);
	}
}
END_TEST

/* ----------------------------------------------------------------------- */

static TCase *connection(void)
{
	TCase *t = tcase_create("connection");

	tcase_add_checked_fixture(t, fixture_up, fixture_down);
	tcase_set_timeout(t, 60);
	tcase_add_test(t,
		       a_late_reply_is_dropped_and_the_next_call_gets_its_own);
	tcase_add_test(t, a_deadline_that_is_over_says_nothing_about_redis);
	tcase_add_test(t, a_waiting_call_lives_through_a_restart_of_the_server);
	tcase_add_test(
		t,
		what_waits_for_a_silent_redis_is_bounded_and_every_call_ends);
	tcase_add_test(t, all_of_a_large_pipeline_is_answered);
	tcase_add_test(t, a_new_connection_first_kills_the_one_before_it);
	tcase_add_test(
		t,
		replies_of_a_hostile_server_end_the_connection_and_nothing_else);
	tcase_add_test(t,
		       a_server_that_hangs_up_is_tried_again_at_growing_pauses);
	tcase_add_test(t, an_older_redis_is_refused);
	tcase_add_test(t,
		       what_is_not_redis_is_not_waited_for_beyond_the_deadline);
	return t;
}

static TCase *parsers(void)
{
	TCase *t = tcase_create("parsers");

	tcase_set_timeout(t, 60); /* valgrind */

	tcase_add_test(t, addresses_are_taken_apart);
	tcase_add_test(
		t, a_record_is_read_back_whole_and_refused_in_any_other_length);
	tcase_add_test(t, a_namespace_s_record_is_nine_numbers);
	tcase_add_test(t, keys_have_one_tag_whatever_the_namespace_is_called);
	tcase_add_test(t, replies_of_the_wrong_type_are_an_error_not_a_crash);
	tcase_add_test(t, random_bytes_never_pass_for_more_than_they_are);
	return t;
}

int main(void)
{
	Suite *s = suite_create("redis");
	SRunner *runner;
	int failed;

	suite_add_tcase(s, parsers());
	if (access("/usr/bin/redis-server", X_OK))
		puts("no redis-server: its tests are left out");
	else
		suite_add_tcase(s, connection());
	runner = srunner_create(s);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
