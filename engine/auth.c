// SPDX-License-Identifier: MIT
/* The handshake as a machine over buffers, and the MAC of frames. */
#include "engine/auth.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <string.h>

/* --- derivation -------------------------------------------------------- */

/* HKDF-SHA-256, extract and expand. Returns: 0 or -EIO. */
static int derive(const void *ikm, size_t ikm_n, const void *salt,
		  size_t salt_n, const char *info, void *out, size_t out_n)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *c = EVP_KDF_CTX_new(kdf);
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest,
						 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY,
						  (void *)ikm, ikm_n),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT,
						  (void *)salt, salt_n),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO,
						  (void *)info, strlen(info)),
		OSSL_PARAM_construct_end(),
	};
	int ok = c && EVP_KDF_derive(c, out, out_n, params) > 0;

	EVP_KDF_CTX_free(c);
	EVP_KDF_free(kdf);
	return ok ? 0 : -EIO;
}

/* Without keys everybody has this one; a node that has keys refuses it. */
static const struct engine_key no_key;

static const struct engine_key *key_first(const struct engine_keys *keys)
{
	return keys && keys->n ? &keys->key[0] : &no_key;
}

static const struct engine_key *key_find(const struct engine_keys *keys,
					 uint32_t id)
{
	if (!keys || !keys->n)
		return id ? NULL : &no_key;
	for (unsigned i = 0; i < keys->n; i++)
		if (keys->key[i].id == id)
			return &keys->key[i];
	return NULL;
}

int engine_keys_psk(const struct engine_keys *keys, uint32_t id,
		    uint8_t psk[ENGINE_KEY_BYTES])
{
	const struct engine_key *key = key_find(keys, id);

	if (!key)
		return -ENOENT;
	return derive(key->bytes, sizeof(key->bytes), "kvfs", 4, "kvfs tls psk",
		      psk, ENGINE_KEY_BYTES);
}

/* proof = HMAC-SHA-256(K_auth, role ‖ transcript ‖ what the other proved) */
static int prove(const struct engine_key *key, const char *role,
		 const uint8_t transcript[32], const uint8_t *other,
		 uint8_t proof[WIRE_PROOF_BYTES])
{
	uint8_t k_auth[32], text[16 + 32 + WIRE_PROOF_BYTES] = {};
	size_t n = strlen(role);
	int rc;

	rc = derive(key->bytes, sizeof(key->bytes), "kvfs", 4, "kvfs auth",
		    k_auth, sizeof(k_auth));
	memcpy(text, role, n);
	memcpy(text + 16, transcript, 32);
	if (other)
		memcpy(text + 48, other, WIRE_PROOF_BYTES);
	if (!rc && !HMAC(EVP_sha256(), k_auth, sizeof(k_auth), text,
			 other ? sizeof(text) : 48, proof, NULL))
		rc = -EIO;
	OPENSSL_cleanse(k_auth, sizeof(k_auth));
	return rc;
}

static int transcribe(struct auth *a)
{
	uint8_t text[16 + 2 * WIRE_HELLO_BYTES + 1 + 32] = "kvfs handshake";
	uint8_t *p = text + 16;

	memcpy(p, a->payload, sizeof(a->payload));
	p += sizeof(a->payload);
	*p++ = a->self->transport;
	memcpy(p, a->binding, sizeof(a->binding));
	return EVP_Digest(text, sizeof(text), a->transcript, NULL, EVP_sha256(),
			  NULL)
		       ? 0
		       : -EIO;
}

/* Both keys go in: each side may prove itself with another one. */
static int derive_seals(struct auth *a)
{
	const struct engine_key *mine = key_first(a->self->keys);
	const struct engine_key *theirs =
		key_find(a->self->keys, a->peer.key_id);
	uint8_t ikm[2 * ENGINE_KEY_BYTES], out[32];
	int rc;

	memcpy(ikm + (a->client ? 0 : ENGINE_KEY_BYTES), mine->bytes,
	       ENGINE_KEY_BYTES);
	memcpy(ikm + (a->client ? ENGINE_KEY_BYTES : 0), theirs->bytes,
	       ENGINE_KEY_BYTES);
	rc = derive(ikm, sizeof(ikm), a->transcript, sizeof(a->transcript),
		    "kvfs frames", out, sizeof(out));
	if (!rc) {
		struct auth_seal *up = a->client ? &a->send : &a->receive;
		struct auth_seal *down = a->client ? &a->receive : &a->send;

		*up = (struct auth_seal){{wire_get64(out), wire_get64(out + 8)},
					 0};
		*down = (struct auth_seal){
			{wire_get64(out + 16), wire_get64(out + 24)}, 0};
	}
	OPENSSL_cleanse(ikm, sizeof(ikm));
	OPENSSL_cleanse(out, sizeof(out));
	return rc;
}

/* --- frames ------------------------------------------------------------ */

