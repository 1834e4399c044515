// SPDX-License-Identifier: MIT
#include "keepers_fixture.h"

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"

struct node_under_test *node[NODES_MAX];
unsigned deadline_ms = 10000;
const char *const names[NODES_MAX] = {"a", "b", "c", "d"};

struct node_under_test *named(unsigned i)
{
	struct node_under_test *n = node_new(names[i], server_url());

	n->config.node_name = names[i];
	n->config.deadline_ms = deadline_ms;
	return n;
}

bool is_keeper(unsigned i)
{
	return node_stats(node[i]).ckpt_keeper;
}

void nodes_up(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		node[i] = named(i);
		ck_assert_int_eq(node_open(node[i]), 0);
		WAIT_FOR(is_keeper(i) || i == 3);
	}
}

void down(unsigned i)
{
	if (node[i])
		node_free(node[i]);
	node[i] = NULL;
}

void keepers_up(void)
{
	fixture_up();
	server_start(NULL);
}

void keepers_down(void)
{
	for (unsigned i = 0; i < NODES_MAX; i++)
		down(i);
	fixture_down();
}

void die(unsigned i)
{
	struct meta *m = node[i]->meta;

	m->embedded = (void *)1;
	meta_ckpt_stop(m);
	meta_node_stop(m);
	m->embedded = NULL;
	m->ckpt->keeper = false; /* nor does it later */
}

int run(const char *fmt, ...)
{
	char cmd[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

/* --- the tree ---------------------------------------------------------- */

int make_err(unsigned i, const char *name, int64_t deadline)
{
	struct ckpt_attr set = {.mode = S_IFREG | 0644}, attr;

	return ckpt_create(node[i]->meta, deadline, ROOT, name, &set, NULL,
			   &attr);
}

void make(unsigned i, const char *name)
{
	ck_assert_int_eq(make_err(i, name, 0), 0);
}

void drop(unsigned i, const char *name)
{
	ck_assert_int_eq(
		ckpt_unlink(node[i]->meta, 0, ROOT, name, NULL, NULL, 1, NULL),
		0);
}

void move(unsigned i, const char *from, const char *to)
{
	ck_assert_int_eq(ckpt_rename(node[i]->meta, 0, ROOT, from, ROOT, to, 0,
				     NULL, NULL, 1, NULL),
			 0);
}

int look(unsigned i, const char *name)
{
	struct ckpt_attr attr;

	return ckpt_lookup(node[i]->meta, 0, ROOT, name, &attr);
}

static void name_put(void *arg, const char *name, const struct ckpt_attr *a)
{
	char *text = arg;
	size_t n = strlen(text);

	(void)a;
	snprintf(text + n, 4096 - n, "%s ", name);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

const char *tree(unsigned i)
{
	static char text[NODES_MAX][4096];
	char all[4096] = "", *list[512];
	uint64_t cursor = 0;
	size_t n = 0;

	while (ckpt_readdir(node[i]->meta, 0, ROOT, &cursor, name_put, all) ==
	       1)
		;
	for (char *p = strtok(all, " "); p && n < 512; p = strtok(NULL, " "))
		list[n++] = p;
	if (n)
		qsort(list, n, sizeof(*list), by_text);
	text[i][0] = '\0';
	for (size_t k = 0; k < n; k++)
		name_put(text[i], list[k], NULL);
	return text[i];
}

uint64_t logged_seq(unsigned i)
{
	return node_stats(node[i]).ckpt_logged_seq;
}

uint64_t store_seq(void)
{
	return (uint64_t)server_int("HGET kvfs:{c}:m seq");
}

bool keeps_all(unsigned i)
{
	struct meta_stats s = node_stats(node[i]);

	return s.ckpt_keeper && !s.ckpt_read_only &&
	       s.ckpt_logged_seq == store_seq();
}
