// SPDX-License-Identifier: MIT
#include "engine/tls.h"

#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tls_context {
	SSL_CTX *ssl;
	const struct engine_keys *keys;
};

struct tls {
	SSL *ssl;
	BIO *in, *out; /* the SSL's */
	uint8_t *taken;
	size_t taken_max;
};

/* --- the PSK ----------------------------------------------------------- */

static SSL_SESSION *session_of(SSL *ssl, const uint8_t psk[ENGINE_KEY_BYTES])
{
	static const unsigned char suite[] = {0x13, 0x01};
	SSL_SESSION *s = SSL_SESSION_new();
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);

	if (s && cipher &&
	    SSL_SESSION_set1_master_key(s, psk, ENGINE_KEY_BYTES) &&
	    SSL_SESSION_set_cipher(s, cipher) &&
	    SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION))
		return s;
	SSL_SESSION_free(s);
	return NULL;
}

static SSL_SESSION *session_by_id(SSL *ssl, uint32_t id)
{
	const struct tls_context *c =
		SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	uint8_t psk[ENGINE_KEY_BYTES];
	SSL_SESSION *s = NULL;

	if (!engine_keys_psk(c->keys, id, psk))
		s = session_of(ssl, psk);
	OPENSSL_cleanse(psk, sizeof(psk));
	return s;
}

/* Listening: which key does the other side mean? */
static int find_session(SSL *ssl, const unsigned char *identity, size_t n,
			SSL_SESSION **session)
{
	char text[16], *end;
	unsigned long id;

	*session = NULL; /* none: the handshake fails */
	if (n < 6 || n >= sizeof(text) || memcmp(identity, "kvfs-", 5))
		return 1;
	memcpy(text, identity, n);
	text[n] = '\0';
	if (text[5] < '0' || text[5] > '9')
		return 1;
	id = strtoul(text + 5, &end, 10);
	if (!*end && id <= UINT32_MAX)
		*session = session_by_id(ssl, (uint32_t)id);
	return 1;
}

static int use_session(SSL *ssl, const EVP_MD *md, const unsigned char **id,
		       size_t *n, SSL_SESSION **session)
{
	const struct tls_context *c =
		SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	uint32_t key = c->keys && c->keys->n ? c->keys->key[0].id : 0;
	static _Thread_local char text[16];

	*session = NULL;
	if (md && !EVP_MD_is_a(md, "SHA256"))
		return 1;
	*session = session_by_id(ssl, key);
	*n = (size_t)snprintf(text, sizeof(text), "kvfs-%u", key);
	*id = (const unsigned char *)text;
	return *session ? 1 : 0;
}

/* --- contexts ---------------------------------------------------------- */

static bool configure(SSL_CTX *ssl)
{
	SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET);
	SSL_CTX_set_psk_find_session_callback(ssl, find_session);
	SSL_CTX_set_psk_use_session_callback(ssl, use_session);
	return SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) &&
	       SSL_CTX_set_ciphersuites(ssl, "TLS_AES_128_GCM_SHA256") &&
	       SSL_CTX_set1_groups_list(ssl, "X25519") &&
	       SSL_CTX_set_num_tickets(ssl, 0);
}

int tls_context_open(struct tls_context **out, const struct engine_keys *keys)
{
	struct tls_context *c = calloc(1, sizeof(*c));

	if (c)
		c->ssl = SSL_CTX_new(TLS_method());
	if (!c || !c->ssl || !configure(c->ssl)) {
		log_error("engine: tls: this OpenSSL has no TLS 1.3 with "
			  "TLS_AES_128_GCM_SHA256 and X25519");
		ERR_clear_error();
		tls_context_close(c);
		return -ENOTSUP;
	}
	c->keys = keys;
	SSL_CTX_set_app_data(c->ssl, c);
	*out = c;
	return 0;
}

void tls_context_close(struct tls_context *c)
{
	if (!c)
		return;
	SSL_CTX_free(c->ssl);
	free(c);
}

/* --- connections ------------------------------------------------------- */

struct tls *tls_new(struct tls_context *c, bool client)
{
	struct tls *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->ssl = SSL_new(c->ssl);
	t->in = BIO_new(BIO_s_mem());
	t->out = BIO_new(BIO_s_mem());
	if (!t->ssl || !t->in || !t->out) {
		SSL_free(t->ssl);
		BIO_free(t->in);
		BIO_free(t->out);
		free(t);
		return NULL;
	}
	SSL_set_bio(t->ssl, t->in, t->out);
	if (client)
		SSL_set_connect_state(t->ssl);
	else
		SSL_set_accept_state(t->ssl);
	return t;
}

void tls_free(struct tls *t)
{
	if (!t)
		return;
	SSL_free(t->ssl);
	free(t->taken);
	free(t);
}

int tls_feed(struct tls *t, const void *bytes, size_t n)
{
	return BIO_write(t->in, bytes, (int)n) == (int)n ? 0 : -ENOMEM;
}

int tls_shake(struct tls *t)
{
	int rc = SSL_do_handshake(t->ssl);

	if (rc == 1)
		return 1;
	rc = SSL_get_error(t->ssl, rc);
	ERR_clear_error();
	return rc == SSL_ERROR_WANT_READ ? 0 : -EACCES;
}

int tls_read(struct tls *t, void *to, size_t n)
{
	int rc = SSL_read(t->ssl, to, n > INT_MAX ? INT_MAX : (int)n);

	if (rc > 0)
		return rc;
	rc = SSL_get_error(t->ssl, rc);
	ERR_clear_error();
	if (rc == SSL_ERROR_WANT_READ)
		return 0;
	return rc == SSL_ERROR_ZERO_RETURN ? -ECONNRESET : -EBADMSG;
}

int tls_write(struct tls *t, const void *from, size_t n)
{
	if (SSL_write(t->ssl, from, (int)n) == (int)n)
		return 0;
	ERR_clear_error();
	return -ENOMEM; /* memory takes all that there is room for */
}

int tls_take(struct tls *t, const uint8_t **bytes, size_t *n)
{
	size_t have = BIO_ctrl_pending(t->out);

	if (have > t->taken_max) {
		uint8_t *more = realloc(t->taken, have);

		if (!more)
			return -ENOMEM;
		t->taken = more;
		t->taken_max = have;
	}
	*bytes = t->taken;
	*n = 0;
	if (have && BIO_read(t->out, t->taken, (int)have) != (int)have)
		return -ENOMEM;
	*n = have;
	return 0;
}

int tls_binding(struct tls *t, uint8_t binding[32])
{
	static const char label[] = "EXPORTER-kvfs";

	return SSL_export_keying_material(t->ssl, binding, 32, label,
					  sizeof(label) - 1, NULL, 0, 0) == 1
		       ? 0
		       : -EIO;
}
