// SPDX-License-Identifier: MIT
/*
 * Who is charged what. All of it with the pool's lock held.
 *
 *   |<------------- capacity -------------->|<-- reserve -->|
 *   | COMMITTED WRITING ASIDE retired unseen| READY …   | - |
 *   |<---------------- used --------------->|           |   |
 *   |<---------------------- held ------------------------->|
 *
 * READY frames may take what blocks leave of the capacity and half of the
 * reserve; the other half stays empty for writes that outgrow their frame.
 * Such growth passes the daemon by: "unseen" is what the tmpfs holds beyond
 * our books, and "ahead" is what it may soon become at the speed it grows. A
 * charge is booked before the system call that takes memory and struck after
 * the one that gives it back, so nothing of ours looks unseen.
 */
#include "engine/pool_internal.h"

#include <sys/stat.h>
#include <sys/statfs.h>

/* READY frames of one class beyond this help no burst. */
#define READY_PAGES_MAX (256u << 8) /* 256 MiB */
#define READY_FRAMES_MAX 4096u
/* What the keeper hurries with while the filler goes through the rest. */
#define READY_FRAMES_FIRST 16u

uint64_t books_used(const struct pool *p)
{
	return p->pages[FRAME_COMMITTED] + p->pages[FRAME_WRITING] +
	       p->pages[FRAME_ASIDE] + p->retired_pages + p->unseen_pages;
}

uint64_t books_held(const struct pool *p)
{
	return books_used(p) + p->pages[FRAME_READY] +
	       p->pages[FRAME_PREPARING] + p->pages[FRAME_DIRTY];
}

uint64_t books_limit(const struct pool *p)
{
	return p->cap_pages + p->reserve_pages / 2 - p->ahead_pages;
}

uint64_t books_room(const struct pool *p)
{
	uint64_t held = books_held(p), limit = books_limit(p);

	return held < limit ? limit - held : 0;
}

void books_move(struct pool *p, uint32_t f, enum frame_state to, uint32_t pages)
{
	struct frame *fr = &p->frames[f];

	if (fr->state == FRAME_COMMITTED)
		p->n_blocks[fr->cls]--;
	p->pages[fr->state] -= fr->pages;
	p->n[fr->state]--;
	fr->state = to;
	fr->pages = pages;
	p->pages[to] += pages;
	p->n[to]++;
	if (to == FRAME_COMMITTED)
		p->n_blocks[fr->cls]++;
}

/* Where the tmpfs is not ours alone, only the writers' files can be asked. */
static uint64_t books_writers_growth(struct pool *p)
{
	uint32_t left = p->n[FRAME_WRITING];
	uint64_t growth = 0;

	for (uint32_t f = 0; left && f < p->n_slots; f++) {
		char name[FRAME_NAME_BYTES];
		struct stat st;

		if (p->frames[f].state != FRAME_WRITING)
			continue;
		left--;
		frame_name(f, name);
		if (!fstatat(p->frames_fd, name, &st, 0) &&
		    (uint64_t)st.st_blocks / 8 > p->frames[f].pages)
			growth += st.st_blocks / 8 - p->frames[f].pages;
	}
	return growth;
}

void books_measure(struct pool *p)
{
	uint64_t seen = books_held(p) - p->unseen_pages + p->index_pages;
	struct statfs fs;
	uint64_t taken;

	if (!p->own_mount) {
		p->unseen_pages = books_writers_growth(p);
		return;
	}
	if (fstatfs(p->dir_fd, &fs))
		return;
	taken = (fs.f_blocks - fs.f_bfree) * (fs.f_bsize / POOL_PAGE);
	p->unseen_pages = taken > seen ? taken - seen : 0;
}

void frame_list_init(struct frame_list *l)
{
	l->head = l->tail = POOL_NO_FRAME;
}

void frame_list_push(struct pool *p, struct frame_list *l, uint32_t f)
{
	p->frames[f].next = POOL_NO_FRAME;
	if (l->head == POOL_NO_FRAME)
		l->head = f;
	else
		p->frames[l->tail].next = f;
	l->tail = f;
}

/* Last in, first out: what was recycled last is still in the cache. */
static void frame_list_push_front(struct pool *p, struct frame_list *l,
				  uint32_t f)
{
	p->frames[f].next = l->head;
	if (l->head == POOL_NO_FRAME)
		l->tail = f;
	l->head = f;
}

uint32_t frame_list_pop(struct pool *p, struct frame_list *l)
{
	uint32_t f = l->head;

	if (f != POOL_NO_FRAME)
		l->head = p->frames[f].next;
	return f;
}

void ready_push(struct pool *p, uint32_t f)
{
	struct frame *fr = &p->frames[f];

	books_move(p, f, FRAME_READY, fr->pages);
	frame_list_push_front(p, &p->ready[fr->cls], f);
	p->n_ready[fr->cls]++;
}

uint32_t ready_pop(struct pool *p, unsigned cls)
{
	uint32_t f = frame_list_pop(p, &p->ready[cls]);

	if (f != POOL_NO_FRAME)
		p->n_ready[cls]--;
	return f;
}

void demand_init(struct pool *p, unsigned cls)
{
	for (unsigned i = 0; i < DEMAND_WINDOW; i++)
		p->window[i] = cls;
	p->demand[cls] = DEMAND_WINDOW;
	p->guess_cls = p->last_cls = cls;
}

void demand_note(struct pool *p, unsigned cls)
{
	unsigned at = p->window_at;

	p->demand[p->window[at]]--;
	p->demand[cls]++;
	p->window[at] = cls;
	p->window_at = (at + 1) % DEMAND_WINDOW;
}

uint32_t demand_want(const struct pool *p, unsigned cls)
{
	uint64_t used = books_used(p), limit = books_limit(p);
	uint64_t room = used < limit ? limit - used : 0;
	uint64_t share, want, most;
	uint32_t pages = pool_class_pages(cls);

	if (!p->demand[cls])
		return 0;
	share = room * p->demand[cls] / DEMAND_WINDOW;
	if (share > READY_PAGES_MAX)
		share = READY_PAGES_MAX;
	want = share / pages;
	if (want < 2)
		want = 2;
	most = p->filled ? READY_FRAMES_MAX : READY_FRAMES_FIRST;
	if (want > most)
		want = most;
	return want * pages <= room ? want : room / pages;
}

bool demand_short(const struct pool *p, unsigned *cls)
{
	uint64_t worst = 0;

	for (unsigned c = 0; c < POOL_CLASSES; c++) {
		uint32_t want = demand_want(p, c);
		uint64_t lack;

		if (p->n_ready[c] >= want)
			continue;
		/* In 1/1024 of what should be there. */
		lack = ((uint64_t)(want - p->n_ready[c]) << 10) / want;
		if (lack > worst) {
			worst = lack;
			*cls = c;
		}
	}
	return worst > 0;
}

unsigned demand_fill(const struct pool *p)
{
	if (pool_class_pages(p->guess_cls) >= FILL_LEAST / POOL_PAGE)
		return p->guess_cls;
	return p->fill_cls;
}

bool demand_surplus(const struct pool *p, unsigned *cls)
{
	for (unsigned c = POOL_CLASSES; c-- > 0;) {
		if (!p->n_ready[c] || p->n_ready[c] <= demand_want(p, c))
			continue;
		*cls = c;
		return true;
	}
	return false;
}
