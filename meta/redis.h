/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_REDIS_H
#define KVFS_META_REDIS_H

/*
 * One connection to Redis, shared by many threads.
 *
 * A caller's command is appended to the output buffer and written at once;
 * one thread per connection reads, and completes the waiting calls in order.
 * Commands of many callers are so pipelined without any of them knowing.
 *
 *      caller ──command──▶ [output buffer] ──▶ socket ──▶ Redis
 *        ▲                  [queue of calls]                │
 *        └──reply── reader thread ◀── redisReader ◀─────────┘
 *
 * Every wait ends at an absolute deadline of the monotonic clock
 * (clock_now_ns). A call that gave up leaves its place in the queue, so that
 * the late reply is dropped in its turn.
 *
 * The breaker: after a timeout or a lost connection REDIS_TRY calls fail at
 * once until Redis answers again; REDIS_WAIT calls wait for that up to their
 * own deadline. The reader reconnects (paced) and asks with PING.
 *
 * After a reconnect the first command kills the previous connection in the
 * server: what it had in flight cannot land after what comes now.
 *
 * Replies come from outside: the accessors check the type and answer -EPROTO,
 * NULL or 0 for what is not there; NULL is accepted everywhere.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct redis;
struct redis_reply;
struct url;

/* --- commands ---------------------------------------------------------- */

/*
 * A command under construction; every argument is copied and may hold any
 * byte. Running out of memory is remembered and answered by the call.
 *
 *      redis_cmd_auto struct redis_cmd c = { 0 };
 *      redis_cmd_str(&c, "HGET");
 *      redis_cmd_bin(&c, key, key_len);
 */
struct redis_cmd {
	char *bytes; /* the arguments, one after another */
	size_t n_bytes, cap_bytes;
	size_t *ends; /* where each argument ends in bytes */
	size_t n_args, cap_args;
	int err; /* 0 or -ENOMEM */
};

