// SPDX-License-Identifier: MIT
#include "engine/mailbox.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static __thread const struct mailbox *mailbox_of_thread;

static bool on_loop(const struct mailbox *b)
{
	return mailbox_of_thread == b;
}

int mailbox_open(struct mailbox *b, const char *of)
{
	b->of = of;
	b->fd = eventfd(0, EFD_CLOEXEC);
	if (b->fd < 0)
		return -errno;
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->changed, NULL);
	list_init(&b->links);
	return 0;
}

void mailbox_close(struct mailbox *b)
{
	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->lock);
	close(b->fd);
}

void mailbox_ring(struct mailbox *b)
{
	const uint64_t one = 1;

	if (atomic_exchange(&b->rung, true) || on_loop(b))
		return;
	if (write(b->fd, &one, sizeof(one)) < 0)
		log_error("engine: %s: eventfd: %s", b->of, strerror(errno));
}

void mailbox_quiet(struct mailbox *b)
{
	pthread_mutex_lock(&b->lock);
	b->quiet = true;
	pthread_mutex_unlock(&b->lock);
	mailbox_ring(b);
	pthread_mutex_lock(&b->lock);
	while (!b->is_quiet)
		pthread_cond_wait(&b->changed, &b->lock);
	pthread_mutex_unlock(&b->lock);
}

void mailbox_end(struct mailbox *b)
{
	pthread_mutex_lock(&b->lock);
	b->quiet = b->ended = true;
	pthread_mutex_unlock(&b->lock);
	mailbox_ring(b);
}

void mailbox_link_init(struct mailbox_link *l, struct mailbox *b)
{
	l->mailbox = b;
	list_init(&l->at);
	list_init(&l->msgs);
	list_init(&l->slices);
	list_init(&l->back);
}

void mailbox_unlock(struct mailbox_link *l, bool news)
{
	struct mailbox *b = l->mailbox;

	if (news && list_empty(&l->at))
		list_push_back(&b->links, &l->at);
	pthread_mutex_unlock(&b->lock);
	if (news)
		mailbox_ring(b);
}

void mailbox_link_close(struct engine_link *link, int why)
{
	struct mailbox_link *l = mailbox_of(link);
	bool news;

	pthread_mutex_lock(&l->mailbox->lock);
	news = !l->close_wanted && !l->shut;
	if (news) {
		l->close_wanted = true;
		l->close_why = why;
	}
	mailbox_unlock(l, news);
}

static int leave(struct mailbox_link *l, struct list *to, struct list *what)
{
	bool taken;

	pthread_mutex_lock(&l->mailbox->lock);
	taken = !l->shut;
	if (taken)
		list_push_back(to, what);
	mailbox_unlock(l, taken);
	return taken ? 0 : -ENOTCONN;
}

int mailbox_send(struct engine_link *link, struct engine_msg *m)
{
	struct mailbox_link *l = mailbox_of(link);

	return leave(l, &l->msgs, &m->link);
}

int mailbox_submit(struct transport *t, struct engine_link *link,
		   struct engine_slice *s)
{
	struct mailbox_link *l = mailbox_of(link);

	(void)t;
	return leave(l, &l->slices, &s->link);
}

bool mailbox_take_back(struct mailbox_link *l, struct engine_slice *s)
{
	list_for_each_safe (n, &l->slices) {
		if (n != &s->link)
			continue;
		list_remove(n);
		list_push_back(&l->back, n);
		return true;
	}
	return false;
}

void mailbox_enter(struct mailbox *b)
{
	mailbox_of_thread = b;
}

bool mailbox_rung(struct mailbox *b)
{
	return atomic_exchange(&b->rung, false);
}

struct mailbox_link *mailbox_next(struct mailbox *b)
{
	scoped_lock(&b->lock);
	struct list *n = list_pop_front(&b->links);

	return n ? container_of(n, struct mailbox_link, at) : NULL;
}

struct mailbox_news mailbox_news(struct mailbox_link *l)
{
	scoped_lock(&l->mailbox->lock);
	struct mailbox_news news = {.close = l->close_wanted,
				    .cancel = l->cancel_wanted,
				    .divert = l->divert_wanted,
				    .close_why = l->close_why};

	l->cancel_wanted = l->divert_wanted = false;
	return news;
}
