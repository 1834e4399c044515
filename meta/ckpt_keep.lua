-- SPDX-License-Identifier: MIT
-- Who keeps the log of the ckpt tree, and which of them fills a store that is
-- new or behind. Goes on in the scope of ckpt.lua.
--
--   keepers  hash: uuid -> incarnation, newest seq on its disk, state, the
--            version of this set that it knows, when it last said so, name.
--            State: k (keeper: its log is whole), j (joins: it has a place,
--            takes a snapshot, and the others do not know it yet)
--   elect    hash: uuid -> what a node says of its log while it is not agreed
--            that the store is whole: the offers
--   m        set (the version of keepers), elect_at (when the first offer came),
--            elect_run (of the server, that the offers were made to)

local KEEPERS, LOG_KEEP, OFFER_MS, SILENT_MS = 3, 100000, 2000, 5000
local LIVE, WAIT, LOAD, NONE, EMPTY = '0', '1', '2', '3', '4'

-- When this run of the server heard the first offer. Offers that came with its
-- data are of another one: logs have grown since.
local run

local function now_ms()
	local t = call('TIME')
	return t[1] * 1000 + math.floor(t[2] / 1000)
end

--- the set --------------------------------------------------------------

local function keepers(base)
	local out, all = {}, call('HGETALL', base .. 'keepers')
	for n = 1, #all, 2 do
		local inc, seq, state, set, at, name =
			string.match(all[n + 1],
				     '^(%d+) (%d+) (%a) (%d+) (%d+) (.*)$')
		if inc then
			out[all[n]] = { inc = inc, seq = tonumber(seq),
					state = state, set = tonumber(set),
					at = tonumber(at), name = name }
		end
	end
	return out
end

local function keeper_set(base, uuid, k, state)
	call('HSET', base .. 'keepers', uuid, k.inc .. ' ' .. id(k.seq) .. ' ' ..
	     state .. ' ' .. id(k.set) .. ' ' .. id(k.at) .. ' ' .. k.name)
end

local function count(set, state)
	local n = 0
	for _, k in pairs(set) do
		n = n + ((not state or k.state == state) and 1 or 0)
	end
	return n
end

-- The stream has what any keeper still lacks, and some more, for those who
-- come back.
local function trim(base, set, seq)
	local keep = seq - LOG_KEEP
	for _, k in pairs(set) do
		keep = math.min(keep, k.seq)
	end
	if keep > 0 then
		call('XTRIM', base .. 'log', 'MINID', '~', id(keep))
	end
end

-- Who is in no membership may only be slow to join that of a Redis which lost
-- it: a keeper is gone once it is silent, too.
local function drop_dead(base, set, me, dead)
	local changed, now = false, now_ms()
	for n = 1, #dead - 1, 2 do
		local k = set[dead[n]]
		-- The last whole log is better than none.
		if k and k.inc == dead[n + 1] and dead[n] ~= me and
		   now - k.at >= SILENT_MS and
		   (k.state ~= 'k' or count(set, 'k') > 1) then
			call('HDEL', base .. 'keepers', dead[n])
			set[dead[n]], changed = nil, true
		end
	end
	return changed
end

local function has_another(set, me)
	local now = now_ms()
	for uuid, k in pairs(set) do
		if uuid ~= me and k.state == 'k' and now - k.at < SILENT_MS then
			return true
		end
	end
	return false
end

local function leave(base, set, me)
	if not set[me] then
		return false
	end
	if set[me].state == 'k' and not has_another(set, me) then
		return false -- the next start must ask it
	end
	call('HDEL', base .. 'keepers', me)
	set[me] = nil
	return true
end

-- One more counts once those that do know of it: else they would not wait for
-- what it has. from: the version of the set that it came with.
local function all_know(set, me, dead, from)
	for uuid, k in pairs(set) do
		local gone = false
		for n = 1, #dead - 1, 2 do
			gone = gone or dead[n] == uuid
		end
		if uuid ~= me and k.state == 'k' and k.set < from and
		   not gone then
			return false
		end
	end
	return true
end

local function stay(set, a, dead, version)
	local me = set[a.uuid]
	if not me and count(set) >= KEEPERS then
		return false
	end
	if not me then -- the stream keeps what comes from now on
		set[a.uuid] = { inc = a.inc, seq = a.newest, state = 'j',
				set = version + 1, at = now_ms(), name = a.name }
		return true
	end
	local state, from = me.state, me.set
	me.inc, me.seq, me.at, me.name = a.inc, a.seq, now_ms(), a.name
	if state == 'k' then
		me.set = a.set
	elseif a.whole and all_know(set, a.uuid, dead, from) then
		me.state, me.set = 'k', a.set
	end
	return me.state ~= state
end

