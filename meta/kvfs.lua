-- SPDX-License-Identifier: MIT
-- The node and kv functions of the library kvfs1; meta/library.c puts this
-- file and ckpt.lua together, each in a scope of its own.
--
-- Nodes, tag {n}:
--   live     sorted set: incarnation -> deadline, ms of Redis' clock
--   node     hash: incarnation -> "uuid name"
--   uuid     hash: uuid -> its newest incarnation
--   inc      the newest incarnation given out
--   version  of the membership: + 1 with every join, leave and death
--   store    the store id, random: another one is another store
--   last     when anybody's heartbeat came last
--   ns       hash: namespace -> its record
--
-- Blocks, tag {NAMESPACE#group}:
--   b<s>     hash: path -> record; path/ -> directory
--   t, x     tombstones: hash path -> generation, end; sorted set by end
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
local function bridge_gap(live, last, now, ttl)
	local gap = now - tonumber(redis.call('GET', last) or now)
	if gap > ttl / 2 then
		for _, m in ipairs(redis.call('ZRANGE', live, 0, -1)) do
			redis.call('ZINCRBY', live, gap, m)
		end
	end
	redis.call('SET', last, now)
end

local function reap(live, node, version, now)
	local dead = redis.call('ZRANGEBYSCORE', live, '-inf', now,
		'LIMIT', 0, 500)
	if #dead > 0 then
		redis.call('ZREM', live, unpack(dead))
		redis.call('HDEL', node, unpack(dead))
		redis.call('INCR', version)
	end
end

-- Incarnations start at the seconds since 2025, so that those of a store
-- that was lost are not given out again.
local function incarnation_new(inc, now)
	if redis.call('EXISTS', inc) == 0 then
		redis.call('SET', inc, math.floor(now / 1000) - 1735689600)
	end
	return redis.call('INCR', inc)
end

-- keys: live node uuid inc version store last
-- args: uuid name ttl_ms discard store-id-if-there-is-none
local function node_join(k, a)
	local live, node, version, now = k[1], k[2], k[5], time_ms()
	local ttl = tonumber(a[3])
	local mine = redis.call('HGET', k[3], a[1])
	local until_ms = mine and redis.call('ZSCORE', live, mine)
	local keep = until_ms and tonumber(until_ms) > now and a[4] ~= '1'
	redis.call('SETNX', k[6], a[5])
	bridge_gap(live, k[7], now, ttl)
	if not keep then
		if mine then
			redis.call('ZREM', live, mine)
			redis.call('HDEL', node, mine)
		end
		mine = incarnation_new(k[4], now)
		redis.call('HSET', k[3], a[1], mine)
		redis.call('INCR', version)
	end
	redis.call('ZADD', live, now + ttl, mine)
	redis.call('HSET', node, mine, a[1] .. ' ' .. a[2])
	reap(live, node, version, now)
	return { redis.call('GET', k[6]), redis.call('GET', version) or 0,
		tonumber(mine), keep and 1 or 0 }
end

-- keys: live node version store last
-- args: incarnation ttl_ms store-id-if-there-is-none
local function node_beat(k, a)
	local live, node, version, now = k[1], k[2], k[3], time_ms()
	local ttl = tonumber(a[2])
	local member = 0
	redis.call('SETNX', k[4], a[3])
	bridge_gap(live, k[5], now, ttl)
	if redis.call('ZSCORE', live, a[1]) then
		redis.call('ZADD', live, now + ttl, a[1])
		member = 1
	end
	reap(live, node, version, now)
	return { redis.call('GET', k[4]), redis.call('GET', version) or 0,
		member }
end

-- keys: live node version; args: incarnation
local function node_leave(k, a)
	if redis.call('ZREM', k[1], a[1]) == 1 then
		redis.call('HDEL', k[2], a[1])
		redis.call('INCR', k[3])
	end
	return 1
end

-- keys: live version inc
local function node_members(k)
	return { redis.call('GET', k[2]) or 0, redis.call('GET', k[3]) or 0,
		redis.call('ZRANGE', k[1], 0, -1) }
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

local function store(bucket, path, head, holders)
	redis.call('HSET', bucket, path, head ..
		string.char(#holders) .. table.concat(holders))
end

local function generation_next(b)
	b.gen = (b.gen or tonumber(redis.call('GET', b.gen_key) or 0)) + 1
	return b.gen
end

local function generation_seen(b, gen)
	b.gen = math.max(gen,
		b.gen or tonumber(redis.call('GET', b.gen_key) or 0))
end

-- Generation of the tombstone of this path, 0: there is none.
local function tomb_of(b, path)
	if b.no_tombs == nil then
		b.no_tombs = redis.call('EXISTS', b.tombs) == 0
	end
	if b.no_tombs then
		return 0
	end
	local t = redis.call('HGET', b.tombs, path)
	if not t or #t ~= 16 or number8(t:sub(9)) <= b.now then
		return 0
	end
	return number8(t:sub(1, 8))
end

local function publish_new(b, bucket, path, blob, older)
	local gen, tomb = number8(blob:sub(2, 9)), tomb_of(b, path)
	if gen ~= 0 and gen <= tomb then
		return 'D' .. struct.pack('<I8', tomb)
	end
	if gen > older then
		generation_seen(b, gen)
	else
		generation_seen(b, math.max(tomb, older))
		gen = generation_next(b)
	end
	local bytes = struct.pack('<I8', gen)
	store(bucket, path, blob:sub(1, 1) .. bytes .. blob:sub(10), { b.me })
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
local function publish(b, bucket, path, blob)
	local rec = redis.call('HGET', bucket, path)
	if not valid(rec) then
		return publish_new(b, bucket, path, blob, 0)
	end
	local others, mine, dead = holders_of(b, rec)
	local head, gen = rec:sub(1, HEAD), rec:sub(2, 9)
	if not is_equal(rec, blob) then
		if #others == 0 then -- nobody has the older bytes any more
			return publish_new(b, bucket, path, blob, number8(gen))
		end
		if mine or dead then
			store(bucket, path, head, others)
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
		store(bucket, path, head, others)
	end
	return 'P' .. gen .. rest
end

-- We hold this no more.
local function retract(b, bucket, path)
	local rec = redis.call('HGET', bucket, path)
	if not valid(rec) then
		return 'G' .. NO_GEN
	end
	local others, mine, dead = holders_of(b, rec)
	if #others == 0 then
		redis.call('HDEL', bucket, path)
	elseif mine or dead then
		store(bucket, path, rec:sub(1, HEAD), others)
	end
	return 'G' .. rec:sub(2, 9)
end

-- The name is removed, everywhere: a tombstone meets who was not told.
local function unlink(b, bucket, path, blob)
	local rec = redis.call('HGET', bucket, path)
	local gen = math.max(number8(blob), tomb_of(b, path))
	local others = {}
	if valid(rec) then
		gen = math.max(gen, number8(rec:sub(2, 9)))
		others = holders_of(b, rec)
	end
	if rec then
		redis.call('HDEL', bucket, path)
	end
	local bytes = struct.pack('<I8', gen)
	if gen > 0 then
		local till = b.now + TOMB_MS
		generation_seen(b, gen)
		b.no_tombs = false
		redis.call('HSET', b.tombs, path,
			bytes .. struct.pack('<I8', till))
		redis.call('ZADD', b.order, till, path)
		if redis.call('ZCARD', b.order) > TOMBS_MAX then
			redis.call('HDEL', b.tombs,
				redis.call('ZPOPMIN', b.order)[1])
		end
	end
	return 'G' .. bytes .. table.concat(others)
end

local function directory(_, bucket, path, blob)
	redis.call('HSETNX', bucket, path .. '/', blob)
	return 'G' .. NO_GEN
end

local function purge_tombs(b)
	local old = redis.call('ZRANGEBYSCORE', b.order, '-inf', b.now,
		'LIMIT', 0, 50)
	if #old > 0 then
		redis.call('ZREM', b.order, unpack(old))
		redis.call('HDEL', b.tombs, unpack(old))
	end
end

local OPS = { P = publish, R = retract, U = unlink, D = directory }

-- keys: t x g bucket…
-- args: our incarnation (4 bytes), the live ones (4 each), the newest one
--       when they were listed; then for each name: P R U or D, which bucket
--       (1 is the first), path, record up to the holders (P), generation (U),
--       directory (D)
-- Answers for each name: P published, F published but the list of holders is
-- full, C conflict, D dropped, G gone; generation (8); of the winner size (8)
-- and checksum (16) (C); other live holders (P F C U). E: this name cannot be
-- stored (its bucket is a key of another type).
local function kv_batch(k, a)
	local b = { tombs = k[1], order = k[2], gen_key = k[3], me = a[1],
		live_bytes = a[2], known = tonumber(a[3]), now = time_ms() }
	local out, n = {}, 0
	purge_tombs(b)
	for i = 4, #a, 4 do
		local ok, answer = pcall(OPS[a[i]], b,
			k[3 + tonumber(a[i + 1])], a[i + 2], a[i + 3])
		n = n + 1
		out[n] = ok and answer or 'E' .. NO_GEN
	end
	if b.gen then
		redis.call('SET', b.gen_key, string.format('%.0f', b.gen))
	end
	return out
end

-- The namespaces, and of which store they are.
local function ns_list(k)
	return { redis.call('GET', k[1]) or '0', redis.call('HGETALL', k[2]) }
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
register('kv_batch', kv_batch, {})
