// SPDX-License-Identifier: MIT
/*
 * Which port for which memory, over the trees of tests/topology: each is
 * unpacked to a folder that is then taken for /sys. Then which links an engine
 * uses on such a machine.
 */
#include <check.h>
#include <errno.h>
#include <ftw.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "engine/topology.h"
#include "engine/transport.h"

static char dir[PATH_MAX / 4];
static struct topology t;

/* ---- a tree -------------------------------------------------------------- */

static void make_folders(char *path)
{
	for (char *at = path + strlen(dir) + 1; (at = strchr(at, '/')); at++) {
		*at = '\0';
		ck_assert(!mkdir(path, 0755) || errno == EEXIST);
		*at = '/';
	}
}

static void put_value(char *path, const char *value)
{
	FILE *f;

	make_folders(path);
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_gt(fprintf(f, "%s\n", value), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static void put_link(char *path, const char *to)
{
	char target[PATH_MAX];

	ck_assert_int_lt(snprintf(target, sizeof(target), "%s/%s/", dir, to),
			 PATH_MAX);
	make_folders(target);
	make_folders(path);
	ck_assert_int_eq(symlink(target, path), 0);
}

static void put_line(char *line)
{
	char *value = strstr(line, " = "), *to = strstr(line, " -> ");
	char path[PATH_MAX];

	ck_assert(value || to);
	*(value ? value : to) = '\0';
	snprintf(path, sizeof(path), "%s/%s", dir, line);
	if (value)
		put_value(path, value + 3);
	else
		put_link(path, to + 4);
}

static void unpack(const char *name)
{
	char path[PATH_MAX], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/tests/topology/%s.tree",
		 getenv("srcdir") ?: ".", name);
	f = fopen(path, "r");
	ck_assert_msg(f != NULL, "%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (*line && *line != '#')
			put_line(line);
	}
	fclose(f);
}

static void load(const char *name)
{
	unpack(name);
	ck_assert_int_eq(topology_load(dir, &t), 0);
}

static void set(const char *name, const char *value)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	put_value(path, value);
}