-- args: token, uuid, incarnation, name, newest seq in the log, what for
-- (stay: keep the place or take one that is free; leave), 1 if the log is
-- whole, the version of the set that the caller knows, then the keepers that
-- it knows to be dead: uuid, incarnation.
-- Returns: newest seq, version of the set, and uuid, incarnation, seq, state,
-- name of each.
register('keep', { 'allow-oom' }, function(keys, args)
	local base = keys[1]
	local status, seq = gate(base, args[1], '0')
	if status ~= 0 then
		return { tostring(status) }
	end
	local a = { uuid = args[2], inc = args[3], name = args[4],
		    seq = tonumber(args[5]), whole = args[7] == '1',
		    set = tonumber(args[8]), newest = seq }
	local set, dead = keepers(base), { unpack(args, 9) }
	local version = tonumber(call('HGET', base .. 'm', 'set') or '0')
	local changed = drop_dead(base, set, a.uuid, dead)
	if args[6] == 'leave' then
		changed = leave(base, set, a.uuid) or changed
	else
		changed = stay(set, a, dead, version) or changed
		changed = drop_dead(base, set, a.uuid, dead) or changed
		if set[a.uuid] then
			keeper_set(base, a.uuid, set[a.uuid],
				   set[a.uuid].state)
		end
	end
	if changed then
		version = call('HINCRBY', base .. 'm', 'set', 1)
	end
	trim(base, set, seq)
	local out = { '0', id(seq), id(version) }
	for uuid, k in pairs(set) do
		for _, v in ipairs({ uuid, k.inc, id(k.seq), k.state, k.name }) do
			out[#out + 1] = v
		end
	end
	return out
end)

--- the election ---------------------------------------------------------

local function offer_text(o)
	return table.concat({ id(o.at), o.inc, id(o.life), id(o.seq), id(o.set),
			      o.force, '[' .. o.tree, o.token, o.members,
			      o.name }, ' ')
end

local function offer_read(uuid, text)
	local at, inc, life, seq, set, force, tree, token, members, name =
		string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d) ' ..
				   '%[(%x*) (%x*) ([%x,%-]*) (.*)$')
	return at and { uuid = uuid, at = tonumber(at), inc = inc,
			life = tonumber(life), seq = tonumber(seq),
			set = tonumber(set), force = force, tree = tree,
			token = token, members = members, name = name }
end

local function offers(base)
	local out, all = {}, call('HGETALL', base .. 'elect')
	for n = 1, #all, 2 do
		out[all[n]] = offer_read(all[n], all[n + 1])
	end
	return out
end

-- A number counts within its life.
local function newer(a, b)
	if a.life ~= b.life then
		return a.life > b.life
	end
	if a.seq ~= b.seq then
		return a.seq > b.seq
	end
	return a.uuid < b.uuid
end

local function newest(s, list, set, since)
	local best
	for uuid, o in pairs(list) do
		local may = o.seq > 0 and (s.ready ~= '1' or s.seq <= 1 or
					   o.tree == s.tree)
		if may and (not set or set[uuid]) and o.at > since and
		   (not best or newer(o, best)) then
			best = o
		end
	end
	return best
end

-- Is the log of o more than the store?
local function ahead(o, s)
	if s.ready ~= '1' or o.tree ~= s.tree then
		return true
	end
	if o.life ~= s.life then
		return o.life > s.life
	end
	return o.token == s.token and o.seq > s.seq
end

-- The keepers and who joins them, as whoever knows the newest set says.
local function tree_of(s, list)
	local top = newest(s, list, nil, 0)
	if top or s.tree ~= '' then
		return top and top.tree or s.tree
	end
	for _, o in pairs(list) do -- no log is here: of whose loss they know
		if o.members ~= '' and (not top or o.set > top.set) then
			top = o
		end
	end
	return top and top.tree or ''
end

local function electorate(base, s, list)
	local tree, set, version = tree_of(s, list), {}, 0
	if s.tree == tree then
		for uuid in pairs(keepers(base)) do
			set[uuid] = true
		end
		version = s.set
	end
	for _, o in pairs(list) do
		if o.tree == tree and o.members ~= '' and
		   (o.set > version or not next(set)) then
			set, version = {}, o.set
			for uuid in string.gmatch(o.members, '[^,]+') do
				set[uuid] = true
			end
		end
	end
	return set, version
end

-- From now on the store is asked again. set: its keepers are those of them
-- whose offers came lately.
local function bless(base, token, set, version)
	if set then
		local list, now = offers(base), now_ms()
		call('UNLINK', base .. 'keepers')
		for uuid in pairs(set) do
			local o = list[uuid]
			if o and now - o.at < SILENT_MS then
				keeper_set(base, uuid, o, 'k')
			end
		end
		call('HSET', base .. 'm', 'set', id(version + 1))
	end
	call('UNLINK', base .. 'elect')
	call('HDEL', base .. 'm', 'elect_at', 'loading', 'loader', 'load_at')
	blessed[token], loads[base] = true, nil
