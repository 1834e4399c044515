// SPDX-License-Identifier: MIT
/*
 * The protocol by which nodes publish, retract and remove a name, explored
 * exhaustively: every order of what users do, what is sent, what Redis runs,
 * what is lost with a connection and what lands late.
 *
 * One name, a few nodes, small budgets of each kind of event. What Redis does
 * is meta/kvfs.lua's publish, retract and unlink; what nodes do is meta/kv.c
 * and meta/kv_send.c. Wherever nothing is under way any more there must be
 *
 *      no ghost        Redis lists a holder that does not hold that version
 *      nothing lost    a node holds a version and Redis does not list it
 *      no return       a version that a user removed is back; asked after each
 *                      node has audited itself
 *
 * Then the same with one rule taken out at a time: each time something must
 * go wrong, or the rule is not needed or the model does not see it.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODES 2
#define VERSIONS 3 /* commits; 1 is the first */
#define QUEUE 4

/* The rules that can be taken out. */
enum rule {
	RULE_NONE,
	RULE_FENCE,	/* a new connection first kills the old one */
	RULE_TOMBSTONE, /* a removed name leaves one */
	RULE_STATE,	/* what is sent is what is true now: no queue */
	RULE_DOUBT,	/* what may have landed says so when sent again */
	RULES,
};

static const char *const rule_names[RULES] = {
	"all rules", "without the fence", "without tombstones",
	"with a queue of operations", "without doubt"};

static enum rule missing;

/* --- a state ----------------------------------------------------------- */

enum verb { IDLE, PUBLISH, RETRACT, UNLINK };

struct message {
	uint8_t verb, version, generation, doubt;
};

enum answer { NO_ANSWER, PUBLISHED, CONFLICT, DROPPED, GONE };

struct node {
	uint8_t version; /* held; 0: none */
	uint8_t generation;
	uint8_t unlinked, unlinked_generation;
	uint8_t dirty, again;
	uint8_t doubt; /* this version may have landed; ANY: whatever it is */
	uint8_t down;
	struct message sent; /* in flight, not run yet */
	struct message late; /* of a connection before */
	uint8_t flying;	     /* a message or its answer is */
	uint8_t flying_verb, flying_version;
	uint8_t answer, answer_generation;
	uint8_t n_queue; /* without RULE_STATE */
	struct message queue[QUEUE];
};

#define ANY 0xff

struct state {
	struct node nodes[NODES];
	/* Redis */
	uint8_t version, generation, holders; /* of the record; 0: none */
	uint8_t tombstone, last_generation;
	/* what the checker knows */
	uint8_t removed; /* versions, one bit each */
	uint8_t commits, evicts, unlinks, losses, fetches, audits; /* left */
};

/* --- Redis: as kvfs.lua ------------------------------------------------ */

static uint8_t larger(uint8_t a, uint8_t b)
{
	return a > b ? a : b;
}

static enum answer publish_new(struct state *s, unsigned n,
			       const struct message *m, uint8_t older)
{
	if (s->tombstone && m->generation <= s->tombstone &&
	    (m->generation || m->doubt))
		return DROPPED;
	if (m->generation > older) {
		s->last_generation = larger(s->last_generation, m->generation);
		s->generation = m->generation;
	} else {
		s->last_generation =
			larger(s->last_generation, larger(s->tombstone, older));
		s->generation = ++s->last_generation;
	}
	s->version = m->version;
	s->holders = (uint8_t)(1u << n);
	return PUBLISHED;
}

static enum answer redis_publish(struct state *s, unsigned n,
				 const struct message *m)
{
	uint8_t me = (uint8_t)(1u << n), others = s->holders & (uint8_t)~me;

	if (!s->holders)
		return publish_new(s, n, m, 0);
	if (s->version == m->version) {
		s->holders |= me;
		return PUBLISHED;
	}
	if (!others) {
		enum answer a = publish_new(s, n, m, s->generation);

		if (a == DROPPED) /* nobody has the older bytes either */
			s->holders = s->version = s->generation = 0;
		return a;
	}
	s->holders = others;
	return CONFLICT;
}

static void redis_retract(struct state *s, unsigned n)
{
	s->holders &= (uint8_t) ~(1u << n);
	if (!s->holders)
		s->version = s->generation = 0;
}

