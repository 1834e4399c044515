/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_LIST_H
#define KVFS_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

/*
 * A doubly linked list through its members. The head is a link of its own;
 * a link that is on no list points at itself.
 */
struct list {
	struct list *prev, *next;
};

#define container_of(ptr, type, member) \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define list_for_each(pos, head) \
	for (struct list *pos = (head)->next; pos != (head); pos = pos->next)

#define list_for_each_safe(pos, head)                                  \
	for (struct list *pos = (head)->next, *pos##_next = pos->next; \
	     pos != (head); pos = pos##_next, pos##_next = pos->next)

static inline void list_init(struct list *l)
{
	l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_remove(struct list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

/** list_push_back - append; a list read from head->next is first in, first out.
 */
static inline void list_push_back(struct list *head, struct list *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

static inline void list_push_front(struct list *head, struct list *l)
{
	list_push_back(head->next, l);
}

/** list_pop_front - take the oldest off, or NULL. */
static inline struct list *list_pop_front(struct list *head)
{
	struct list *l = head->next;

	if (l == head)
		return NULL;
	list_remove(l);
	return l;
}

#endif
