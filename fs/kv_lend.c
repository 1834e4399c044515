// SPDX-License-Identifier: MIT
#include "fs/kv_lend.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/kv.h"
#include "fs/users.h"

#define PIN_LISTS 64 /* of one directory; a power of 2 */

struct pin {
	struct pin *next;
	struct kv_hold hold;
	uint32_t n; /* LOCATEs less UNPINs */
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

/* The hold is counted; what it held may be gone afterwards. */
static void charge(struct kv *kv, struct fs_user *user, struct kv_lent *lent,
		   int n)
{
	uint64_t bytes = (uint64_t)n * lent->bytes;

	user_charge(user, n, (int64_t)bytes);
	lent->holds += (uint32_t)n;
	atomic_fetch_add(&kv->fs->counters.lent, (uint64_t)n);
	atomic_fetch_add(&kv->fs->counters.lent_bytes, bytes);
}

int kv_hold_lent(struct kv *kv, uid_t uid, struct kv_lent *lent,
		 struct kv_hold *hold)
{
	uint64_t limit = kv->fs->config.pool_bytes / KV_LEND_SHARE;
	struct fs_user *user = users_get(&kv->lend_users, uid);

	if (!user)
		return -ENOMEM;
	if (user->bytes + lent->bytes > limit) {
		user_settle(user);
		return -EDQUOT;
	}
	charge(kv, user, lent, 1);
	*hold = (struct kv_hold){lent, user};
	return 0;
}

int kv_hold_take(struct kv *kv, uid_t uid, struct kv_file *f,
		 struct kv_hold *hold)
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

void kv_hold_drop(struct kv *kv, struct kv_hold *hold)
{
	charge(kv, hold->user, hold->lent, -1);
	lent_settle(kv, hold->lent);
}

/* -- pins --------------------------------------------------------------- */

static struct pin **pin_place(struct kv_pins *pins, uint32_t frame)
{
	struct pin **at = &pins->lists[frame % PIN_LISTS];

	while (*at && (*at)->hold.lent->frame != frame)
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
	kv_hold_drop(kv, &pin->hold);
	free(pin);
}

bool kv_pins_drop(struct kv *kv, struct kv_pins *pins, uint32_t frame,
		  uint32_t epoch)
{
	struct pin **at = pins ? pin_place(pins, frame) : NULL;

	if (!at || !*at || (*at)->hold.lent->epoch != epoch)
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
		if (p->hold.lent->frame == frame &&
		    p->hold.lent->epoch == epoch)
			return p->hold.lent;
	return NULL;
}

void kv_pins_abort(struct kv *kv, struct kv_pins *pins, struct kv_lent *lent,
		   bool taken)
{
	struct pin **at = &pins->reserved, *pin;

	while ((*at)->hold.lent != lent)
		at = &(*at)->next;
	pin = *at;
	if (!taken) {
		pin_free(kv, at);
		return;
	}
	*at = pin->next;
	charge(kv, pin->hold.user, lent, -1);
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
			free(lent);
		}
	users_free(&kv->lend_users);
}