static size_t frame_put(uint8_t *out, uint8_t type, const void *payload,
			size_t n)
{
	const struct wire_header h = {.version = WIRE_VERSION_HANDSHAKE,
				      .type = type,
				      .length = (uint32_t)n};

	wire_header_put(out, &h);
	if (n)
		memcpy(out + WIRE_HEADER_BYTES, payload, n);
	return WIRE_HEADER_BYTES + n;
}

size_t auth_close_put(uint8_t out[AUTH_OUT_MAX], uint8_t version,
		      struct auth_seal *seal, int status, const char *why)
{
	size_t n = strlen(why);
	struct wire_header h = {.version = version,
				.type = WIRE_CLOSE,
				.status = (uint32_t)-status};

	if (n > WIRE_REASON_MAX)
		n = WIRE_REASON_MAX;
	h.length = (uint32_t)n;
	wire_header_put(out, &h);
	memcpy(out + WIRE_HEADER_BYTES, why, n);
	if (seal)
		auth_seal_frame(seal, out, why, n);
	return WIRE_HEADER_BYTES + n;
}

/* --- the handshake ----------------------------------------------------- */

int auth_init(struct auth *a, const struct auth_self *self, bool client,
	      const uint8_t *expect, const uint8_t *binding, uint64_t session,
	      uint8_t out[AUTH_OUT_MAX])
{
	*a = (struct auth){.self = self, .client = client};
	a->expecting = client ? WIRE_CHALLENGE : WIRE_HELLO;
	a->mine = (struct wire_hello){
		.version_min = self->version_min,
		.version_max = self->version_max,
		.transport = self->transport,
		.key_id = key_first(self->keys)->id,
		.incarnation = self->incarnation,
		.session = session,
	};
	memcpy(a->mine.uuid, self->uuid, WIRE_UUID_BYTES);
	if (expect)
		memcpy(a->mine.expect, expect, WIRE_UUID_BYTES);
	if (binding)
		memcpy(a->binding, binding, sizeof(a->binding));
	if (RAND_bytes(a->mine.nonce, WIRE_NONCE_BYTES) != 1)
		return -EIO;
	if (!client)
		return 0;
	wire_hello_put(a->payload[0], &a->mine);
	return (int)frame_put(out, WIRE_HELLO, a->payload[0], WIRE_HELLO_BYTES);
}

static bool uuid_any(const uint8_t uuid[WIRE_UUID_BYTES])
{
	static const uint8_t zero[WIRE_UUID_BYTES];

	return !memcmp(uuid, zero, WIRE_UUID_BYTES);
}

static const char *transports_differ(uint8_t mine, uint8_t theirs)
{
	if (mine == WIRE_RDMA)
		return "this address is for rdma";
	if (theirs == WIRE_RDMA)
		return "this address is not for rdma";
	return mine == WIRE_TLS ? "tls is required here" : "tls is off here";
}

/* What both sides check in the other's hello. */
static int peer_check(struct auth *a, const char **why)
{
	const struct wire_hello *mine = &a->mine, *peer = &a->peer;

	*why = NULL;
	if (!memcmp(mine->nonce, peer->nonce, WIRE_NONCE_BYTES))
		*why = "nonce sent back";
	else if (!memcmp(mine->uuid, peer->uuid, WIRE_UUID_BYTES))
		*why = "the same node at both ends";
	if (*why)
		return -ENOTUNIQ;
	if (peer->transport != mine->transport) {
		*why = transports_differ(mine->transport, peer->transport);
		return -EPROTO;
	}
	if (!key_find(a->self->keys, peer->key_id)) {
		*why = "no such cluster key";
		return -EACCES;
	}
	if ((!uuid_any(mine->expect) &&
	     memcmp(mine->expect, peer->uuid, WIRE_UUID_BYTES)) ||
	    (!uuid_any(peer->expect) &&
	     memcmp(peer->expect, mine->uuid, WIRE_UUID_BYTES))) {
		*why = "another node than expected";
		return -ESTALE;
	}
	return 0;
}

/* The version both speak. */
static int version_choose(struct auth *a, const char **why)
{
	uint8_t high = a->self->version_max, low = a->self->version_min;

	if (a->peer.version_max < high)
		high = a->peer.version_max;
	if (high < low || high < a->peer.version_min) {
		*why = "no common wire version";
		return -EPROTO;
	}
	a->version = high;
	return 0;
}

static int take_peer(struct auth *a, const uint8_t *payload, size_t n,
		     const char **why)
{
	int rc = wire_hello_get(payload, n, &a->peer, why);

	if (!rc)
		rc = peer_check(a, why);
	if (!rc)
		rc = version_choose(a, why);
	if (!rc && a->client && a->peer.version_min != a->peer.version_max) {
		*why = "no wire version chosen";
		rc = -EPROTO;
	}
	if (!rc)
		memcpy(a->payload[a->client], payload, WIRE_HELLO_BYTES);
	return rc;
}