void redis_cmd_str(struct redis_cmd *c, const char *text);
void redis_cmd_bin(struct redis_cmd *c, const void *p, size_t n);
void redis_cmd_int(struct redis_cmd *c, int64_t v);
void redis_cmd_uint(struct redis_cmd *c, uint64_t v);
void redis_cmd_printf(struct redis_cmd *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/** redis_cmd_words - append the words of a text, split at single blanks. */
void redis_cmd_words(struct redis_cmd *c, const char *text);

/** redis_cmd_reset - empty it, keep the memory for the next one. */
void redis_cmd_reset(struct redis_cmd *c);
void redis_cmd_fini(struct redis_cmd *c);
#define redis_cmd_auto __attribute__((cleanup(redis_cmd_fini)))

/* --- replies ----------------------------------------------------------- */

enum reply_type {
	REPLY_NIL,
	REPLY_STATUS,
	REPLY_STRING,
	REPLY_INTEGER,
	REPLY_ARRAY,
	REPLY_ERROR,
};

enum reply_type redis_reply_type(const struct redis_reply *r);

/** redis_reply_count - elements of an array; 0 for all else. */
size_t redis_reply_count(const struct redis_reply *r);

/** redis_reply_at - i-th element of an array; NULL past its end. */
const struct redis_reply *redis_reply_at(const struct redis_reply *r, size_t i);

/** redis_reply_int - an integer, or a string of decimal digits; -EPROTO. */
int redis_reply_int(const struct redis_reply *r, int64_t *v);

/** redis_reply_uint - the same for 0 … 2^64 - 1; -EPROTO. */
int redis_reply_uint(const struct redis_reply *r, uint64_t *v);

/** redis_reply_str - the bytes of a string, status or error; -EPROTO.
 *  Binary, and 0-terminated past its end; valid as long as the reply. */
int redis_reply_str(const struct redis_reply *r, const char **p, size_t *n);

/** redis_reply_text - the same as text; "" for what is none. */
const char *redis_reply_text(const struct redis_reply *r);

void redis_reply_free(struct redis_reply *r);
static inline void redis_reply_free_fn(struct redis_reply **r)
{
	redis_reply_free(*r);
}
#define redis_reply_auto __attribute__((cleanup(redis_reply_free_fn)))

/* --- the connection ---------------------------------------------------- */

enum redis_wait {
	REDIS_TRY,  /* the breaker is open: fail at once */
	REDIS_WAIT, /* wait for Redis to come back, up to the deadline */
};

struct redis_config {
	const struct url *url;		 /* copied */
	const char *password;		 /* NULL: none; copied, never logged */
	const char *ca_file, *cert_file; /* rediss://: stream.h; copied */
	const char *name;		 /* CLIENT SETNAME: no blanks; copied */
	const char *library;	   /* function library, loaded where missing or
				      of another build; NULL: none. Kept */
	const char *library_build; /* what `library_fn` answers if it is ours */
	const char *library_fn;
	/* Redis answers (again), or it stopped to for half a second; on the
	 * connection's thread. The same may be told twice in a row. fresh:
	 * another connection than before. */
	void (*change)(void *ctx, bool up, bool fresh, const char *why);
	void *ctx;
};

struct redis_counts {
	uint64_t n_commands, n_timeouts, n_outages, n_reconnects;
	int64_t last_rtt_ns;
};

/**
 * redis_open - connect and start the thread
 * @deadline: until when to try; a refused connection is tried again, a wrong
 *            password or a Redis before 7.0 is not
 *
 * Returns: 0, -EACCES (password, ACL, certificate), -EPROTONOSUPPORT (not
 *          Redis >= 7, no TLS), -EINVAL (a certificate's file),
 *          -ECONNREFUSED, -ENOENT (no such socket, host), -ETIMEDOUT, …; one
 *          line is logged.
 */
int redis_open(struct redis **r, const struct redis_config *c,
	       int64_t deadline);

/** redis_close - fail what is in flight, end the thread, free. NULL is fine. */
void redis_close(struct redis *r);

/**
 * redis_call - send a command and wait for its reply
 * @deadline: monotonic ns
 * @reply: set only on success; may be of type REPLY_ERROR
 *
 * Returns: 0, -ENOTCONN not sent (breaker open, or no connection until the
 *          deadline), -ETIMEDOUT or -ECONNRESET sent and outcome unknown,
 *          -ENOMEM, -E2BIG (too many or too large arguments), -ESHUTDOWN.
 * Threads: any but the connection's own (a done or change callback).
 */
int redis_call(struct redis *r, enum redis_wait wait, int64_t deadline,
	       const struct redis_cmd *cmd, struct redis_reply **reply);

/**
 * redis_send - send a command, have the reply later
 * @done: called exactly once after redis_send returned 0, on the connection's
 *        thread; err as of redis_call; reply is freed after it (NULL with
 *        err). It may redis_send but never wait. There is no deadline: a
 *        lost connection ends the call, and a Redis that stays silent for
 *        long is a lost connection.
 *
 * Returns: 0 or, with done never called, as redis_call; -ENOTCONN while the
 *          breaker is open, -EAGAIN too much is in flight.
 * Threads: any.
 */
int redis_send(struct redis *r, const struct redis_cmd *cmd,
	       void (*done)(void *ctx, int err, struct redis_reply *reply),
	       void *ctx);

/** redis_hold, redis_release - what is sent in between leaves in one write. */
void redis_hold(struct redis *r);
void redis_release(struct redis *r);

/** redis_suspect - a reply of redis_send is overdue: open the breaker, if
 *  nothing came for what was sent before since (monotonic ns). */
void redis_suspect(struct redis *r, int64_t since);

/** redis_readable - bytes have come that the connection's thread has not read
 *  yet. */
bool redis_readable(struct redis *r);

/** redis_up - the breaker is closed. Threads: any. */
bool redis_up(struct redis *r);

/** redis_kick - forget the pause before the next try to connect. */
void redis_kick(struct redis *r);

/** redis_run_id - the server's run_id as of the last connect ("" before). */
void redis_run_id(struct redis *r, char buf[static 41]);

/** redis_client_id - CLIENT ID of the present connection; 0: none. */
int64_t redis_client_id(struct redis *r);

void redis_counts(struct redis *r, struct redis_counts *c);

#endif
