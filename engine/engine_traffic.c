// SPDX-License-Identifier: MIT
/* What went by which device and to which peer. */
#include "engine/engine_internal.h"

#include <stdio.h>
#include <string.h>

static struct engine_device *device_of(struct engine *e,
				       const struct engine_link *l)
{
	struct engine_device *d = e->devices;
	unsigned n = e->n_devices;

	while (n &&
	       (d->transport != l->ops->name || strcmp(d->name, l->device))) {
		d++;
		n--;
	}
	if (n)
		return d;
	if (e->n_devices == ENGINE_DEVICES_MAX)
		return d - 1;
	d->transport = l->ops->name;
	snprintf(d->name, sizeof(d->name), "%s", l->device);
	e->n_devices++;
	return d;
}

void traffic_link_up(struct engine_link *l)
{
	l->by = device_of(l->engine, l);
	l->by->n_links++;
}

void traffic_link_down(struct engine_link *l)
{
	l->by->n_links--;
}

static void add_latency(struct engine_traffic *t, int64_t ns)
{
	unsigned i = 0;

	while (i < ENGINE_LATENCIES - 1 && ns > ENGINE_LATENCY_NS(i))
		i++;
	t->latencies[i]++;
	t->latency_ns += (uint64_t)ns;
}

void traffic_sent(const struct engine_slice *s, int64_t now)
{
	struct engine_traffic *of[] = {&s->on->peer->traffic,
				       s->on->by ? &s->on->by->traffic : NULL};

	for (int i = 0; i < 2 && of[i]; i++) {
		of[i]->sent_bytes += s->length_bytes;
		of[i]->sent_slices++;
		add_latency(of[i], now - s->sent_ns);
	}
}

void traffic_retried(const struct engine_slice *s)
{
	struct engine_link *l = s->on;
	struct engine_traffic *of[] = {&l->peer->traffic,
				       l->by ? &l->by->traffic : NULL};

	for (int i = 0; i < 2 && of[i]; i++) {
		of[i]->retried_slices++;
		of[i]->failovers += !l->failed_over;
	}
	l->failed_over = true;
}

void traffic_received(struct engine_link *l, uint64_t bytes)
{
	struct engine_traffic *of[] = {&l->peer->traffic, &l->by->traffic};

	for (int i = 0; i < 2; i++) {
		of[i]->received_bytes += bytes;
		of[i]->received_slices++;
	}
}

bool engine_device(struct engine *e, unsigned i, struct engine_device *d)
{
	scoped_lock(&e->lock);

	if (i >= e->n_devices)
		return false;
	*d = e->devices[i];
	return true;
}