end

-- The store is gone on with, although records may be missing.
local function new_life(base, s, token)
	call('HSET', base .. 'm', 'life', id(s.life + 1), 'token', token,
	     'base', id(s.seq), 'prev', s.token)
	return token
end

-- A live store that has less than a log was rolled back below us.
local function contests(s, o)
	if o.seq == 0 then
		return false
	end
	if o.tree ~= s.tree then
		return s.seq <= 1 and o.seq > 1
	end
	return o.token == s.token and o.seq > s.seq
end

local function put_offer(base, o)
	local list, fresh = {}, false
	if run and call('HGET', base .. 'm', 'elect_run') == run then
		list = offers(base)
	else
		run = run or table.concat(call('TIME'), '.')
		call('UNLINK', base .. 'elect')
		call('HSET', base .. 'm', 'elect_run', run)
	end
	for _, other in pairs(list) do
		fresh = fresh or o.at - other.at < OFFER_MS
	end
	if not fresh then
		call('HSET', base .. 'm', 'elect_at', id(o.at))
	end
	list[o.uuid] = o
	call('HSET', base .. 'elect', o.uuid, offer_text(o))
	return list
end

-- Whom to wait for: keepers of whose log nothing is known, and one whose log
-- is known to be the newest but who is not there now.
local function missing(set, list, best, now)
	local out = {}
	for uuid in pairs(set) do
		local o = list[uuid]
		if not o or (best == o and now - o.at >= OFFER_MS) then
			out[#out + 1] = uuid
		end
	end
	return out
end

local function may_force(base, list, now, wait)
	local at = tonumber(call('HGET', base .. 'm', 'elect_at') or now)
	if now - at < wait then
		return false
	end
	for _, o in pairs(list) do
		if o.force == '1' and now - o.at < OFFER_MS then
			return true
		end
	end
	return false
end

-- There is no log to go by.
local function nobody(base, s, version, token)
	if s.ready == '1' then
		bless(base, new_life(base, s, token), {}, version)
		return LIVE
	end
	return version == 0 and s.tree == '' and EMPTY or NONE
end

local function elect(base, s, o, token, wait)
	local now, list = o.at, put_offer(base, o)
	if is_loading(s, o.inc) then
		return WAIT, {}
	end
	local set, version = electorate(base, s, list)
	local best = newest(s, list, set, 0)
	local here = newest(s, list, set, now - OFFER_MS)
	if here and here.life == best.life and here.seq == best.seq then
		best = here
	end
	local gone = missing(set, list, best, now)
	local forced = #gone > 0 and may_force(base, list, now, wait)
	if #gone > 0 and not forced then
		return WAIT, gone
	end
	if forced then
		best = here
	end
	if not best then
		return nobody(base, s, version, token), gone
	end
	if best.uuid ~= o.uuid then
		return WAIT, {}
	end
	if ahead(best, s) then
		loads[base] = { inc = o.inc }
		return LOAD, gone
	end
	if forced then
		bless(base, new_life(base, s, token), set, version)
	else
		bless(base, s.token)
	end
	return LIVE, gone
end

-- args: uuid, incarnation, name; of its log: tree, token and life that it
-- follows, newest seq (0: it keeps none); the version of the set as it knows
-- it, the uuids in that; 1 if it may go on without those who are away, after
-- so many ms; a token for a new life.
-- Returns: what to do now, who is away.
register('elect', { 'allow-oom' }, function(keys, args)
	local base, s = keys[1], store(keys[1])
	local o = { uuid = args[1], at = now_ms(), inc = args[2],
		    name = args[3], tree = args[4], token = args[5],
		    life = tonumber(args[6]), seq = tonumber(args[7]),
		    set = tonumber(args[8]), members = args[9],
		    force = args[10] }
	if s.live and not contests(s, o) then
		return { '0', LIVE }
	end
	blessed[s.token], blessed[o.token] = nil, nil
	local what, gone = elect(base, s, o, args[12], tonumber(args[11]))
	return { '0', what, unpack(gone) }
end)

-- args: seq, uuid, life and token before
loading('load_end', {}, function(base, seq, uuid, life, prev)
	local s = store(base)
	local set, version = electorate(base, s, offers(base))
	local token = call('HGET', base .. 'm', 'loading')
	local o = offers(base)[uuid]
	set[uuid] = true
	if o then
		o.at = now_ms()
		call('HSET', base .. 'elect', uuid, offer_text(o))
	end
	life = math.max(tonumber(life), s.life) + 1
	call('HSET', base .. 'm', 'seq', seq, 'ready', '1', 'life', id(life),
	     'token', token, 'base', seq, 'prev', prev)
	bless(base, token, set, version)
	return 'ok'
end)