static enum answer redis_unlink(struct state *s, unsigned n,
				const struct message *m)
{
	uint8_t g = larger(m->generation, s->tombstone);

	/* not what came after the version that the user saw */
	if (s->holders && (!m->generation || s->generation <= m->generation)) {
		g = larger(g, s->generation);
		s->removed |= (uint8_t)(1u << s->version);
		s->holders = s->version = s->generation = 0;
	}
	redis_retract(s, n);
	if (g && missing != RULE_TOMBSTONE) {
		s->tombstone = g;
		s->last_generation = larger(s->last_generation, g);
	}
	return GONE;
}

static enum answer redis_run(struct state *s, unsigned n,
			     const struct message *m)
{
	switch (m->verb) {
	case PUBLISH:
		return redis_publish(s, n, m);
	case UNLINK:
		return redis_unlink(s, n, m);
	default:
		redis_retract(s, n);
		return GONE;
	}
}

/* --- a node ------------------------------------------------------------ */

static struct message message_now(const struct node *n)
{
	struct message m = {.verb = RETRACT};

	/* what was removed goes first, whatever came after it; a queue has
	 * it in it already */
	if (n->unlinked && !(n->version && missing == RULE_STATE)) {
		m.verb = UNLINK;
		m.generation = n->unlinked_generation;
	} else if (n->version) {
		m.verb = PUBLISH;
		m.version = n->version;
		m.generation = n->generation;
		m.doubt = !n->generation && missing != RULE_DOUBT &&
			  (n->doubt == ANY || n->doubt == n->version);
	}
	return m;
}

/* A queue takes down what is true now; a set only that something changed. */
static bool changed(struct node *n)
{
	if (missing == RULE_STATE) {
		if (n->n_queue == QUEUE)
			return false;
		n->queue[n->n_queue++] = message_now(n);
		return true;
	}
	if (n->flying)
		n->again = 1;
	else
		n->dirty = 1;
	return true;
}

static bool queue_or_set_is_empty(const struct node *n)
{
	return missing == RULE_STATE ? !n->n_queue : !n->dirty;
}

static bool node_send(struct node *n)
{
	if (n->flying || n->down || queue_or_set_is_empty(n))
		return false;
	n->sent = missing == RULE_STATE ? n->queue[0] : message_now(n);
	n->flying = 1;
	n->flying_verb = n->sent.verb;
	n->flying_version = n->sent.verb == PUBLISH && !n->sent.generation
				    ? n->sent.version
				    : 0;
	n->dirty = n->again = 0;
	return true;
}

static void queue_pop(struct node *n)
{
	if (missing != RULE_STATE)
		return;
	memmove(n->queue, n->queue + 1, sizeof(n->queue) - sizeof(*n->queue));
	n->queue[--n->n_queue] = (struct message){0};
}

static void verdict(struct node *n)
{
	switch (n->answer) {
	case PUBLISHED:
		if (n->version)
			n->generation = n->answer_generation;
		break;
	case CONFLICT:
	case DROPPED:
		n->version = n->generation = 0;
		break;
	default:
		if (n->flying_verb == UNLINK)
			n->unlinked = n->unlinked_generation = 0;
		n->again = n->version && missing != RULE_STATE; /* its turn */
	}
}

static bool node_hear(struct node *n)
{
	if (!n->answer || n->down)
		return false;
	queue_pop(n);
	if (!n->again)
		verdict(n);
	n->dirty = n->again && missing != RULE_STATE;
	n->doubt = n->again ? n->flying_version : 0;
	n->flying = n->again = n->flying_verb = n->flying_version = 0;
	n->answer = n->answer_generation = 0;
	return true;
}

/* The connection ends. What Redis has not run yet is lost, or still lies in a
 * socket on its way there. */
static bool node_loses(struct state *s, struct node *n, bool lands_late)
{
	if (n->down || !s->losses || (lands_late && !n->sent.verb))
		return false;
	s->losses--;
	n->down = 1;
	if (lands_late)
		n->late = n->sent;
	if (n->flying) {
		n->dirty = missing != RULE_STATE;
		if (n->flying_version)
			n->doubt = n->flying_version;
	}
	n->sent = (struct message){0};
	n->flying = n->again = n->flying_verb = n->flying_version = 0;
	n->answer = n->answer_generation = 0;
	return true;
}

