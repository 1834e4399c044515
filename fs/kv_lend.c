// SPDX-License-Identifier: MIT
#include "fs/kv_lend.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/kv.h"
#include "fs/users.h"

#define PIN_LISTS 64 /* of one directory; a power of 2 */
#define PAGE 4096u   /* the pool's memory is so many bytes, or more of them */

struct pin {
	struct pin *next;
	struct kv_hold *hold;
	uint64_t n; /* LOCATEs less UNPINs */
};

struct kv_pins {
	struct pin *lists[PIN_LISTS];
	struct pin *reserved;
};

/* -- frames ------------------------------------------------------------- */

static struct kv_lent **lent_place(struct kv *kv, uint32_t frame)
{
	struct kv_lent **at = &kv->lent[frame % KV_LENT_LISTS];

	while (*at && (*at)->frame != frame)
		at = &(*at)->next;
	return at;
}

struct kv_lent *kv_lent_find(struct kv *kv, uint32_t frame)
{
	return *lent_place(kv, frame);
}

static struct kv_lent *lent_get(struct kv *kv, struct kv_file *f)
{
	struct kv_lent **at = lent_place(kv, f->frame), *lent = *at;

	if (lent)
		return lent;
	lent = calloc(1, sizeof(*lent));
	if (!lent)
		return NULL;
	list_init(&lent->reserved);
	lent->f = f;
	lent->frame = f->frame;
	lent->epoch = kv_record(kv, f)->epoch;
	lent->bytes = kv_record(kv, f)->size_bytes;
	f->node.pins++;
	*at = lent;
	return lent;
}

static void lent_free(struct kv *kv, struct kv_lent *lent)
{
	*lent_place(kv, lent->frame) = lent->next;
	list_remove(&lent->reserved);
	free(lent);
}

static void lent_settle(struct kv *kv, struct kv_lent *lent)
{
	struct kv_file *f = lent->f;
	uint32_t frame = lent->frame;

	if (lent->holds)
		return;
	lent_free(kv, lent);
	if (f) {
		kv_unpin(kv, f);
	} else {
		pool_writers(kv->fs->pool, -1);
		pool_put(kv->fs->pool, frame);
	}
}

/* -- holds -------------------------------------------------------------- */

static uint64_t memory_of(const struct kv_lent *lent)
{
	return (lent->bytes + PAGE - 1) / PAGE * PAGE;
}

/* One hold more, or less: what it takes is counted with the first. */
static void charge(struct kv *kv, struct kv_hold *hold, int n)
{
	bool first = hold->n + (uint32_t)(n < 0 ? n : 0) == 0;
	int64_t bytes = first ? n * (int64_t)memory_of(hold->lent) : 0;

	hold->n += (uint32_t)n;
	hold->lent->holds += (uint32_t)n;
	user_charge(hold->user, n, bytes);
	atomic_fetch_add(&kv->fs->counters.lent, (uint64_t)n);
	atomic_fetch_add(&kv->fs->counters.lent_bytes, (uint64_t)bytes);
}

static bool has_room(const struct kv *kv, const struct fs_user *user,
		     uint64_t bytes)
{
	uint64_t limit = kv->fs->config.pool_bytes / KV_LEND_SHARE;

	return user->n < KV_HOLDS_MAX && user->bytes + bytes <= limit;
}

static struct kv_hold *hold_of(struct kv_lent *lent, const struct fs_user *user)
{
	struct kv_hold *hold = lent->held;

	while (hold && hold->user != user)
		hold = hold->next;
	return hold;
}

/* Nothing is charged yet. */
static struct kv_hold *hold_new(struct kv_lent *lent, struct fs_user *user)
{
	struct kv_hold *hold = calloc(1, sizeof(*hold));

	if (!hold)
		return NULL;
	*hold = (struct kv_hold){
		.next = lent->held, .lent = lent, .user = user};
	lent->held = hold;
	return hold;
}

static void hold_free(struct kv_hold *hold)
{
	struct kv_hold **at = &hold->lent->held;

	while (*at != hold)
		at = &(*at)->next;
	*at = hold->next;
	free(hold);
}

int kv_hold_lent(struct kv *kv, uid_t uid, struct kv_lent *lent,
		 struct kv_hold **hold)
{
	struct fs_user *user = users_get(&kv->lend_users, uid);
	struct kv_hold *h = user ? hold_of(lent, user) : NULL;
	int err = 0;

	if (user && !has_room(kv, user, h ? 0 : memory_of(lent)))
		err = -EDQUOT;
	else if (user && !h)
		h = hold_new(lent, user);
	if (!err && !h)
		err = -ENOMEM;
	if (err) {
		if (user)
			user_settle(user);
		return err;
	}
	charge(kv, h, 1);
	*hold = h;
	return 0;
}

int kv_hold_take(struct kv *kv, uid_t uid, struct kv_file *f,
		 struct kv_hold **hold)
{
	struct kv_lent *lent = lent_get(kv, f);
	int err = lent ? kv_hold_lent(kv, uid, lent, hold) : -ENOMEM;

