// SPDX-License-Identifier: MIT
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fs/call.h"
#include "fs/ctl.h"
#include "fs/fs.h"
#include "fs/kv_match.h"
#include "meta/nodes.h"

/*
 * .kvfs/match: a transaction. Who opens it writes a question, in one write or
 * several, and reads the answer; then he closes it. It is a stream: where a
 * write begins does not matter, and the first read begins the answer.
 *
 *      WRITTEN ──first read──▶ ASKED ──▶ ANSWERED
 *
 * The question is asked with the rights that the opener had.
 */

#define HELD_MAX (64u << 20) /* bytes of all questions together */
#define ROOM_START 4096u

enum match_state { MATCH_WRITTEN, MATCH_ASKED, MATCH_ANSWERED };

struct match {
	pthread_mutex_t lock; /* guards all below but who */
	enum match_state state;
	char *question;
	size_t n, room;
	off_t from; /* the offset of the first read */
	char *answer;
	int err; /* instead of an answer */
	struct kv_caller *who;
};

static struct match *match_of(struct call *c)
{
	return (struct match *)(uintptr_t)c->fi.fh;
}

static struct match *match_new(struct call *c)
{
	struct match *m = calloc(1, sizeof(*m));

	if (m)
		m->who = kv_caller_new(c);
	if (!m || !m->who) {
		free(m);
		return NULL;
	}
	pthread_mutex_init(&m->lock, NULL);
	return m;
}

void ctl_match_open(struct call *c)
{
	struct match *m;

	if ((c->fi.flags & O_ACCMODE) != O_RDWR) {
		call_reply_err(c, EINVAL);
		return;
	}
	m = match_new(c);
	if (!m) {
		call_reply_err(c, ENOMEM);
		return;
	}
	c->fi.fh = (uint64_t)(uintptr_t)m;
	c->fi.direct_io = 1;
	c->fi.noflush = 1;
	c->fi.nonseekable = 1;
	call_reply_open(c, &c->fi);
}

/* -- the question ------------------------------------------------------- */

/* Lock held. */
static void drop_question(struct fs *fs, struct match *m)
{
	free(m->question);
	m->question = NULL;
	atomic_fetch_sub(&fs->counters.match_bytes, m->room);
	m->n = m->room = 0;
}

/* Lock held. */
static int make_room(struct fs *fs, struct match *m, size_t need)
{
	size_t room = m->room ? m->room : ROOM_START, more;
	char *question;

	while (room < need)
		room *= 2;
	more = room - m->room;
	if (!more)
		return 0;
	if (atomic_fetch_add(&fs->counters.match_bytes, more) + more >
		    HELD_MAX ||
	    !(question = realloc(m->question, room))) {
		atomic_fetch_sub(&fs->counters.match_bytes, more);
		return ENOMEM;
	}
	m->question = question;
	m->room = room;
	return 0;
}

static int append(struct fs *fs, struct match *m, const void *bytes, size_t n)
{
	int err;
	scoped_lock(&m->lock);

	if (m->state != MATCH_WRITTEN)
		return EBUSY;
	if (n > KV_MATCH_BYTES_MAX - m->n)
		return EFBIG;
	err = make_room(fs, m, m->n + n);
	if (err)
		return err;
	memcpy(m->question + m->n, bytes, n);
	m->n += n;
	return 0;
}

void ctl_match_write(struct call *c)
{
	int err = append(c->fs, match_of(c), c->value, c->size);

	if (err)
		call_reply_err(c, err);
	else
		call_reply_written(c, c->size);
}

/* -- the answer --------------------------------------------------------- */

/* The longest prefix first. */
static int by_prefix(const void *a, const void *b)
{
	const struct kv_match_node *x = a, *y = b;

	if (x->n_prefix != y->n_prefix)
		return x->n_prefix > y->n_prefix ? -1 : 1;
	return x->incarnation < y->incarnation ? -1 : 1;
}

static json_t *node_json(struct fs *fs, const struct kv_match_node *n)
{
	char shown[CTL_NAME_BYTES];
	struct meta_node node;

	if (!meta_node_get(fs->meta, n->incarnation, &node))
		return NULL; /* went meanwhile */
	return json_pack("{s:s, s:s, s:b, s:i}", "name",
			 ctl_name(node.name, shown), "uuid", node.uuid, "self",
			 node.is_self, "prefix", (int)n->n_prefix);
}

static char *answer_text(struct fs *fs, const struct kv_match_question *q,
			 struct kv_match_answer *a)
{
	json_t *nodes = json_array(), *one;

	qsort(a->nodes, a->n_nodes, sizeof(*a->nodes), by_prefix);
	for (unsigned i = 0; i < a->n_nodes; i++)
		if ((one = node_json(fs, &a->nodes[i])))
			json_array_append_new(nodes, one);
	return ctl_text(json_pack("{s:i, s:i, s:b, s:o}", "names", (int)q->n,
				  "prefix", (int)a->n_prefix, "complete",
				  a->complete, "nodes", nodes));
}

static int ask(struct call *c, struct match *m, char **answer)
{
	struct kv_match_question q;
	struct kv_match_answer a;
	unsigned bad_line;
	int err = kv_match_parse(m->question, m->n, &q, &bad_line);

	if (err)
		return err;
	err = kv_match(c->fs, m->who, c->deadline, &q, &a);
	if (!err && !(*answer = answer_text(c->fs, &q, &a)))
		err = -ENOMEM;
	kv_match_fini(&q);
	atomic_fetch_add(&c->fs->counters.matches, 1);
	return err;
}

/* The question is the asker's: nobody writes to it now. */
static void ask_on_worker(struct call *c)
{
	struct match *m = match_of(c);
	char *answer = NULL;
	int err = ask(c, m, &answer);

	pthread_mutex_lock(&m->lock);
	drop_question(c->fs, m);
	m->answer = answer;
	m->err = err;
	m->from = c->off;
	m->state = MATCH_ANSWERED;
	pthread_mutex_unlock(&m->lock);
	ctl_match_read(c);
}

static enum match_state begin(struct match *m)
{
	enum match_state state;
	scoped_lock(&m->lock);

	state = m->state;
	if (state == MATCH_WRITTEN)
		m->state = MATCH_ASKED;
	return state;
}

/* What was answered stays until the release, which the kernel sends after the
 * last read. */
void ctl_match_read(struct call *c)
{
	struct match *m = match_of(c);
	enum match_state state = begin(m);

	if (state == MATCH_WRITTEN)
		call_defer(c, ask_on_worker);
	else if (state == MATCH_ASKED)
		call_reply_err(c, EBUSY);
	else if (m->err)
		call_reply_err(c, m->err);
	else
		ctl_reply_text(c, m->answer, c->off - m->from);
}

void ctl_match_release(struct call *c)
{
	struct match *m = match_of(c);

	drop_question(c->fs, m);
	free(m->answer);
	free(m->who);
	pthread_mutex_destroy(&m->lock);
	free(m);
	call_reply_err(c, 0);
}
