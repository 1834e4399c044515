/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_STREAM_H
#define KVFS_META_STREAM_H

/*
 * The bytes of one connection to Redis: a socket, or TLS over it (rediss://).
 * Nothing here waits: who gets -EAGAIN polls stream_fd.
 *
 * Threads: one sends while another receives.
 */

#include <stdbool.h>
#include <stddef.h>

struct stream;

#define STREAM_WHY_MAX 256

/* rediss:// only. Files are PEM and read with every connection, so what was
 * renewed is used. */
struct stream_tls {
	const char *host;      /* that the certificate must be for */
	const char *ca_file;   /* whom to trust; NULL: the system's */
	const char *cert_file; /* our certificate and key; NULL: none */
};

/** stream_new - for a connected socket; owns it from then on. NULL: no memory,
 *  and the socket is the caller's. */
struct stream *stream_new(int fd);
void stream_close(struct stream *s); /* NULL is fine */

/**
 * stream_tls - wrap it in TLS
 * @why: a sentence, on failure
 *
 * Returns: 0; then stream_handshake.
 *          -ENOENT, -EACCES (a file), -EINVAL (what it holds), -ENOMEM.
 */
int stream_tls(struct stream *s, const struct stream_tls *how,
	       char why[static STREAM_WHY_MAX]);

/**
 * stream_handshake - a step of TLS' handshake
 * @events: what to poll for, with -EAGAIN
 *
 * Returns: 0, -EAGAIN; -EACCES the certificate is not trusted, or ours is not;
 *          -EPROTONOSUPPORT it does not speak TLS; -EPROTO, -ECONNRESET.
 */
int stream_handshake(struct stream *s, short *events,
		     char why[static STREAM_WHY_MAX]);

int stream_fd(const struct stream *s);

/** stream_send - returns bytes taken (> 0), -EAGAIN, or -errno: it is lost. */
long stream_send(struct stream *s, const void *p, size_t n);

/** stream_recv - returns bytes, 0 at the end, -EAGAIN, or -errno: it is lost;
 *  -EACCES: for want of a certificate of ours. */
long stream_recv(struct stream *s, void *p, size_t n);

/** stream_has_more - are there bytes that poll does not tell of? */
bool stream_has_more(struct stream *s);

/** stream_shutdown - let the other thread find it lost. */
void stream_shutdown(struct stream *s);

#endif