	if (err && lent)
		lent_settle(kv, lent);
	return err;
}

void kv_lent_put(struct kv *kv, struct kv_lent *lent)
{
	lent->holds--;
	lent_settle(kv, lent);
}

static void let_go(struct kv *kv, struct kv_hold *hold)
{
	charge(kv, hold, -1);
	if (!hold->n)
		hold_free(hold);
}

void kv_hold_drop(struct kv *kv, struct kv_hold *hold)
{
	struct kv_lent *lent = hold->lent;

	let_go(kv, hold);
	lent_settle(kv, lent);
}

/* -- pins --------------------------------------------------------------- */

static struct pin **pin_place(struct kv_pins *pins, uint32_t frame)
{
	struct pin **at = &pins->lists[frame % PIN_LISTS];

	while (*at && (*at)->hold->lent->frame != frame)
		at = &(*at)->next;
	return at;
}

static bool have_pins(struct kv_pins **pins)
{
	if (!*pins)
		*pins = calloc(1, sizeof(**pins));
	return *pins;
}

int kv_pins_add(struct kv *kv, struct kv_pins **pins, uid_t uid,
		struct kv_file *f)
{
	struct pin **at, *pin;
	int err;

	if (!have_pins(pins))
		return -ENOMEM;
	at = pin_place(*pins, f->frame);
	if (*at) {
		(*at)->n++;
		return 0;
	}
	pin = calloc(1, sizeof(*pin));
	err = pin ? kv_hold_take(kv, uid, f, &pin->hold) : -ENOMEM;
	if (err) {
		free(pin);
		return err;
	}
	pin->n = 1;
	*at = pin;
	return 0;
}

static void pin_free(struct kv *kv, struct pin **at)
{
	struct pin *pin = *at;

	*at = pin->next;
	kv_hold_drop(kv, pin->hold);
	free(pin);
}

bool kv_pins_drop(struct kv *kv, struct kv_pins *pins, uint32_t frame,
		  uint32_t epoch)
{
	struct pin **at = pins ? pin_place(pins, frame) : NULL;

	if (!at || !*at || (*at)->hold->lent->epoch != epoch)
		return false;
	if (!--(*at)->n)
		pin_free(kv, at);
	return true;
}

static struct kv_lent *lend_reserved(struct kv *kv, uid_t uid, uint32_t frame,
				     uint64_t bytes)
{
	struct kv_lent *lent = calloc(1, sizeof(*lent));

	if (!lent)
		return NULL;
	lent->frame = frame;
	lent->epoch = pool_record(kv->fs->pool, frame)->epoch;
	lent->bytes = bytes;
	lent->uid = uid;
	*lent_place(kv, frame) = lent;
	list_push_back(&kv->reserved, &lent->reserved);
	return lent;
}

int kv_pins_reserve(struct kv *kv, struct kv_pins **pins, uid_t uid,
		    uint32_t frame, uint64_t bytes)
{
	struct pin *pin = have_pins(pins) ? calloc(1, sizeof(*pin)) : NULL;
	struct kv_lent *lent =
		pin ? lend_reserved(kv, uid, frame, bytes) : NULL;
	int err = lent ? kv_hold_lent(kv, uid, lent, &pin->hold) : -ENOMEM;

	if (err) {
		if (lent)
			lent_free(kv, lent);
		free(pin);
		return err;
	}
	pin->next = (*pins)->reserved;
	(*pins)->reserved = pin;
	pool_writers(kv->fs->pool, 1);
	return 0;
}

struct kv_lent *kv_pins_reserved(struct kv_pins *pins, uint32_t frame,
				 uint32_t epoch)
{
	for (struct pin *p = pins ? pins->reserved : NULL; p; p = p->next)
		if (p->hold->lent->frame == frame &&
		    p->hold->lent->epoch == epoch)
			return p->hold->lent;
	return NULL;
}

void kv_pins_abort(struct kv *kv, struct kv_pins *pins, struct kv_lent *lent,
		   bool taken)
{
	struct pin **at = &pins->reserved, *pin;

	while ((*at)->hold->lent != lent)
		at = &(*at)->next;
	pin = *at;
	if (!taken) {
		pin_free(kv, at);
		return;
	}
	*at = pin->next;
	let_go(kv, pin->hold);
	lent_free(kv, lent);
	pool_writers(kv->fs->pool, -1);
	free(pin);
}

void kv_pins_free(struct kv *kv, struct kv_pins *pins)
{
	while (pins && pins->reserved)
		pin_free(kv, &pins->reserved);
	for (unsigned i = 0; pins && i < PIN_LISTS; i++)
		while (pins->lists[i])
			pin_free(kv, &pins->lists[i]);
	free(pins);
}

void kv_lend_fini(struct kv *kv)
{
	for (unsigned i = 0; i < KV_LENT_LISTS; i++)
		while (kv->lent[i]) {
			struct kv_lent *lent = kv->lent[i];

			kv->lent[i] = lent->next;
			while (lent->held)
				hold_free(lent->held);
			free(lent);
		}
	users_free(&kv->lend_users);
}
