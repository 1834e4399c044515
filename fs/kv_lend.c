// SPDX-License-Identifier: MIT
#include "fs/kv_lend.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/kv.h"

#define PIN_LISTS 64 /* of one directory; a power of 2 */

/* What a user holds; gone with the last. */
struct kv_user {
	struct list link;
	uid_t uid;
	uint64_t bytes;
	uint32_t holds;
};

struct pin {
	struct pin *next;
	struct kv_hold hold;
	uint32_t n; /* LOCATEs less UNPINs */
};

struct kv_pins {
	struct pin *lists[PIN_LISTS];
};

/* -- users -------------------------------------------------------------- */

static struct kv_user *user_get(struct kv *kv, uid_t uid)
{
	struct kv_user *user;

	list_for_each (l, &kv->lend_users) {
		user = container_of(l, struct kv_user, link);
		if (user->uid == uid)
			return user;
	}
	user = calloc(1, sizeof(*user));
	if (!user)
		return NULL;
	user->uid = uid;
	list_push_back(&kv->lend_users, &user->link);
	return user;
}

static void user_settle(struct kv_user *user)
{
	if (user->holds)
		return;
	list_remove(&user->link);
	free(user);
}

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
	f->node.pins++;
	*at = lent;
	return lent;
}

static void lent_settle(struct kv *kv, struct kv_lent *lent)
{
	struct kv_file *f = lent->f;

	if (lent->holds)
		return;
	*lent_place(kv, lent->frame) = lent->next;
	free(lent);
	kv_unpin(kv, f);
}

/* -- holds -------------------------------------------------------------- */

static uint64_t bytes_of(struct kv *kv, const struct kv_lent *lent)
{
	return kv_record(kv, lent->f)->size_bytes;
}

int kv_hold_take(struct kv *kv, uid_t uid, struct kv_file *f,
		 struct kv_hold *hold)
{
	uint64_t limit = kv->fs->config.pool_bytes / KV_LEND_SHARE;
	struct kv_user *user = user_get(kv, uid);
	struct kv_lent *lent = user ? lent_get(kv, f) : NULL;
	int err = !lent					     ? -ENOMEM
		  : user->bytes + bytes_of(kv, lent) > limit ? -EDQUOT
							     : 0;

	if (!err) {
		user->bytes += bytes_of(kv, lent);
		user->holds++;
		lent->holds++;
		atomic_fetch_add(&kv->fs->counters.lent, 1);
		atomic_fetch_add(&kv->fs->counters.lent_bytes,
				 bytes_of(kv, lent));
		*hold = (struct kv_hold){lent, user};
		return 0;
	}
	if (lent)
		lent_settle(kv, lent);
	if (user)
		user_settle(user);
	return err;
}

void kv_hold_drop(struct kv *kv, struct kv_hold *hold)
{
	uint64_t bytes = bytes_of(kv, hold->lent);

	hold->user->bytes -= bytes;
	hold->user->holds--;
	user_settle(hold->user);
	hold->lent->holds--;
	lent_settle(kv, hold->lent);
	atomic_fetch_sub(&kv->fs->counters.lent, 1);
	atomic_fetch_sub(&kv->fs->counters.lent_bytes, bytes);
}

/* -- pins --------------------------------------------------------------- */

static struct pin **pin_place(struct kv_pins *pins, uint32_t frame)
{
	struct pin **at = &pins->lists[frame % PIN_LISTS];

	while (*at && (*at)->hold.lent->frame != frame)
		at = &(*at)->next;
	return at;
}

int kv_pins_add(struct kv *kv, struct kv_pins **pins, uid_t uid,
		struct kv_file *f)
{
	struct pin **at, *pin;
	int err;

	if (!*pins && !(*pins = calloc(1, sizeof(**pins))))
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

void kv_pins_free(struct kv *kv, struct kv_pins *pins)
{
	for (unsigned i = 0; pins && i < PIN_LISTS; i++)
		while (pins->lists[i])
			pin_free(kv, &pins->lists[i]);
	free(pins);
}

void kv_lend_fini(struct kv *kv)
{
	struct list *l;

	for (unsigned i = 0; i < KV_LENT_LISTS; i++)
		while (kv->lent[i]) {
			struct kv_lent *lent = kv->lent[i];

			kv->lent[i] = lent->next;
			free(lent);
		}
	while ((l = list_pop_front(&kv->lend_users)))
		free(container_of(l, struct kv_user, link));
}
