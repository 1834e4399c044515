// SPDX-License-Identifier: MIT
#include "meta/stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

struct stream {
	int fd;
	SSL *ssl; /* NULL: as it is */
	char host[1024];
	pthread_mutex_t lock; /* a leaf: an SSL is one thread's at a time */
};

struct stream *stream_new(int fd)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->fd = fd;
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

void stream_close(struct stream *s)
{
	if (!s)
		return;
	SSL_free(s->ssl);
	close(s->fd);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

int stream_fd(const struct stream *s)
{
	return s->fd;
}

void stream_shutdown(struct stream *s)
{
	shutdown(s->fd, SHUT_RDWR);
}

/* --- the socket -------------------------------------------------------- */

static long socket_send(int fd, const void *p, size_t n)
{
	ssize_t sent;

	do
		sent = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : sent;
}

static long socket_recv(int fd, void *p, size_t n)
{
	ssize_t got;

	do
		got = recv(fd, p, n, MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

/* --- the socket under TLS: OpenSSL's own would raise SIGPIPE ------------ */

static int bio_write(BIO *bio, const char *p, int n)
{
	const struct stream *s = BIO_get_data(bio);
	long sent = socket_send(s->fd, p, (size_t)n);

	BIO_clear_retry_flags(bio);
	if (sent == -EAGAIN)
		BIO_set_retry_write(bio);
	if (sent < 0)
		errno = (int)-sent;
	return sent < 0 ? -1 : (int)sent;
}

static int bio_read(BIO *bio, char *p, int n)
{
	const struct stream *s = BIO_get_data(bio);
	long got = socket_recv(s->fd, p, (size_t)n);

	BIO_clear_retry_flags(bio);
	if (got == -EAGAIN)
		BIO_set_retry_read(bio);
	if (got < 0)
		errno = (int)-got;
	return got < 0 ? -1 : (int)got;
}

static long bio_ctrl(BIO *bio, int cmd, long n, void *p)
{
	(void)bio;
	(void)n;
	(void)p;
	return cmd == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method;

static void bio_method_make(void)
{
	bio_method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(),
				  "kvfs");
	if (!bio_method)
		return;
	BIO_meth_set_write(bio_method, bio_write);
	BIO_meth_set_read(bio_method, bio_read);
	BIO_meth_set_ctrl(bio_method, bio_ctrl);
}

static BIO *bio_of(struct stream *s)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	BIO *bio;

	pthread_once(&once, bio_method_make);
	bio = bio_method ? BIO_new(bio_method) : NULL;
	if (bio) {
		BIO_set_data(bio, s);
		BIO_set_init(bio, 1);
	}
	return bio;
}

/* --- whom to trust ------------------------------------------------------ */

__attribute__((format(printf, 3, 4))) static int say(char *why, int err,
						     const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, STREAM_WHY_MAX, fmt, ap);
	va_end(ap);
	return err;
}

static const char *ssl_reason(void)
{
	const char *text = ERR_reason_error_string(ERR_peek_last_error());

	return text ? text : "no reason given";
}

/* A file that OpenSSL did not like: is it there at all? */
static int file_error(const char *option, const char *path, char *why)
{
	int err = access(path, R_OK) ? -errno : -EINVAL;

	return say(why, err, "%s=%.120s: %.100s", option, path,
		   err == -EINVAL ? ssl_reason() : strerror(-err));
}

static int ctx_fill(SSL_CTX *ctx, const struct stream_tls *how, char *why)
{
	const char *ca = how->ca_file, *cert = how->cert_file;
	struct stat st;

	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE |
				      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	if (ca && !SSL_CTX_load_verify_file(ctx, ca))
		return file_error("meta-ca", ca, why);
	if (!ca && !SSL_CTX_set_default_verify_paths(ctx))
		return say(why, -ENOENT,
			   "the system's certificates cannot be read");
	if (cert && !stat(cert, &st) && st.st_mode & 077)
		return say(why, -EACCES,
			   "meta-cert=%.120s: others may read it: chmod 600",
			   cert);
	if (cert &&
	    (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
	     SSL_CTX_use_PrivateKey_file(ctx, cert, SSL_FILETYPE_PEM) != 1))
		return file_error("meta-cert", cert, why);
	return 0;
}

/* The certificate must be for this name, or this address. */
static bool expect_host(SSL *ssl, const char *host)
{
	char address[16];

	if (inet_pton(AF_INET, host, address) == 1 ||
	    inet_pton(AF_INET6, host, address) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host);
	return SSL_set1_host(ssl, host) && SSL_set_tlsext_host_name(ssl, host);
}

static int ssl_make(struct stream *s, SSL_CTX *ctx,
		    const struct stream_tls *how)
{
	BIO *bio;

	s->ssl = SSL_new(ctx);
	if (!s->ssl || !expect_host(s->ssl, how->host))
		return -ENOMEM;
	bio = bio_of(s);
	if (!bio)
		return -ENOMEM;
	SSL_set_bio(s->ssl, bio, bio);
	SSL_set_connect_state(s->ssl);
	return 0;
}

int stream_tls(struct stream *s, const struct stream_tls *how,
	       char why[static STREAM_WHY_MAX])
{
	SSL_CTX *ctx;
	int err;

	ERR_clear_error();
	ctx = SSL_CTX_new(TLS_client_method());
	if (!ctx)
		return -ENOMEM;
	snprintf(s->host, sizeof(s->host), "%s", how->host);
	err = ctx_fill(ctx, how, why);
	err = err ? err : ssl_make(s, ctx, how);
	SSL_CTX_free(ctx);
	return err;
}

/* --- the handshake ------------------------------------------------------ */

static int untrusted(const struct stream *s, long verdict, char *why)
{
	const char *text = X509_verify_cert_error_string(verdict);

	if (verdict == X509_V_ERR_HOSTNAME_MISMATCH ||
	    verdict == X509_V_ERR_IP_ADDRESS_MISMATCH)
		return say(why, -EACCES,
			   "its certificate is for another host than %.100s: "
			   "%.80s",
			   s->host, text);
	return say(why, -EACCES,
		   "its certificate is not trusted: %.80s: name its authority "
		   "with meta-ca=FILE",
		   text);
}

static int refused(const struct stream *s, char *why)
{
	long verdict = SSL_get_verify_result(s->ssl);
	unsigned long e = ERR_peek_last_error();
	int reason = ERR_GET_REASON(e);

	if (verdict != X509_V_OK)
		return untrusted(s, verdict, why);
	if (!e)
		return say(why, -ECONNRESET,
			   "it ended the connection in TLS' handshake");
	if (reason == SSL_R_WRONG_VERSION_NUMBER ||
	    reason == SSL_R_PACKET_LENGTH_TOO_LONG)
		return say(why, -EPROTONOSUPPORT,
			   "it does not speak TLS: %.80s: say redis:// where "
			   "it is a plain server",
			   ssl_reason());
	return say(why, -EPROTO, "TLS: %.120s", ssl_reason());
}

int stream_handshake(struct stream *s, short *events,
		     char why[static STREAM_WHY_MAX])
{
	int n;
	scoped_lock(&s->lock);

	ERR_clear_error();
	n = SSL_do_handshake(s->ssl);
	if (n == 1)
		return 0;
	switch (SSL_get_error(s->ssl, n)) {
	case SSL_ERROR_WANT_READ:
		*events = POLLIN;
		return -EAGAIN;
	case SSL_ERROR_WANT_WRITE:
		*events = POLLOUT;
		return -EAGAIN;
	default:
		return refused(s, why);
	}
}

/* --- bytes -------------------------------------------------------------- */

static long ssl_result(const struct stream *s, int n)
{
	switch (SSL_get_error(s->ssl, n)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	case SSL_ERROR_SSL:
		return ERR_GET_REASON(ERR_peek_last_error()) ==
				       SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED
			       ? -EACCES
			       : -ECONNRESET;
	default:
		return -ECONNRESET;
	}
}

static int at_most(size_t n)
{
	return n > 1 << 20 ? 1 << 20 : (int)n;
}

long stream_send(struct stream *s, const void *p, size_t n)
{
	long sent;

	if (!s->ssl)
		return socket_send(s->fd, p, n);
	scoped_lock(&s->lock);
	ERR_clear_error();
	sent = SSL_write(s->ssl, p, at_most(n));
	if (sent <= 0)
		sent = ssl_result(s, (int)sent);
	return sent ? sent : -ECONNRESET;
}

long stream_recv(struct stream *s, void *p, size_t n)
{
	int got;

	if (!s->ssl)
		return socket_recv(s->fd, p, n);
	scoped_lock(&s->lock);
	ERR_clear_error();
	got = SSL_read(s->ssl, p, at_most(n));
	return got > 0 ? got : ssl_result(s, got);
}

bool stream_has_more(struct stream *s)
{
	if (!s->ssl)
		return false;
	scoped_lock(&s->lock);
	return SSL_pending(s->ssl) > 0;
}
