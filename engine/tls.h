/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_TLS_H
#define KVFS_ENGINE_TLS_H

/*
 * TLS 1.3 around a connection whose bytes somebody else carries: ciphertext
 * in, plaintext out, and back. No certificates: both ends know the cluster's
 * key, and a key derived from it is the PSK ("kvfs-ID"); with ephemeral
 * Diffie-Hellman, so a stolen key does not open what was recorded before. The
 * suite is TLS_AES_128_GCM_SHA256, whose hash is the PSK's.
 *
 * The one file that knows OpenSSL's SSL.
 */

#include "engine/auth.h"

struct tls_context; /* one per transport */
struct tls;	    /* one per connection */

/** tls_context_open - 0 or -errno, logged. Keys stay the caller's, alive. */
int tls_context_open(struct tls_context **c, const struct engine_keys *keys);
void tls_context_close(struct tls_context *c);

struct tls *tls_new(struct tls_context *c, bool client);
void tls_free(struct tls *t);

/** tls_feed - ciphertext that came. 0 or -ENOMEM. */
int tls_feed(struct tls *t, const void *bytes, size_t n);
/** tls_shake - go on with the handshake; 1 done, 0 more is needed, -EACCES. */
int tls_shake(struct tls *t);
/** tls_read - plaintext: how much, 0 more is needed, or -EBADMSG; -ECONNRESET
 *  they closed. */
int tls_read(struct tls *t, void *to, size_t n);
/** tls_write - encrypt all of it; 0 or -ENOMEM. */
int tls_write(struct tls *t, const void *from, size_t n);
/** tls_take - the ciphertext that is to be sent: valid until the next
 *  tls_take. 0 bytes: none. Returns: 0 or -ENOMEM. */
int tls_take(struct tls *t, const uint8_t **bytes, size_t *n);
/** tls_binding - 32 bytes that only the two ends of this connection know. */
int tls_binding(struct tls *t, uint8_t binding[32]);

#endif
