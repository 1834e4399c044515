-- SPDX-License-Identifier: MIT
-- The node and kv functions of the library kvfs1; meta/library.c puts this
-- file and ckpt.lua together, each in a scope of its own.
--
-- Nodes, tag {n}; the functions take the prefix "P:{n}:" as their one key:
--   live     sorted set: incarnation -> deadline, ms of Redis' clock
--   node     hash: incarnation -> its record, as meta/member.c writes it
--   load     hash: incarnation -> ms of Redis' clock, a blank, load figures
--   u<inc>   hash: namespace -> bytes that this incarnation holds
--   use      hash: namespace -> the sum over the live ones
--   missed   hash: incarnation -> how often others could not tell it of a
--            removal
--   uuid     hash: uuid -> its newest incarnation
--   inc      the newest incarnation given out
--   version  of the membership: + 1 with every join, leave, death and change
--            of a record
--   store    the store id, random: another one is another store
--   last     when anybody's heartbeat came last
--   ns       hash: namespace -> its record
--   nsv      + 1 with every change of one
--
-- Blocks, tag {NAMESPACE#group}:
--   b<s>     hash: path -> record; path/ -> directory
--   t, x     tombstones: hash path -> generation, end, who held it;
--            sorted set by end
--   g        the newest generation given out
--
-- A record, little-endian: version (1 byte), generation (8), size (8),
-- checksum (16), mode, uid, gid (4 each), number of holders (1), holders (4
-- each, incarnations). meta/record.c is its other reader.

local TOMB_MS, TOMBS_MAX, HOLDERS_MAX = 7200000, 15625, 16
local HEAD = 45 -- of a record, up to the number of holders
local NO_SUM = ('\0'):rep(16)
local NO_GEN = ('\0'):rep(8)

local function time_ms()
	local t = redis.call('TIME')
	return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Membership -------------------------------------------------------------

-- Nobody's heartbeat came for long: Redis was away, not the nodes.
local function bridge_gap(n, now, ttl)
	local gap = now - tonumber(redis.call('GET', n .. 'last') or now)
	if gap > ttl / 2 then
		for _, m in ipairs(redis.call('ZRANGE', n .. 'live', 0, -1)) do
			redis.call('ZINCRBY', n .. 'live', gap, m)
		end
	end
	redis.call('SET', n .. 'last', now)
end

local function use_add(n, ns, bytes)
	if bytes ~= 0 and
	   redis.call('HINCRBY', n .. 'use', ns,
		string.format('%.0f', bytes)) <= 0 then
		redis.call('HDEL', n .. 'use', ns)
	end
end

-- This incarnation holds these bytes, and no others: { ns, bytes, … }.
local function use_set(n, inc, list, from)
	local mine, new = n .. 'u' .. inc, {}
	for i = from, #list - 1, 2 do
		new[list[i]] = tonumber(list[i + 1])
	end
	local old = redis.call('HGETALL', mine)
	for i = 1, #old, 2 do
		local ns, bytes = old[i], tonumber(old[i + 1])
		use_add(n, ns, (new[ns] or 0) - bytes)
		if not new[ns] then
			redis.call('HDEL', mine, ns)
		elseif new[ns] ~= bytes then
			redis.call('HSET', mine, ns,
				string.format('%.0f', new[ns]))
		end
		new[ns] = nil
	end
	for ns, bytes in pairs(new) do
		use_add(n, ns, bytes)
		redis.call('HSET', mine, ns, string.format('%.0f', bytes))
	end
end

local function forget(n, inc)
	redis.call('ZREM', n .. 'live', inc)
	redis.call('HDEL', n .. 'node', inc)
	redis.call('HDEL', n .. 'load', inc)
	redis.call('HDEL', n .. 'missed', inc)
	use_set(n, inc, {}, 1)
end

local function reap(n, now)
	local dead = redis.call('ZRANGEBYSCORE', n .. 'live', '-inf', now,
		'LIMIT', 0, 500)
	for _, inc in ipairs(dead) do
		forget(n, inc)
	end
	if #dead > 0 then
		redis.call('INCR', n .. 'version')
	end
end

-- Those of a store that was lost are not given out again, and all of them are
-- older: a new one begins at the seconds since 2025, and past what the node that
-- joins knows to have been given out, with as many that it has not heard of.
local UNHEARD = 10000

local function incarnation_new(n, now, known)
	local last = tonumber(redis.call('GET', n .. 'inc') or 0)
	if last == 0 or last < known then
		last = math.max(known > 0 and known + UNHEARD or 0,
				math.floor(now / 1000) - 1735689600)
		redis.call('SET', n .. 'inc', string.format('%.0f', last))
	end
	return redis.call('INCR', n .. 'inc')
end

local function record_set(n, inc, record)
	if redis.call('HGET', n .. 'node', inc) ~= record then
		redis.call('HSET', n .. 'node', inc, record)
		redis.call('INCR', n .. 'version')
	end
end

-- The host of another record, if that is of another host.
local function other_host(n, inc, record)
	local host = '^%S+ %S+ %S+ %S+ %S+ (%S+)'
	local old = redis.call('HGET', n .. 'node', inc)
	local there = old and old:match(host)
	return there ~= record:match(host) and there
end

-- args: uuid record ttl_ms discard store-id-if-there-is-none, the newest
-- incarnation that the caller knows of
-- Returns: store id, version, incarnation, whether it had it already. Or, where
-- a node of another host has the uuid: 0, that host, until when it counts as up.
local function node_join(k, a)
	local n, now, ttl = k[1], time_ms(), tonumber(a[3])
	local mine = redis.call('HGET', n .. 'uuid', a[1])
	local till = mine and redis.call('ZSCORE', n .. 'live', mine)
	local up = till and tonumber(till) > now
	local other = up and other_host(n, mine, a[2])
	if other then
		return { 0, other, tonumber(till) }
	end
	local keep = up and a[4] ~= '1'
	redis.call('SETNX', n .. 'store', a[5])
	bridge_gap(n, now, ttl)
	if not keep then
		if mine then
			forget(n, mine)
		end
		mine = incarnation_new(n, now, tonumber(a[6]))
		redis.call('HSET', n .. 'uuid', a[1], mine)
		redis.call('INCR', n .. 'version')
	end
	redis.call('ZADD', n .. 'live', now + ttl, mine)
	record_set(n, mine, a[2])
	reap(n, now)
	return { redis.call('GET', n .. 'store'),
		redis.call('GET', n .. 'version') or 0, tonumber(mine),
		keep and 1 or 0 }
end

-- These were not told of a removal. One that is dead will join as another, and
-- then publishes all that it has.
local function missed_add(n, incs)
	for inc in incs:gmatch('%d+') do
		if redis.call('ZSCORE', n .. 'live', inc) then
			redis.call('HINCRBY', n .. 'missed', inc, 1)
		end
	end
end

-- args: incarnation ttl_ms store-id-if-there-is-none record load, who was not
-- told of a removal (incarnations with blanks between), then for each
-- namespace: name, bytes held
-- Returns: store id, version, whether this is a member, Redis' clock, load
-- figures of some (incarnation, figures, …), usage (namespace, bytes, …), the
-- namespaces' version, how often this one was not told of a removal.
local function node_beat(k, a)
	local n, now, ttl = k[1], time_ms(), tonumber(a[2])
	local member = redis.call('ZSCORE', n .. 'live', a[1])
	redis.call('SETNX', n .. 'store', a[3])
	bridge_gap(n, now, ttl)
	if member then
		redis.call('ZADD', n .. 'live', now + ttl, a[1])
		record_set(n, a[1], a[4])
		redis.call('HSET', n .. 'load', a[1], now .. ' ' .. a[5])
		use_set(n, a[1], a, 7)
	end
	reap(n, now)
	missed_add(n, a[6])
	return { redis.call('GET', n .. 'store'),
		redis.call('GET', n .. 'version') or 0, member and 1 or 0, now,
		redis.call('HRANDFIELD', n .. 'load', 32, 'WITHVALUES'),
		redis.call('HGETALL', n .. 'use'),
		redis.call('GET', n .. 'nsv') or 0,
		redis.call('HGET', n .. 'missed', a[1]) or 0 }
end

-- args: incarnation
local function node_leave(k, a)
	if redis.call('ZSCORE', k[1] .. 'live', a[1]) then
		forget(k[1], a[1])
		redis.call('INCR', k[1] .. 'version')
	end
	return 1
end

-- Version, newest incarnation, the live ones and their records.
local function node_members(k)
	local n, out = k[1], {}
	local live = redis.call('ZRANGE', n .. 'live', 0, -1)
	for i, inc in ipairs(live) do
		out[i] = redis.call('HGET', n .. 'node', inc) or ''
	end
	return { redis.call('GET', n .. 'version') or 0,
		redis.call('GET', n .. 'inc') or 0, live, out }
end

-- Blocks -----------------------------------------------------------------

local function number8(bytes)
	return (struct.unpack('<I8', bytes))
end

local function valid(rec)
	return rec and #rec > HEAD and rec:byte(1) == 1 and
		#rec == HEAD + 1 + 4 * rec:byte(HEAD + 1)
end

-- Is a holder alive? One that joined after the caller looked is.
local function alive(b, holder)
	if not b.live then
		b.live = {}
		for i = 1, #b.live_bytes, 4 do
			b.live[b.live_bytes:sub(i, i + 3)] = true
		end
	end
	return b.live[holder] or struct.unpack('<I4', holder) > b.known
end

-- The live holders but us; whether we are one; whether any was dead.
local function holders_of(b, rec)
	local others, mine, dead = {}, false, false
	for i = HEAD + 2, #rec, 4 do
		local h = rec:sub(i, i + 3)
		if h == b.me then
			mine = true
		elseif alive(b, h) then
			others[#others + 1] = h
		else
			dead = true
		end
	end
	return others, mine, dead
end

-- A bucket's changes are collected and made in two commands at the end of the
-- batch: a call into Redis costs more than all the rest of a name.
local function put(f, path, value)
	f.n_set = f.n_set + 2
	f.set[f.n_set - 1], f.set[f.n_set] = path, value
end

local function drop(f, path)
	f.del[#f.del + 1] = path
end

local function store(f, path, head, holders)
	put(f, path, head .. string.char(#holders) .. table.concat(holders))
end

local function generation_next(b)
	b.gen = (b.gen or tonumber(redis.call('GET', b.gen_key) or 0)) + 1
	return b.gen
end

local function generation_seen(b, gen)
	b.gen = math.max(gen,
		b.gen or tonumber(redis.call('GET', b.gen_key) or 0))
end

-- Generation of the tombstone of this path, 0: there is none; those who held
-- what was removed.
local function tomb_of(b, path)
	if b.no_tombs == nil then
		b.no_tombs = redis.call('EXISTS', b.tombs) == 0
	end
	if b.no_tombs then
		return 0
	end
	local t = redis.call('HGET', b.tombs, path)
	if not t or #t < 16 or number8(t:sub(9, 16)) <= b.now then
		return 0
	end
	return number8(t:sub(1, 8)), t:sub(17)
end

local function publish_new(b, f, path, blob, older, unsure)
	local bytes, tomb = blob:sub(2, 9), tomb_of(b, path)
	local gen = bytes == NO_GEN and 0 or number8(bytes)
	-- An unsure one may be what the tombstone was written for.
	if tomb ~= 0 and gen <= tomb and (gen ~= 0 or unsure) then
		return 'D' .. struct.pack('<I8', tomb)
	end
	if gen > older then
		generation_seen(b, gen)
	else
		if tomb > 0 or older > 0 then
			generation_seen(b, math.max(tomb, older))
		end
		bytes = struct.pack('<I8', generation_next(b))
	end
	put(f, path, blob:sub(1, 1) .. bytes .. blob:sub(10) .. b.alone)
	return 'P' .. bytes
end

-- The same bytes? Without a checksum only the generation can tell.
local function is_equal(rec, blob)
	if rec:sub(10, 17) ~= blob:sub(10, 17) then
		return false
	end
	local have, offered = rec:sub(18, 33), blob:sub(18, 33)
	if have ~= NO_SUM and offered ~= NO_SUM then
		return have == offered
	end
	return rec:sub(2, 9) == blob:sub(2, 9)
end

-- We hold this. First commit wins; equal copies become replicas.
local function publish(b, f, path, rec, blob, unsure)
	if not valid(rec) then
		return publish_new(b, f, path, blob, 0, unsure)
	end
	local others, mine, dead = holders_of(b, rec)
	local head, gen = rec:sub(1, HEAD), rec:sub(2, 9)
	if not is_equal(rec, blob) then
		if #others == 0 then -- nobody has the older bytes any more
			local answer = publish_new(b, f, path, blob,
				number8(gen), unsure)
			if answer:sub(1, 1) == 'D' then
				drop(f, path)
			end
			return answer
		end
		if mine or dead then
			store(f, path, head, others)
		end
		return 'C' .. gen .. rec:sub(10, 33) .. table.concat(others)
	end
	local sum_new = rec:sub(18, 33) == NO_SUM and
		blob:sub(18, 33) ~= NO_SUM
	if sum_new then
		head = head:sub(1, 17) .. blob:sub(18, 33) .. head:sub(34)
	end
	local rest = table.concat(others)
	if not mine and #others >= HOLDERS_MAX then
		return 'F' .. gen .. rest
	end
	others[#others + 1] = b.me
	if not mine or dead or sum_new then
		store(f, path, head, others)
	end
	return 'P' .. gen .. rest
end

-- The same, and nobody knows whether an earlier try has arrived.
local function publish_again(b, f, path, rec, blob)
	return publish(b, f, path, rec, blob, true)
end

-- Dead holders leave a record.
local function sweep(b, f, path, rec)
	if valid(rec) then
		local others, mine, dead = holders_of(b, rec)
		if mine then
			others[#others + 1] = b.me
		end
		if #others == 0 then
			drop(f, path)
		elseif dead then
			store(f, path, rec:sub(1, HEAD), others)
		end
	end
	return 'G' .. NO_GEN
end

-- We hold this no more.
local function retract(b, f, path, rec)
	if not valid(rec) then
		return 'G' .. NO_GEN
	end
	local others, mine, dead = holders_of(b, rec)
	if #others == 0 then
		drop(f, path)
	elseif mine or dead then
		store(f, path, rec:sub(1, HEAD), others)
	end
	return 'G' .. rec:sub(2, 9)
end

local function tomb_set(b, path, gen, holders)
	local till = b.now + TOMB_MS
	generation_seen(b, gen)
	b.no_tombs = false
	redis.call('HSET', b.tombs, path,
		struct.pack('<I8I8', gen, till) .. holders)
	redis.call('ZADD', b.order, till, path)
	if redis.call('ZCARD', b.order) > TOMBS_MAX then
		redis.call('HDEL', b.tombs,
			redis.call('ZPOPMIN', b.order)[1])
	end
end

-- Of these holders the live ones that the list has not; it takes them up.
local function holders_add(b, list, holders)
	local known = { [b.me] = true }
	for _, h in ipairs(list) do
		known[h] = true
	end
	for i = 1, #holders - 3, 4 do
		local h = holders:sub(i, i + 3)
		if not known[h] and alive(b, h) and #list < HOLDERS_MAX then
			known[h] = true
			list[#list + 1] = h
		end
	end
end

-- The name is removed, everywhere: a tombstone meets who was not told. What
-- came after the generation that the user saw (0: any) is not what he removed;
-- we hold it no more in either case. Who is to be told stands in the tombstone,
-- as the answer may not be heard, and then it is asked for again.
local function unlink(b, f, path, rec, blob)
	local seen = number8(blob)
	local tomb, held = tomb_of(b, path)
	local gen = math.max(seen, tomb)
	local others = {}
	if valid(rec) then
		local have = number8(rec:sub(2, 9))
		if seen ~= 0 and have > seen then
			retract(b, f, path, rec)
		else
			gen = math.max(gen, have)
			others = holders_of(b, rec)
			drop(f, path)
		end
	elseif rec then
		drop(f, path)
	end
	holders_add(b, others, held or '')
	if gen > 0 then
		tomb_set(b, path, gen, table.concat(others))
	end
	return 'G' .. struct.pack('<I8', gen) .. table.concat(others)
end

-- The first to make it says what it is.
local function directory(_, f, path, rec, blob)
	if not rec then
		put(f, path, blob)
	end
	return 'G' .. NO_GEN
end

-- keys: bucket; args: path with its slash, record of a directory, which of its
-- attributes are to be set: any of m u g. Returns: the record as it is now.
local function dir_set(k, a)
	local old, new = redis.call('HGET', k[1], a[1]), a[2]
	if old and #old == #new then
		local function pick(what, from)
			return (a[3]:find(what) and new or old):sub(from, from + 3)
		end
		new = new:sub(1, 1) .. pick('m', 2) .. pick('u', 6) ..
			pick('g', 10)
	end
	redis.call('HSET', k[1], a[1], new)
	return new
end

local function purge_tombs(b)
	local old = redis.call('ZRANGEBYSCORE', b.order, '-inf', b.now,
		'LIMIT', 0, 50)
	if #old > 0 then
		redis.call('ZREM', b.order, unpack(old))
		redis.call('HDEL', b.tombs, unpack(old))
	end
end

local OPS = { [80] = publish, [112] = publish_again, [82] = retract,
	[85] = unlink, [68] = directory, [83] = sweep } -- P p R U D S

-- The names of each bucket: { bucket = { which, path, path, … } }.
local function by_bucket(a, what)
	local of = {}
	for i = 1, #what / 2 do
		local bucket = what:byte(2 * i)
		local f = of[bucket]
		if not f then
			f = { at = {}, paths = {}, set = {}, n_set = 0, del = {} }
			of[bucket] = f
		end
		local n = #f.at + 1
		f.at[n], f.paths[n] = i, a[2 + 2 * i]
	end
	return of
end

local function bucket_run(b, f, key, a, what, out)
	local ok, recs = pcall(redis.call, 'HMGET', key, unpack(f.paths))
	for n, i in ipairs(f.at) do
		local good, answer = ok, nil
		if ok then
			good, answer = pcall(OPS[what:byte(2 * i - 1)], b, f,
				f.paths[n], recs[n], a[3 + 2 * i])
		end
		out[i] = good and answer or 'E' .. NO_GEN
	end
	if f.n_set > 0 then
		redis.call('HSET', key, unpack(f.set))
	end
	if #f.del > 0 then
		redis.call('HDEL', key, unpack(f.del))
	end
end

-- keys: t x g bucket…
-- args: our incarnation (4 bytes), the live ones (4 each), the newest one
--       when they were listed; then for each name, none of which may come
--       twice: path, record up to the holders (P p), generation (U), directory
--       (D, whose path ends in '/'); last two bytes for each name: P p R U D
--       or S, and which bucket (1 is the first)
-- Answers for each name: P published, F published but the list of holders is
-- full, C conflict, D dropped, G gone; generation (8); of the winner size (8)
-- and checksum (16) (C); other live holders (P F C U). E: this name cannot be
-- stored (its bucket is a key of another type).
local function kv_batch(k, a)
	local b = { tombs = k[1], order = k[2], gen_key = k[3], me = a[1],
		alone = '\1' .. a[1], live_bytes = a[2],
		known = tonumber(a[3]), now = time_ms() }
	local out, what = {}, a[#a]
	purge_tombs(b)
	for bucket, f in pairs(by_bucket(a, what)) do
		bucket_run(b, f, k[3 + bucket], a, what, out)
	end
	if b.gen then
		redis.call('SET', b.gen_key, string.format('%.0f', b.gen))
	end
	return out
end

-- keys: buckets; args: how many names a page, a cursor for each bucket.
-- Returns for each: the next cursor, path, record, path, record, …
local function kv_scan(k, a)
	local out = {}
	for i, bucket in ipairs(k) do
		local ok, page = pcall(redis.call, 'HSCAN', bucket, a[i + 1],
			'COUNT', a[1])
		out[i] = ok and not page.err and page or { '0', {} }
	end
	return out
end

-- The namespaces, of which store they are, and their version.
-- keys: store ns nsv
local function ns_list(k)
	return { redis.call('GET', k[1]) or '0', redis.call('HGETALL', k[2]),
		redis.call('GET', k[3]) or '0' }
end

-- keys: ns nsv; args: name record, '1' only if there is none
-- Returns: 1 there was none.
local function ns_put(k, a)
	local new = redis.call(a[3] == '1' and 'HSETNX' or 'HSET', k[1], a[1],
		a[2])
	if new == 1 or a[3] ~= '1' then
		redis.call('INCR', k[2])
	end
	return new
end

-- keys: ns nsv; args: name. Returns: 1 there was one.
local function ns_remove(k, a)
	local was = redis.call('HDEL', k[1], a[1])
	if was == 1 then
		redis.call('INCR', k[2])
	end
	return was
end

local function register(name, fn, flags)
	redis.register_function { function_name = 'kvfs1_' .. name,
		callback = fn, flags = flags }
end

register('node_join', node_join, { 'allow-oom' })
register('node_beat', node_beat, { 'allow-oom' })
register('node_leave', node_leave, { 'allow-oom' })
register('node_members', node_members, { 'no-writes' })
register('ns_list', ns_list, { 'no-writes' })
register('ns_put', ns_put, {})
register('ns_remove', ns_remove, {})
register('kv_batch', kv_batch, {})
register('kv_batch_gone', kv_batch, { 'allow-oom' }) -- R, U and S only
register('dir_set', dir_set, {})
register('kv_scan', kv_scan, { 'no-writes' })