static bool node_reconnects(struct node *n)
{
	if (!n->down)
		return false;
	n->down = 0;
	if (missing != RULE_FENCE)
		n->late = (struct message){0};
	return true;
}

/* --- what happens ------------------------------------------------------ */

static bool commit(struct state *s, struct node *n)
{
	if (!s->commits || n->version)
		return false;
	n->version = (uint8_t)(VERSIONS - s->commits-- + 1);
	n->generation = 0;
	return changed(n);
}

static bool evict(struct state *s, struct node *n)
{
	if (!s->evicts || !n->version)
		return false;
	s->evicts--;
	n->version = n->generation = 0;
	return changed(n);
}

static bool user_unlinks(struct state *s, struct node *n)
{
	if (!s->unlinks || (!n->version && (!s->holders || n->unlinked)))
		return false;
	s->unlinks--;
	if (n->version)
		s->removed |= (uint8_t)(1u << n->version);
	n->unlinked = 1;
	n->unlinked_generation = n->version ? n->generation : s->generation;
	n->version = n->generation = 0;
	return changed(n);
}

static bool fetch(struct state *s, struct node *n)
{
	if (!s->fetches || n->version || n->unlinked || !s->holders)
		return false;
	for (unsigned i = 0; i < NODES; i++) {
		struct node *from = &s->nodes[i];

		/* a provisional copy is not given away */
		if (!(s->holders & (1u << i)) || from == n ||
		    from->version != s->version || !from->generation)
			continue;
		s->fetches--;
		n->version = s->version;
		n->generation = s->generation;
		return changed(n);
	}
	return false;
}

static bool audit_marks(const struct state *s, unsigned i)
{
	return s->nodes[i].version || s->nodes[i].unlinked ||
	       (s->holders & (1u << i));
}

static bool audit(struct state *s, unsigned i)
{
	struct node *n = &s->nodes[i];

	if (!audit_marks(s, i))
		return false;
	if (n->version && !n->generation)
		n->doubt = ANY;
	return changed(n);
}

static bool run_sent(struct state *s, unsigned i)
{
	struct node *n = &s->nodes[i];

	if (!n->sent.verb)
		return false;
	n->answer = (uint8_t)redis_run(s, i, &n->sent);
	n->answer_generation = s->generation;
	n->sent = (struct message){0};
	return true;
}

static bool run_late(struct state *s, unsigned i)
{
	struct node *n = &s->nodes[i];

	if (!n->late.verb)
		return false;
	redis_run(s, i, &n->late);
	n->late = (struct message){0};
	return true;
}

#define EVENTS 12

/* Event e of node i; false: it cannot happen here. */
static bool event(struct state *s, unsigned e, unsigned i)
{
	struct node *n = &s->nodes[i];

	switch (e) {
	case 0:
		return commit(s, n);
	case 1:
		return evict(s, n);
	case 2:
		return user_unlinks(s, n);
	case 3:
		return fetch(s, n);
	case 4:
		return node_send(n);
	case 5:
		return run_sent(s, i);
	case 6:
		return node_hear(n);
	case 7:
		return node_loses(s, n, false);
	case 8:
		return node_loses(s, n, true);
	case 9:
		return node_reconnects(n);
	case 10:
		return run_late(s, i);
	default:
		return s->audits && s->audits-- && audit(s, i);
	}
}

static const char *const event_names[EVENTS] = {
	"commits",
	"evicts",
	"unlinks",
	"fetches",
	"sends",
	"is answered in Redis",
	"hears",
	"loses its connection and what it sent",
	"loses its connection, what it sent lands later",
	"reconnects",
	"has a late command land",
	"audits itself"};

/* --- what must hold ---------------------------------------------------- */

static bool is_quiet(const struct state *s)
{
	for (unsigned i = 0; i < NODES; i++) {
		const struct node *n = &s->nodes[i];

		if (n->flying || n->down || n->late.verb ||
		    !queue_or_set_is_empty(n))
			return false;
	}
	return true;
}

static const char *disagreement(const struct state *s, bool audited)
{
	for (unsigned i = 0; i < NODES; i++) {
		uint8_t v = s->nodes[i].version;
		bool listed = s->holders & (1u << i);

		if (listed && v != s->version)
			return "a ghost: Redis lists who does not hold it";
		/* who was not told of an unlink learns of it at its audit */
		if (v && !listed && (audited || !(s->removed & (1u << v))))
			return "lost: Redis does not list who holds it";
		if (audited && v && (s->removed & (1u << v)))
			return "back: a user has removed this version";
	}
	return NULL;
}