/* Listening: the first frame. */
static int on_hello(struct auth *a, const uint8_t *payload, size_t n,
		    uint8_t *out, size_t *n_out, const char **why)
{
	int rc = take_peer(a, payload, n, why);

	if (rc)
		return rc;
	a->mine.version_min = a->mine.version_max = a->version;
	wire_hello_put(a->payload[1], &a->mine);
	a->expecting = WIRE_PROOF;
	*n_out =
		frame_put(out, WIRE_CHALLENGE, a->payload[1], WIRE_HELLO_BYTES);
	return transcribe(a);
}

/* Connecting: they chose; prove who we are. */
static int on_challenge(struct auth *a, const uint8_t *payload, size_t n,
			uint8_t *out, size_t *n_out, const char **why)
{
	int rc = take_peer(a, payload, n, why);

	if (!rc)
		rc = transcribe(a);
	if (!rc)
		rc = prove(key_first(a->self->keys), "client", a->transcript,
			   NULL, a->proof);
	if (rc)
		return rc;
	a->expecting = WIRE_ACCEPT;
	*n_out = frame_put(out, WIRE_PROOF, a->proof, WIRE_PROOF_BYTES);
	return 0;
}

static int proof_check(struct auth *a, const char *role, const uint8_t *other,
		       const uint8_t *payload, size_t n, const char **why)
{
	const struct engine_key *key = key_find(a->self->keys, a->peer.key_id);
	uint8_t want[WIRE_PROOF_BYTES];
	int rc = prove(key, role, a->transcript, other, want);

	if (!rc && (n != WIRE_PROOF_BYTES ||
		    CRYPTO_memcmp(want, payload, WIRE_PROOF_BYTES))) {
		*why = "wrong proof: not our cluster key";
		rc = -EACCES;
	}
	OPENSSL_cleanse(want, sizeof(want));
	return rc;
}

static int done(struct auth *a)
{
	a->expecting = 0;
	return derive_seals(a) ?: 1;
}

/* Listening: they are who they say; now we prove ourselves. */
static int on_proof(struct auth *a, const uint8_t *payload, size_t n,
		    uint8_t *out, size_t *n_out, const char **why)
{
	uint8_t proof[WIRE_PROOF_BYTES];
	int rc = proof_check(a, "client", NULL, payload, n, why);

	if (!rc)
		rc = prove(key_first(a->self->keys), "server", a->transcript,
			   payload, proof);
	if (rc)
		return rc;
	*n_out = frame_put(out, WIRE_ACCEPT, proof, sizeof(proof));
	return done(a);
}

static int on_accept(struct auth *a, const uint8_t *payload, size_t n,
		     const char **why)
{
	int rc = proof_check(a, "server", a->proof, payload, n, why);

	return rc ? rc : done(a);
}

int auth_step(struct auth *a, const struct wire_header *h,
	      const uint8_t *payload, uint8_t out[AUTH_OUT_MAX], size_t *n_out,
	      const char **why)
{
	int rc = -EPROTO;

	*n_out = 0;
	*why = "not the frame of a handshake that comes next";
	if (!a->expecting || h->type != a->expecting)
		goto failed;
	*why = "no random numbers or digests";
	if (h->type == WIRE_HELLO)
		rc = on_hello(a, payload, h->length, out, n_out, why);
	else if (h->type == WIRE_CHALLENGE)
		rc = on_challenge(a, payload, h->length, out, n_out, why);
	else if (h->type == WIRE_PROOF)
		rc = on_proof(a, payload, h->length, out, n_out, why);
	else
		rc = on_accept(a, payload, h->length, why);
	if (rc >= 0)
		return rc;
failed:
	a->expecting = 0;
	*n_out = auth_close_put(out, WIRE_VERSION_HANDSHAKE, NULL, rc, *why);
	return rc;
}

void auth_wipe(struct auth *a)
{
	OPENSSL_cleanse(a, sizeof(*a));
}

/* --- the MAC ----------------------------------------------------------- */

void auth_seal_frame(struct auth_seal *s, uint8_t *frame, const void *control,
		     size_t n)
{
	uint8_t counter[8];
	const struct auth_part parts[] = {{counter, sizeof(counter)},
					  {frame, WIRE_SEALED_BYTES},
					  {control, n}};

	wire_put64(counter, s->counter++);
	auth_mac(s->key, parts, control ? 3 : 2, frame + WIRE_SEALED_BYTES);
}

int auth_check_frame(struct auth_seal *s, const uint8_t *frame,
		     const void *control, size_t n)
{
	uint8_t counter[8], want[WIRE_MAC_BYTES];
	const struct auth_part parts[] = {{counter, sizeof(counter)},
					  {frame, WIRE_SEALED_BYTES},
					  {control, n}};

	wire_put64(counter, s->counter++);
	auth_mac(s->key, parts, control ? 3 : 2, want);
	return CRYPTO_memcmp(want, frame + WIRE_SEALED_BYTES, sizeof(want))
		       ? -EBADMSG
		       : 0;
}
