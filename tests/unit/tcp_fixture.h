/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_TCP_FIXTURE_H
#define KVFS_TESTS_TCP_FIXTURE_H

/*
 * Engines with a cluster key, and raw sockets that speak to them: as strangers
 * (bytes), or as a peer that has the key and means harm (frames).
 */
#include <check.h>
#include <pthread.h>
#include <stdint.h>

#include "engine/auth.h"
#include "engine/engine.h"

/* An engine of the test: it counts, and keeps whoever came up last. */
struct node {
	struct engine *engine;
	uint8_t uuid;
	char *bytes;
	size_t size;
	uint64_t region;
	/* fixture_lock guards these */
	struct engine_peer *peer;
	uint32_t n_up, n_down, n_messages;
	uint64_t parked; /* the last call of NODE_PARK */
	int why;
};

extern pthread_mutex_t fixture_lock;
extern pthread_cond_t fixture_changed;
extern const struct engine_keys fixture_keys;

#define NODE_ECHO ENGINE_TYPE_MIN
#define NODE_PARK (ENGINE_TYPE_MIN + 1) /* a call that the test answers */
#define NODE_BYTES (16u << 20)

/** node_open - an engine that listens; keys may be NULL. */
void node_open(struct node *n, uint8_t uuid, const struct engine_keys *keys,
	       bool tls, const char *listen);
/** node_open_at - the same at several addresses; silence in ms. */
void node_open_at(struct node *n, uint8_t uuid, const struct engine_keys *keys,
		  bool tls, const char *const *listen, uint32_t n_listen,
		  uint32_t silence_ms);
void node_close(struct node *n);
struct engine_peer *node_peer(struct node *from, const struct node *to);

/** node_moves - bytes go from one node to the other and arrive. */
void node_moves(struct node *from, struct node *to);

/** node_tries - the same, if nothing breaks: 0, or why not. */
int node_tries(struct node *from, struct node *to);

/** wait_for - until *n >= least, 30 s at most. */
void wait_for(const uint32_t *n, uint32_t least);

/* A grant, a batch or a call of the test: done once. */
struct outcome {
	uint32_t n;
	int status;
};
int outcome_wait(struct outcome *o);
extern const struct engine_grant_ops outcome_grant;
void outcome_batch(struct engine_batch *b, int status);
void outcome_call(struct engine_call *c, int status, const void *reply,
		  uint32_t n);

/* ---- raw connections ---------------------------------------------------- */

struct raw {
	int fd;
	struct auth_self self;
	struct auth auth;
	uint64_t items_in, items_out;
	uint8_t hello[AUTH_OUT_MAX], proof[AUTH_OUT_MAX]; /* as sent */
	int n_hello, n_proof;
};

/** raw_connect - a socket to the node, with a time limit on its reads. */
int raw_connect(const struct node *to);
/** raw_ended - did the other side close it? Waits 10 s at most. */
bool raw_ended(int fd);
/** raw_join - handshake with the key, as the node of this uuid. */
void raw_join(struct raw *r, const struct node *to, uint8_t uuid);
/** raw_greet - HELLO, CHALLENGE. */
void raw_greet(struct raw *r, const struct node *to, uint8_t uuid);
void raw_put(int fd, const void *bytes, size_t n);
/** raw_frame - a sealed frame; its payload, too. */
void raw_frame(struct raw *r, struct wire_header *h, const void *payload);
/** raw_header - the sealed header alone. */
void raw_header(struct raw *r, struct wire_header *h, const void *payload);
/** raw_tries - raw_frame; false: the other side is gone. */
bool raw_tries(struct raw *r, struct wire_header *h, const void *payload);
/** raw_get - the next frame of this type; others are checked and skipped.
 *  Returns: 0, or -1 the connection ended. */
int raw_get(struct raw *r, uint8_t type, struct wire_header *h,
	    uint8_t *payload, size_t max);
/** raw_next - the next frame, whatever it is. */
int raw_next(struct raw *r, struct wire_header *h, uint8_t *payload,
	     size_t max);
/** raw_get_any - one frame of the handshake. 0 or -1. */
int raw_get_any(int fd, struct wire_header *h, uint8_t *payload, size_t max);

#endif