/* Everybody audits itself, one after the other, undisturbed. */
static void all_audit(struct state *s)
{
	for (unsigned i = 0; i < NODES; i++) {
		struct node *n = &s->nodes[i];

		audit(s, i);
		while (node_send(n) && run_sent(s, i))
			node_hear(n);
	}
}

static const char *wrong(const struct state *s)
{
	struct state later = *s;
	const char *what;

	if (!is_quiet(s))
		return NULL;
	what = disagreement(s, false);
	if (what)
		return what;
	all_audit(&later);
	return disagreement(&later, true);
}

/* --- the search: breadth first, so that the first trace is a short one -- */

struct visit {
	struct state state;
	uint32_t from; /* its predecessor's place */
	uint8_t event, node;
};

static struct visit *visits;
static uint32_t n_visits, cap_visits;
static uint32_t *table; /* place + 1; 0: free */
static uint32_t table_size;

static uint32_t hash(const struct state *s)
{
	const uint8_t *p = (const uint8_t *)s;
	uint64_t h = 0xcbf29ce484222325ULL;

	for (size_t i = 0; i < sizeof(*s); i++)
		h = (h ^ p[i]) * 0x100000001b3ULL;
	return (uint32_t)(h ^ (h >> 32));
}

static void *more(void *p, size_t n, size_t size)
{
	p = realloc(p, n * size);
	if (!p) {
		perror("model");
		exit(99);
	}
	return p;
}

static void table_grow(void)
{
	table_size = table_size ? table_size * 2 : 1u << 16;
	table = more(table, table_size, sizeof(*table));
	memset(table, 0, table_size * sizeof(*table));
	for (uint32_t i = 0; i < n_visits; i++) {
		uint32_t at = hash(&visits[i].state) & (table_size - 1);

		while (table[at])
			at = (at + 1) & (table_size - 1);
		table[at] = i + 1;
	}
}

static void visit(const struct state *s, uint32_t from, unsigned e, unsigned n)
{
	uint32_t at;

	if (n_visits * 2 >= table_size)
		table_grow();
	at = hash(s) & (table_size - 1);
	for (; table[at]; at = (at + 1) & (table_size - 1))
		if (!memcmp(&visits[table[at] - 1].state, s, sizeof(*s)))
			return;
	if (n_visits == cap_visits) {
		cap_visits = cap_visits ? cap_visits * 2 : 1u << 16;
		visits = more(visits, cap_visits, sizeof(*visits));
	}
	visits[n_visits] = (struct visit){*s, from, (uint8_t)e, (uint8_t)n};
	table[at] = ++n_visits;
}

static void trace_print(uint32_t at)
{
	if (!at)
		return;
	trace_print(visits[at].from);
	printf("    node %u %s\n", visits[at].node,
	       event_names[visits[at].event]);
}

/* Returns: what goes wrong first, or NULL; *at: where. */
static const char *search(uint32_t *at)
{
	struct state start;

	memset(&start, 0, sizeof(start));
	start.commits = VERSIONS;
	start.evicts = 1;
	start.unlinks = 2;
	start.losses = 1;
	start.fetches = 1;
	start.audits = 1;
	n_visits = 0;
	if (table)
		memset(table, 0, table_size * sizeof(*table));
	visit(&start, 0, 0, 0);
	for (uint32_t i = 0; i < n_visits; i++) {
		for (unsigned e = 0; e < EVENTS * NODES; e++) {
			struct state s = visits[i].state;

			if (event(&s, e / NODES, e % NODES))
				visit(&s, i, e / NODES, e % NODES);
		}
		*at = i;
		if (wrong(&visits[i].state))
			return wrong(&visits[i].state);
	}
	return NULL;
}

int main(void)
{
	int failures = 0;

	for (missing = RULE_NONE; missing < RULES; missing++) {
		uint32_t at;
		const char *what = search(&at);
		bool good = missing == RULE_NONE ? !what : !!what;

		printf("%s: %s: %u states%s%s\n", good ? "ok" : "FAILED",
		       rule_names[missing], n_visits, what ? ": " : "",
		       what ? what : "");
		if (what)
			trace_print(at);
		failures += !good;
	}
	free(visits);
	free(table);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
