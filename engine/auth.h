/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_AUTH_H
#define KVFS_ENGINE_AUTH_H

/*
 * Who is at the other end, before anything else is said (CLUSTER.md 25).
 *
 *      connecting                      listening
 *      HELLO      nonce, uuid, key id ──▶
 *                 ◀── CHALLENGE   nonce, uuid, key id, the version chosen
 *      PROOF      HMAC(K_auth, "client" ‖ transcript) ──▶   checked
 *                 ◀── ACCEPT      HMAC(K_auth, "server" ‖ transcript ‖ proof)
 *
 * The transcript is SHA-256 of both payloads, the transport and, inside TLS,
 * a value only this TLS connection has. The roles differ in the proof, so a
 * proof sent back proves nothing, and a nonce of ours sent back ends it; both
 * nonces are fresh, so a handshake recorded earlier ends at PROOF. The
 * listener proves itself last: it computes nothing with a key for strangers.
 *
 * Keys of the connection come by HKDF from both cluster keys and the
 * transcript: one for each direction. Each sealed frame has a SipHash-2-4-128
 * MAC over its counter, header and control payload: 90 ns for a header, where
 * HMAC-SHA-256 through EVP takes 1,330 ns and AES-GMAC 1,190: with four MACs
 * for one 64 KiB fetch of 25 µs the difference is a sixth of it.
 *
 * No I/O in here: bytes come in, bytes go out; fuzzed as it is.
 */

#include "engine/wire.h"

#define ENGINE_KEYS_MAX 4
#define ENGINE_KEY_BYTES 32

struct engine_key {
	uint32_t id;
	uint8_t bytes[ENGINE_KEY_BYTES];
};

/* The cluster's secret: the first proves, each is accepted. */
struct engine_keys {
	unsigned n; /* 0: none; then the handshake keeps nobody out */
	struct engine_key key[ENGINE_KEYS_MAX];
};

/**
 * engine_keys_load - read a key file
 * @keys: set only on success; engine_keys_wipe it
 *
 * A regular file, mode 0600 or less, of root or of the daemon's user. One key
 * a line: an id (1 to 4294967295), blanks, 64 hexadecimal digits. '#' begins
 * a comment. To change the key: add the new one as second line everywhere,
 * then swap the lines everywhere, then remove the old one.
 * Returns: 0, or -EACCES mode or owner, -EINVAL its text, or another -errno;
 *          one line is logged, without anything of the file's content.
 */
int engine_keys_load(const char *path, struct engine_keys *keys);

/** engine_keys_parse - the same of a text. @why: in words, on -EINVAL. */
int engine_keys_parse(const char *text, size_t n, struct engine_keys *keys,
		      const char **why);

void engine_keys_wipe(struct engine_keys *keys);

/** engine_keys_psk - the key that TLS takes, derived from one of ours.
 *  Returns: 0, or -ENOENT there is no key of this id. */
int engine_keys_psk(const struct engine_keys *keys, uint32_t id,
		    uint8_t psk[ENGINE_KEY_BYTES]);

/* This node, for all handshakes. */
struct auth_self {
	uint8_t uuid[WIRE_UUID_BYTES];
	uint32_t incarnation;
	const struct engine_keys *keys; /* NULL as one without keys */
	uint8_t version_min, version_max;
	uint8_t transport; /* enum wire_transport */
};

/* One direction of a connection whose handshake is done. */
struct auth_seal {
	uint64_t key[2];
	uint64_t counter; /* of the next frame; both ends count */
};

/* One handshake. */
struct auth {
	const struct auth_self *self;
	bool client;
	uint8_t expecting; /* enum wire_type of the next frame; 0: done */
	uint8_t binding[32];
	struct wire_hello mine, peer;
	uint8_t payload[2][WIRE_HELLO_BYTES]; /* HELLO, CHALLENGE */
	uint8_t transcript[32], proof[WIRE_PROOF_BYTES];
	/* Of the result: */
	uint8_t version;
	struct auth_seal send, receive;
};

/* The longest answer of a step. */
#define AUTH_OUT_MAX (WIRE_HEADER_BYTES + WIRE_HANDSHAKE_MAX)

/**
 * auth_init - begin
 * @self: stays with the caller, alive as long as @a
 * @client: we connected
 * @expect: the uuid that must be at the other end; NULL: anybody with the key
 * @binding: 32 bytes of the TLS connection around it; NULL in plain
 * @session: client: the number that its connections to this peer share
 * @out: client: what to send first
 * Returns: how many bytes of @out to send, or -EIO no random numbers.
 */
int auth_init(struct auth *a, const struct auth_self *self, bool client,
	      const uint8_t *expect, const uint8_t *binding, uint64_t session,
	      uint8_t out[AUTH_OUT_MAX]);

/**
 * auth_step - take one frame of the other end
 * @h, @payload: as wire_header_get gave it
 * @out: what to send, also (a CLOSE) when it failed
 * @n_out: how much of it
 * @why: set when it failed
 *
 * A listening side that is done may still say no to who is there: it sends
 * auth_close_put's instead of @out.
 *
 * Returns: 1 done: send @out, then the connection is theirs; 0 go on;
 *          -EPROTO not a handshake, -EACCES not our cluster, -ENOTUNIQ we
 *          talk to ourselves, -ESTALE another node than expected, -EIO.
 *          Logs nothing: strangers must not fill a log.
 */
int auth_step(struct auth *a, const struct wire_header *h,
	      const uint8_t *payload, uint8_t out[AUTH_OUT_MAX], size_t *n_out,
	      const char **why);

/** auth_close_put - a CLOSE frame; returns its length. */
size_t auth_close_put(uint8_t out[AUTH_OUT_MAX], uint8_t version,
		      struct auth_seal *seal, int status, const char *why);

void auth_wipe(struct auth *a);

/**
 * auth_seal_frame - put the MAC into a frame's header and count it
 * @frame: its header
 * @control: the payload that is covered, NULL for DATA
 */
void auth_seal_frame(struct auth_seal *s, uint8_t *frame, const void *control,
		     size_t n);

/** auth_check_frame - is the MAC right? Counts. Returns: 0 or -EBADMSG. */
int auth_check_frame(struct auth_seal *s, const uint8_t *frame,
		     const void *control, size_t n);

/** auth_mac - SipHash-2-4-128 of the parts, one after the other. */
struct auth_part {
	const void *bytes;
	size_t n;
};
void auth_mac(const uint64_t key[2], const struct auth_part *parts,
	      unsigned n_parts, uint8_t mac[WIRE_MAC_BYTES]);

#endif
