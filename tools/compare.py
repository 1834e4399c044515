#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What tools/compare calls: one round of the others, and the table.

    compare.py slice SIZES THREADS NAME=PORT:PID...   JSON lines of a round
    compare.py report|report-json <LINES              medians of all rounds

Redis and memcached are asked over plain sockets with recv_into a buffer that
is there already, one connection a fetch in flight and one process of this
client for each: nothing here is slower than a C client would be but the one
call a block. Mooncake's transfer engine and its Store are asked with their own
Python bindings, as their users do: a process that has the memory, processes
that read it into buffers which were registered before; the Store with its
master beside it, which tells each reader where a block is. All of it, kvfs
too, moves 256 MiB of blocks, so that no cache holds them, into memory that was
touched before.
"""

import json
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import sys
import time

SLICE_S = 0.3
MEMORY_BYTES = 256 << 20  # blocks come from and go to memory, not a cache


def size_of(text):
    unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1])
    return int(text[:-1]) * unit if unit else int(text)


def size_text(n):
    return f"{n >> 20} MiB" if n >= 1 << 20 else f"{n >> 10} KiB"


def blocks_of(size):
    return MEMORY_BYTES // size


class Memory:
    """Where a reader's blocks go, in turn; touched once."""

    def __init__(self, size, readers):
        self.room = size + 256  # what a server says around a block
        self.n = max(1, MEMORY_BYTES // readers // self.room)
        self.bytes = bytearray(b"\1") * (self.n * self.room)
        self.view = memoryview(self.bytes)

    def offset(self, i):
        return i % self.n * self.room

    def at(self, i):
        at = self.offset(i)
        return self.view[at:at + self.room]


def cpu_of(pid):
    """Seconds of all threads of a process."""
    if not pid:
        return 0.0
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_mine():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime


# -- Redis, memcached --------------------------------------------------------


def connect(port):
    end = time.monotonic() + 10
    while True:
        try:
            s = socket.create_connection(("127.0.0.1", port))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return s
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def receive(s, view, n):
    at = 0
    while at < n:
        k = s.recv_into(view[at:n])
        if not k:
            raise ConnectionError("the server closed the connection")
        at += k


class Redis:
    def __init__(self, port):
        self.s = connect(port)

    def put(self, key, value):
        self.s.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n"
                       % (len(key), key, len(value)) + value + b"\r\n")
        if self.s.recv(64)[:3] != b"+OK":
            raise RuntimeError("redis: SET was refused")

    def get(self, key, view, size):
        self.s.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key))
        head = b"$%d\r\n" % size
        receive(self.s, view, len(head) + size + 2)
        if bytes(view[:len(head)]) != head:
            raise RuntimeError("redis: GET: another answer was expected")


class Memcached:
    def __init__(self, port):
        self.s = connect(port)

    def put(self, key, value):
        self.s.sendall(b"set %s 0 0 %d\r\n" % (key, len(value))
                       + value + b"\r\n")
        if self.s.recv(64) != b"STORED\r\n":
            raise RuntimeError("memcached: set was refused")

    def get(self, key, view, size):
        self.s.sendall(b"get %s\r\n" % key)
        head = b"VALUE %s 0 %d\r\n" % (key, size)
        receive(self.s, view, len(head) + size + len(b"\r\nEND\r\n"))
        if bytes(view[:len(head)]) != head:
            raise RuntimeError("memcached: a block is not there")