static void setup(void)
{
	snprintf(dir, sizeof(dir), "%s/kvfs-topology-XXXXXX",
		 getenv("TMPDIR") ?: "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

static int remove_one(const char *path, const struct stat *st, int type,
		      struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void teardown(void)
{
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- what is compared ---------------------------------------------------- */

/* "mlx5_0 PIX mlx5_1 PXB": the ports for a memory, the best first. */
static const char *order_of(const char *memory)
{
	static char text[1024];
	unsigned order[TOPOLOGY_PORTS_MAX], n;
	const struct topology_memory *m = t.memories;
	size_t at = 0;

	while (m < t.memories + t.n_memories && strcmp(m->name, memory))
		m++;
	ck_assert_msg(m < t.memories + t.n_memories, "no %s", memory);
	n = topology_prefer(&t, m, order);
	*text = '\0';
	for (unsigned i = 0; i < n; i++) {
		const struct topology_port *p = &t.ports[order[i]];

		at += (size_t)snprintf(
			text + at, sizeof(text) - at, "%s%s %s", i ? " " : "",
			p->device,
			topology_relation_name(topology_relation(&t, m, p)));
		ck_assert_uint_lt(at, sizeof(text));
	}
	return text;
}

static const struct topology_port *port(const char *device)
{
	for (unsigned i = 0; i < t.n_ports; i++)
		if (!strcmp(t.ports[i].device, device))
			return &t.ports[i];
	ck_abort_msg("no %s", device);
	return NULL;
}

/* What the command prints, and its exit status. */
static int command(const char *options, char *out, size_t out_bytes)
{
	char line[PATH_MAX];
	size_t n;
	FILE *f;

	snprintf(line, sizeof(line), "'%s' topology --sys '%s' %s 2>&1",
		 getenv("KVFS"), dir, options);
	f = popen(line, "r");
	ck_assert_ptr_nonnull(f);
	n = fread(out, 1, out_bytes - 1, f);
	out[n] = '\0';
	return WEXITSTATUS(pclose(f));
}

/* ---- tests --------------------------------------------------------------- */

START_TEST(each_of_eight_gpus_has_a_card_of_its_own_and_the_rest_by_distance)
{
	load("eight");

	ck_assert_uint_eq(t.n_ports, 8);
	ck_assert_uint_eq(t.n_memories, 2 + 8);
	ck_assert_str_eq(order_of("gpu0"),
			 "mlx5_0 PIX mlx5_1 PXB mlx5_2 NODE mlx5_3 NODE "
			 "mlx5_4 SYS mlx5_5 SYS mlx5_6 SYS mlx5_7 SYS");
	ck_assert_str_eq(order_of("gpu3"),
			 "mlx5_3 PIX mlx5_2 PXB mlx5_0 NODE mlx5_1 NODE "
			 "mlx5_4 SYS mlx5_5 SYS mlx5_6 SYS mlx5_7 SYS");
	ck_assert_str_eq(order_of("gpu6"),
			 "mlx5_6 PIX mlx5_7 PXB mlx5_4 NODE mlx5_5 NODE "
			 "mlx5_0 SYS mlx5_1 SYS mlx5_2 SYS mlx5_3 SYS");
}
END_TEST

START_TEST(memory_of_a_socket_prefers_the_cards_of_that_socket)
{
	load("eight");

	ck_assert_str_eq(order_of("node1"),
			 "mlx5_4 NODE mlx5_5 NODE mlx5_6 NODE mlx5_7 NODE "
			 "mlx5_0 SYS mlx5_1 SYS mlx5_2 SYS mlx5_3 SYS");
}
END_TEST

START_TEST(one_card_is_for_everything)
{
	load("one");

	ck_assert_str_eq(order_of("node0"), "mlx5_0 NODE");
	ck_assert_str_eq(order_of("gpu0"), "mlx5_0 PHB");
	ck_assert_uint_eq(port("mlx5_0")->rate_mbit, 100000);
	ck_assert_str_eq(port("mlx5_0")->netdev, "eth0");
	ck_assert_str_eq(pci_path_name(&port("mlx5_0")->pci), "0000:03:00.0");
}
END_TEST

START_TEST(what_cannot_be_used_is_known_and_in_no_list)
{
	load("down");

	ck_assert_uint_eq(t.n_ports, 4);
	ck_assert_str_eq(order_of("node0"), "mlx5_1 SYS");
	ck_assert_str_eq(port("mlx5_0")->state, "DOWN");
	ck_assert_int_eq(port("irdma2")->gid_type, GID_NONE);
	ck_assert(!*port("mlx5_3")->uverbs);
	ck_assert_int_eq(port("mlx5_1")->gid_type, GID_IB);
	ck_assert_str_eq(port("mlx5_1")->uverbs, "uverbs1");
}
END_TEST

START_TEST(a_card_whose_link_comes_up_is_the_best_again)
{
	unpack("down");
	set("class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE");
	ck_assert_int_eq(topology_load(dir, &t), 0);

	ck_assert_str_eq(order_of("node0"), "mlx5_0 NODE mlx5_1 SYS");
}
END_TEST

START_TEST(without_numa_the_faster_card_goes_first)
{
	load("flat");

	ck_assert_uint_eq(t.numa.n, 0);
	ck_assert_str_eq(order_of("host"), "mlx5_1 NODE mlx5_0 NODE");
	ck_assert_int_eq(port("mlx5_0")->numa_node, NUMA_UNKNOWN);
}
END_TEST

START_TEST(soft_roce_is_where_its_interface_is)
{
	load("soft");

	ck_assert_str_eq(order_of("node0"), "rxe0 NODE");
	ck_assert_int_eq(port("rxe0")->gid_type, GID_ROCE_V2);
	ck_assert_uint_gt(port("rxe0")->pci.n, 1);
}
END_TEST

START_TEST(a_card_of_no_known_socket_is_far_from_each)
{
	unpack("eight");
	set("bus/pci/devices/0000:1b:00.0/numa_node", "-1");
	ck_assert_int_eq(topology_load(dir, &t), 0);

	ck_assert_ptr_nonnull(strstr(order_of("node0"), "mlx5_0 SYS"));
	ck_assert_int_eq(strncmp(order_of("gpu0"), "mlx5_0 PIX ", 11), 0);
}
END_TEST

/* ---- the engine's choice --------------------------------------------------
 */

#define SLICE_BYTES 65536u
#define WINDOW_SLICES 4u

/* A link by each usable port of the tree, to one peer. It keeps its slices. */
struct card {
	struct engine_link base;
	struct list slices;
	unsigned n;
};

static pthread_mutex_t cards_lock = PTHREAD_MUTEX_INITIALIZER;
static struct card cards[TOPOLOGY_PORTS_MAX];
static unsigned n_cards;
static struct engine *engine;
static struct engine_batch batch;
static struct engine_xfer xfer;
static uint64_t region;
static bool over;

static int card_submit(struct transport *transport, struct engine_link *l,
		       struct engine_slice *s)
{
	struct card *c = container_of(l, struct card, base);

	(void)transport;
	scoped_lock(&cards_lock);
	list_push_back(&c->slices, &s->link);
	c->n++;
	return 0;
}

static void card_close(struct engine_link *l, int why)
{
	(void)l;
	(void)why;
}

static void card_free(struct engine_link *l)
{
	(void)l;
}

static const struct transport_ops card_ops = {
	.name = "cards",
	.schemes = "cards",
	.slice_bytes = SLICE_BYTES,
	.window_bytes = WINDOW_SLICES * SLICE_BYTES,
	.window_slices = WINDOW_SLICES,
	.submit = card_submit,
	.link_close = card_close,
	.link_free = card_free,
};

static void card_up(struct card *c, const struct topology_port *p)
{
	const struct engine_node node = {{2}, 1};

	c->n = 0;
	list_init(&c->slices);
	engine_link_init(&c->base, engine, &card_ops, NULL, NULL);
	snprintf(c->base.device, sizeof(c->base.device), "%.20s", p->device);
	ck_assert_int_eq(engine_link_admit(engine, &c->base, &node, 7), 0);
	engine_link_card(&c->base, p);
	engine_link_up(&c->base);
}

static struct engine_slice *card_take(struct card *c)
{
	scoped_lock(&cards_lock);
	struct list *n = list_pop_front(&c->slices);

	return n ? container_of(n, struct engine_slice, link) : NULL;
}

static void card_give_back(struct card *c, int status)
{
	struct engine_slice *s;

	while ((s = card_take(c)))
		engine_slice_done(engine, &c->base, s, status, false);
}

static void card_down(struct card *c)
{
	card_give_back(c, -EIO);
	engine_link_down(&c->base, -EIO);
}

static void on_done(struct engine_batch *b, int status)
{
	(void)b;
	ck_assert_int_eq(status, 0);
	over = true;
}

/* The last port of the tree comes up first: their order is not the choice. */
static void cards_up(const char *machine)
{
	static char bytes[64 * SLICE_BYTES];
	const struct engine_config config = {
		.self = {{1}, 1}, .silence_ms = 600000, .sys = dir};
	const struct engine_mem mem = {.kind = ENGINE_MEM_HOST,
				       .addr = bytes,
				       .length_bytes = sizeof(bytes)};

	load(machine);
	ck_assert_int_eq(engine_open(&engine, &config), 0);
	ck_assert_int_eq(engine_region_add(engine, &mem, &region), 0);
	n_cards = 0;
	for (unsigned i = t.n_ports; i--;)
		if (topology_usable(&t.ports[i]))
			card_up(&cards[n_cards++], &t.ports[i]);
}

static void cards_close(void)
{
	while (n_cards)
		card_down(&cards[--n_cards]);
	engine_close(engine);
}

static void send_slices(unsigned n)
{
	xfer = (struct engine_xfer){.op = ENGINE_WRITE,
				    .region = region,
				    .segment = {1, 1},
				    .length_bytes = n * SLICE_BYTES};
	batch = (struct engine_batch){
		.xfers = &xfer, .n_xfers = 1, .done = on_done};
	over = false;
	ck_assert_int_eq(
		engine_submit(engine, cards[n_cards - 1].base.peer, &batch), 0);
}

/* "mlx5_0 4 mlx5_1 4": the slices that each card got, in the tree's order. */
static const char *slices_by_card(void)
{
	static char text[512];
	size_t at = 0;

	*text = '\0';
	for (unsigned i = n_cards; i--;)
		if (cards[i].n)
			at += (size_t)snprintf(text + at, sizeof(text) - at,
					       "%s%s %u", at ? " " : "",
					       cards[i].base.device,
					       cards[i].n);
	return text;
}

static void finish(void)
{
	while (!over)
		for (unsigned i = 0; i < n_cards; i++)
			card_give_back(&cards[i], 0);
	for (unsigned i = 0; i < n_cards; i++)
		cards[i].n = 0;
}

/* Memory of this machine is of node 0, where one may ask. */
static bool memory_is_of_node0(void)
{
	static char byte;
	bool known = !numa_of_memory(&byte);

	if (!known)
		printf("SKIP: where memory is, the kernel does not say\n");
	return known;
}

START_TEST(the_engine_takes_the_cards_in_the_order_of_the_table)
{
	if (!memory_is_of_node0())
		return;
	cards_up("eight");

	send_slices(4);
	ck_assert_str_eq(slices_by_card(),
			 "mlx5_0 1 mlx5_1 1 mlx5_2 1 mlx5_3 1");
	finish();

	/* More than those have room for: the others, too. */
	send_slices(22);
	ck_assert_str_eq(slices_by_card(),
			 "mlx5_0 4 mlx5_1 4 mlx5_2 4 mlx5_3 4 "
			 "mlx5_4 1 mlx5_5 1 mlx5_6 2 mlx5_7 2");
	finish();
	cards_close();
}
END_TEST

START_TEST(the_engine_takes_the_faster_card_first)
{
	cards_up("flat");
	ck_assert_str_eq(order_of("host"), "mlx5_1 NODE mlx5_0 NODE");

	send_slices(3);
	ck_assert_str_eq(slices_by_card(), "mlx5_1 3");
	finish();

	send_slices(5);
	ck_assert_str_eq(slices_by_card(), "mlx5_0 1 mlx5_1 4");
	finish();
	cards_close();
}
END_TEST

START_TEST(what_the_best_cards_lose_goes_by_the_others)
{
	if (!memory_is_of_node0())
		return;
	cards_up("eight");

	send_slices(4);
	ck_assert_str_eq(slices_by_card(),
			 "mlx5_0 1 mlx5_1 1 mlx5_2 1 mlx5_3 1");
	for (int i = 0; i < 4; i++)
		card_down(&cards[--n_cards]);

	ck_assert_str_eq(slices_by_card(),
			 "mlx5_4 1 mlx5_5 1 mlx5_6 1 mlx5_7 1");
	finish();
	cards_close();
}
END_TEST

START_TEST(roce_v2_with_an_ipv4_address_is_the_gid_of_choice)
{
	static const uint8_t ipv4[GID_BYTES] = {
		[10] = 0xff, [11] = 0xff, [12] = 10,
		[13] = 9,    [14] = 0,	  [15] = 1};

	load("eight");
	ck_assert_int_eq(port("mlx5_0")->gid_type, GID_ROCE_V2);
	ck_assert_uint_eq(port("mlx5_0")->gid_index, 3);
	ck_assert_mem_eq(port("mlx5_0")->gid, ipv4, GID_BYTES);

	set("class/infiniband/mlx5_0/ports/1/gid_attrs/types/3", "IB/RoCE v1");
	ck_assert_int_eq(topology_load(dir, &t), 0);
	ck_assert_int_eq(port("mlx5_0")->gid_type, GID_ROCE_V2);
	ck_assert_uint_eq(port("mlx5_0")->gid_index, 1);
}
END_TEST

START_TEST(nothing_is_a_machine_without_rdma)
{
	char out[4096];

	ck_assert_int_eq(topology_load(dir, &t), 0);

	ck_assert_uint_eq(t.n_ports, 0);
	ck_assert_str_eq(order_of("host"), "");
	ck_assert_int_eq(command("", out, sizeof(out)), 1);
	ck_assert_ptr_nonnull(strstr(out, "no RDMA device"));
	ck_assert_ptr_nonnull(strstr(out, "rdma_rxe"));
}
END_TEST

START_TEST(more_ports_than_fit_are_left_out_and_that_is_said)
{
	char name[64], out[16384];

	for (int i = 0; i < TOPOLOGY_PORTS_MAX + 2; i++) {
		snprintf(name, sizeof(name),
			 "class/infiniband/mlx5_%d/ports/1/state", i);
		set(name, "4: ACTIVE");
	}
	ck_assert_int_eq(topology_load(dir, &t), 0);

	ck_assert_uint_eq(t.n_ports, TOPOLOGY_PORTS_MAX);
	ck_assert(t.cut);
	ck_assert_int_eq(command("", out, sizeof(out)), 1);
	ck_assert_ptr_nonnull(strstr(out, "not all is shown"));
}
END_TEST

START_TEST(the_table_says_why_a_port_is_not_used)
{
	char out[8192];

	unpack("down");

	ck_assert_int_eq(command("", out, sizeof(out)), 0);
	ck_assert_ptr_nonnull(strstr(out, "mlx5_1:1 (SYS)"));
	ck_assert_ptr_nonnull(strstr(out, "mlx5_0:1: its link is not up"));
	ck_assert_ptr_nonnull(strstr(out, "irdma2:1: it has no GID"));
	ck_assert_ptr_nonnull(strstr(out, "modprobe ib_uverbs"));
}
END_TEST

START_TEST(one_form_at_a_time)
{
	char out[1024];

	ck_assert_int_eq(command("--json --dot", out, sizeof(out)), 2);
}
END_TEST

START_TEST(json_has_the_same_as_the_table)
{
	char out[65536];
	json_t *json, *gpu0;

	unpack("eight");

	ck_assert_int_eq(command("--json", out, sizeof(out)), 0);
	json = json_loads(out, 0, NULL);
	ck_assert_ptr_nonnull(json);
	ck_assert_uint_eq(json_array_size(json_object_get(json, "ports")), 8);
	gpu0 = json_array_get(json_object_get(json, "memories"), 2);
	ck_assert_str_eq(json_string_value(json_object_get(gpu0, "name")),
			 "gpu0");
	ck_assert_str_eq(
		json_string_value(json_object_get(
			json_array_get(json_object_get(gpu0, "ports"), 1),
			"relation")),
		"PXB");
	json_decref(json);
}
END_TEST

START_TEST(the_graph_has_the_bridges_and_the_best_pairs)
{
	char out[65536];

	unpack("eight");

	ck_assert_int_eq(command("--dot", out, sizeof(out)), 0);
	ck_assert_int_eq(strncmp(out, "strict graph ", 13), 0);
	ck_assert_ptr_nonnull(strstr(out, "\"node0\" -- \"pci0000:17\"\n"));
	ck_assert_ptr_nonnull(strstr(out, "\"0000:19:00.0\" -- \"gpu0\"\n"));
	ck_assert_ptr_nonnull(
		strstr(out, "\"gpu7\" -- \"mlx5_7:1\" [style=dashed"));
	ck_assert_ptr_nonnull(
		strstr(out, "\"node0\" -- \"node1\" [label=\"21"));
	ck_assert_str_eq(out + strlen(out) - 2, "}\n");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("topology");
	TCase *c = tcase_create("trees");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 60);
	tcase_add_test(
		c,
		each_of_eight_gpus_has_a_card_of_its_own_and_the_rest_by_distance);
	tcase_add_test(c, memory_of_a_socket_prefers_the_cards_of_that_socket);
	tcase_add_test(c, one_card_is_for_everything);
	tcase_add_test(c, what_cannot_be_used_is_known_and_in_no_list);
	tcase_add_test(c, a_card_whose_link_comes_up_is_the_best_again);
	tcase_add_test(c, without_numa_the_faster_card_goes_first);
	tcase_add_test(c, soft_roce_is_where_its_interface_is);
	tcase_add_test(c, a_card_of_no_known_socket_is_far_from_each);
	tcase_add_test(c, the_engine_takes_the_cards_in_the_order_of_the_table);
	tcase_add_test(c, the_engine_takes_the_faster_card_first);
	tcase_add_test(c, what_the_best_cards_lose_goes_by_the_others);
	tcase_add_test(c, roce_v2_with_an_ipv4_address_is_the_gid_of_choice);
	tcase_add_test(c, nothing_is_a_machine_without_rdma);
	tcase_add_test(c, more_ports_than_fit_are_left_out_and_that_is_said);
	tcase_add_test(c, the_table_says_why_a_port_is_not_used);
	tcase_add_test(c, one_form_at_a_time);
	tcase_add_test(c, json_has_the_same_as_the_table);
	tcase_add_test(c, the_graph_has_the_bridges_and_the_best_pairs);
	suite_add_tcase(s, c);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