def reader(kind, port, size, first, step, start, results):
    """One connection."""
    client = kind(port)
    memory = Memory(size, step)
    n = blocks_of(size)

    def get(i):
        client.get(b"b%d" % (i % n), memory.at(i // step), size)

    get(first)
    get_for_a_slice(get, first, step, start, results)


def get_for_a_slice(get, first, step, start, results):
    start.wait()
    cpu, begun = cpu_mine(), time.monotonic()
    took, i = [], first
    while time.monotonic() - begun < SLICE_S:
        at = time.monotonic()
        get(i)
        took.append(time.monotonic() - at)
        i += step
    results.put((took, begun, time.monotonic(), cpu_mine() - cpu))


def server_slice(kind, port, pid, size, n):
    client = kind(port)
    value = os.urandom(size)
    for i in range(blocks_of(size)):
        client.put(b"b%d" % i, value)
    return run_readers(reader, (kind, port, size), n, size, pid)


def run_readers(target, args, n, size, *pids):
    start, results = multiprocessing.Barrier(n + 1), multiprocessing.Queue()
    readers = [multiprocessing.Process(target=target, daemon=True,
                                       args=(*args, i, n, start, results))
               for i in range(n)]
    for r in readers:
        r.start()
    try:
        start.wait(60)
        cpu = sum(map(cpu_of, pids))
        got = [results.get(timeout=60) for _ in readers]
        cpu = sum(map(cpu_of, pids)) - cpu + sum(g[3] for g in got)
    finally:
        for r in readers:
            r.join(2)
            r.kill()
    took = sorted(t for g in got for t in g[0])
    seconds = max(g[2] for g in got) - min(g[1] for g in got)
    return took, len(took) * size, seconds, cpu


# -- Mooncake ----------------------------------------------------------------


def quiet():
    """It tells stderr about every connection."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def mooncake_owner(size, pipe):
    quiet()
    from mooncake.engine import TransferEngine
    engine = TransferEngine()
    if engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""):
        raise RuntimeError("mooncake: initialize failed")
    total = size * blocks_of(size)
    memory = bytearray(os.urandom(size)) * blocks_of(size)
    address = address_of(memory)
    if engine.register_memory(address, total):
        raise RuntimeError("mooncake: register_memory failed")
    pipe.send((engine.get_rpc_port(), address, os.getpid()))
    wait_end(pipe)


def wait_end(pipe):
    try:
        pipe.recv()
    except EOFError:
        pass
    os._exit(0)  # its own exit waits for its threads


def address_of(memory):
    import ctypes
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def mooncake_reader(port, remote, size, first, step, start, results):
    quiet()
    from mooncake.engine import TransferEngine
    engine = TransferEngine()
    if engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""):
        raise RuntimeError("mooncake: initialize failed")
    memory = Memory(size, step)
    local = address_of(memory.bytes)
    if engine.register_memory(local, len(memory.bytes)):
        raise RuntimeError("mooncake: register_memory failed")
    peer, n = f"127.0.0.1:{port}", blocks_of(size)

    def get(i):
        if engine.transfer_sync_read(peer, local + memory.offset(i // step),
                                     remote + i % n * size, size):
            raise RuntimeError("mooncake: a read failed")

    get(first)
    get_for_a_slice(get, first, step, start, results)


def with_owner(target, args, measure):
    """What measure returns while a process of target's has the blocks."""
    here, there = multiprocessing.Pipe()
    owner = multiprocessing.Process(target=target, daemon=True,
                                    args=(*args, there))
    owner.start()
    there.close()
    try:
        if not here.poll(60):
            raise RuntimeError("mooncake: its owner does not start")
        return measure(here.recv())
    except EOFError:
        raise RuntimeError("mooncake: its owner ended") from None
    finally:
        here.close()
        owner.join(2)
        owner.kill()


def mooncake_slice(size, n):
    return with_owner(mooncake_owner, (size,), lambda told: run_readers(
        mooncake_reader, (told[0], told[1], size), n, size, told[2]))


# -- Mooncake Store ----------------------------------------------------------


def store_open(master, segment_bytes, buffer_bytes):
    from mooncake.store import MooncakeDistributedStore
    store = MooncakeDistributedStore()
    if store.setup("127.0.0.1", "P2PHANDSHAKE", segment_bytes, buffer_bytes,
                   "tcp", "", f"127.0.0.1:{master}"):
        raise RuntimeError("mooncake: the Store cannot be set up")
    return store


def store_owner(master, size, pipe):
    quiet()
    store = store_open(master, 2 * MEMORY_BYTES, 64 << 20)
    value = os.urandom(size)
    for i in range(blocks_of(size)):
        if store.put(f"b{size}.{i}", value):
            raise RuntimeError("mooncake: the Store refused a block")
    pipe.send(os.getpid())
    wait_end(pipe)


def store_reader(master, size, first, step, start, results):
    quiet()
    store = store_open(master, 0, 16 << 20)
    memory = Memory(size, step)
    local = address_of(memory.bytes)
    if store.register_buffer(local, len(memory.bytes)):
        raise RuntimeError("mooncake: register_buffer failed")
    n = blocks_of(size)

    def get(i):
        if store.get_into(f"b{size}.{i % n}",
                          local + memory.offset(i // step), size) != size:
            raise RuntimeError("mooncake: a block is not there")

    get(first)
    get_for_a_slice(get, first, step, start, results)
    results.close()
    results.join_thread()
    os._exit(0)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def store_slice(size, n):
    """A master of its own: one that outlives an owner goes on naming it."""
    import mooncake
    port = free_port()
    path = os.path.join(os.path.dirname(mooncake.__file__), "mooncake_master")
    with subprocess.Popen(
            [path, "--rpc_port", str(port), "--rpc_address", "127.0.0.1",
             "--metrics_host", "127.0.0.1", "--metrics_port",
             str(free_port()), "--enable_metric_reporting=false"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as master:
        try:
            connect(port).close()
            return with_owner(
                store_owner, (port, size), lambda pid: run_readers(
                    store_reader, (port, size), n, size, pid, master.pid))
        finally:
            master.kill()


# -- a round, and all of them ------------------------------------------------


def slice_of(name, port, pid, size, n):
    if name == "redis_get":
        return server_slice(Redis, port, pid, size, n)
    if name == "memcached_get":
        return server_slice(Memcached, port, pid, size, n)
    if name == "mooncake_store":
        return store_slice(size, n)
    return mooncake_slice(size, n)


def put_slice(name, port, pid, size, n):
    took, total, seconds, cpu = slice_of(name, port, pid, size, n)
    print(json.dumps({
        "op": name, "bytes": size, "threads": n,
        "p50_us": took[len(took) // 2] * 1e6,
        "p99_us": took[len(took) * 99 // 100] * 1e6,
        "mib_s": total / seconds / (1 << 20),
        "cpu_s_per_gb": cpu / total * 1e9, "x_iperf3": None}), flush=True)


def round_run(sizes, threads, others):
    for other in others:
        name, _, where = other.partition("=")
        port, _, pid = where.partition(":")
        for size in map(size_of, sizes.split(",")):
            for n in map(int, threads.split(",")):
                try:
                    put_slice(name, int(port), int(pid), size, n)
                except Exception as e:
                    print(f"compare: {name}, {size_text(size)}, {n} at once: "
                          f"{str(e) or type(e).__name__}; left out",
                          file=sys.stderr)


def medians(lines):
    """One object for each op, size and number at once."""
    sets = {}
    for line in lines:
        o = json.loads(line)
        sets.setdefault((o["bytes"], o["op"], o["threads"]), []).append(o)
    for key, values in sets.items():
        m = dict(values[0])
        for field in ("p50_us", "p99_us", "mib_s", "cpu_s_per_gb", "x_iperf3"):
            v = [o[field] for o in values if o[field] is not None]
            m[field] = statistics.median(v) if v else None
        sets[key] = m
    return sets


AHEAD = {"engine_fetch": "kvfs_ahead", "mount_fetch": "kvfs_mount_ahead"}


def add_ratios(sets):
    """x_iperf3 of the others, and how far kvfs is ahead of each."""
    for (size, op, n), m in sets.items():
        best = max((o["mib_s"] for (s, name, _), o in sets.items()
                    if s == size and name == "iperf3"), default=None)
        if best and m["x_iperf3"] is None:
            m["x_iperf3"] = m["mib_s"] / best
        for ours in ("engine_fetch", "mount_fetch"):
            kvfs = sets.get((size, ours, n))
            m[AHEAD[ours]] = (kvfs["mib_s"] / m["mib_s"] if kvfs and op not in
                              ("iperf3", "engine_fetch", "mount_fetch")
                              else None)


def report_table(sets):
    heads = ("size", "what", "at once", "p50 us", "p99 us", "MiB/s",
             "CPU s/GB", "x iperf3", "kvfs ahead", "its mount ahead")
    rows = [heads]
    for (size, op, n), m in sorted(sets.items(), key=lambda kv: kv[0][0]):
        def figure(field, digits):
            v = m[field]
            return "" if v is None else f"{v:.{digits}f}"
        rows.append((size_text(size), op, str(n), figure("p50_us", 0),
                     figure("p99_us", 0), figure("mib_s", 0),
                     figure("cpu_s_per_gb", 3), figure("x_iperf3", 2),
                     *(figure(field, 2) + "x" if m[field] else ""
                       for field in AHEAD.values())))
    widths = [max(len(r[i]) for r in rows) for i in range(len(heads))]
    for r in rows:
        print("  ".join(c.ljust(w) if i == 1 else c.rjust(w)
                        for i, (c, w) in enumerate(zip(r, widths))).rstrip())


def main():
    verb, *args = sys.argv[1:]
    if verb == "slice":
        round_run(args[0], args[1], args[2:])
        return
    sets = medians(sys.stdin)
    add_ratios(sets)
    if verb == "report-json":
        for m in sets.values():
            print(json.dumps(m, separators=(",", ":")))
    else:
        report_table(sets)


if __name__ == "__main__":
    main()
