-- SPDX-License-Identifier: MIT
-- The ckpt tree inside Redis: one function per operation, atomic, one trip.
--
-- Keys, all below KEYS[1] = "P:{c}:" so that they share one slot:
--
--   m        hash: tree (id of this tree), seq (newest mutation), next (inode
--            number to give), ready (1: whole), and of the life that it is in:
--            life (its number), token (its name), base (seq when it began),
--            prev (the token before); loading, loader, load_at of a load;
--            what ckpt_keep.lua says
--   i<ino>   the inode: 80 bytes as in FMT, then a symlink's target
--   d<ino>   hash: name -> inode number, of a directory
--   x<ino>   hash: xattr name -> value; the field "" is what they occupy
--   s<ino>   version (8 bytes) and the shards' checksums
--   h<ino>   hash: incarnation -> version (8 bytes) and a bitmap of the shards
--            that it has, or nothing: all. Not part of the tree: in no record
--   l<ino>   hash: kind incarnation owner -> its locks, each 21 bytes: type (R
--            W), pid, first and last offset (8 bytes, the highest first)
--   k<inc>   set: files that this incarnation may have locks of; k: set of those
--            incarnations
--   o<ino>   hash: incarnation -> "", who keeps this unlinked file
--   p        hash: "ino:incarnation" -> "", the same by incarnation
--   log      stream: <seq>-0 -> r, what mutation seq left behind
--   w        the newest seq that a node waited for on replicas
--   keepers, elect: who keeps the log, ckpt_keep.lua
--   r<inc>   hash: slot -> the last answers of that incarnation's mutations
--
-- A life of the tree begins when the store is filled from a log, or when its
-- nodes go on with a store that may have lost its newest records. Within one,
-- a seq stands for one record.
--
-- Numbers of Lua are doubles. Sizes, devices, owners and times are therefore
-- never read here: they travel as the bytes that the caller gave. Inode
-- numbers, versions and seq are counters, exact up to 2^53.
--
-- Every answer is one string: status (4 bytes: an errno or one of below), seq
-- (8; 0: nothing changed), length of the record (4), record, result. Integers
-- are little-endian. A record is a list of changed keys and fields with their
-- full new values, so replaying it twice or over newer data does no harm.
--
-- A mutation checks everything before its first write: Redis undoes nothing.

-- While a library is loaded Redis hides all globals but register_function from
-- it: these are looked up when they run.
local function call(...)
	return redis.call(...)
end

local function pack(...)
	return struct.pack(...)
end

local function unpack_s(...)
	return struct.unpack(...)
end

local function band(...)
	return bit.band(...)
end

local function bor(...)
	return bit.bor(...)
end

local BEHIND, UNREADY, FOREIGN, OLD = 1001, 1002, 1003, 1004
local ENOENT, EPERM, EIO, EEXIST, ENOTDIR, EISDIR = 2, 1, 5, 17, 20, 21
local EINVAL, ENOSPC, EMLINK, ENOTEMPTY, ENODATA = 22, 28, 31, 39, 61
local ESTALE, EBUSY = 116, 16

local S_IFMT, S_IFDIR, S_IFLNK, S_ISGID = 61440, 16384, 40960, 1024
local LINK_MAX = 65000
local XATTR_TOTAL, XATTR_EACH = 1048576, 32
local LOG_MAX, RING = 1000000, 64
local LOAD_LEASE_S = 3

-- Tokens of the lives that those who keep the log agreed on, in this run of the
-- server; one a tree. They are in the server's memory on purpose, not in its
-- data: a server that was started again, or another one that took its place,
-- may have lost the newest records, and answers nothing before they agreed anew.
local blessed = {}

-- Who may fill a tree, and the token of its load: of this run of the server
-- too, which may have lost a part of any load before it.
local loads = {}

-- mode uid gid nlink, size rdev version, a-, m-, ctime, parent, writer shard
-- (log2 of its bytes; 0: the default)
local FIXED, FMT = 80, '<I4c4c4I4' .. 'c8c8I8' .. 'c8c8c8' .. 'I8' .. 'I4I4'

local SET, DEL, HSET, HDEL = 1, 2, 3, 4

local function id(n)
	return string.format('%.0f', n)
end

local function op(kind, key, field, value)
	return pack('<BHc0Hc0I4c0', kind, #key, key, #field, field, #value,
		    value)
end

local function answer(status, seq, record, result)
	return pack('<I4I8I4', status, seq, #record) .. record .. result
end

local function damaged(what)
	error({ err = 'EIO ckpt: damaged ' .. what })
end

--- inodes ---------------------------------------------------------------

local function decode(ino, s)
	if #s < FIXED then
		damaged('i' .. ino)
	end
	local i = { ino = ino, rest = string.sub(s, FIXED + 1) }
	i.mode, i.uid, i.gid, i.nlink, i.size, i.rdev, i.version, i.atime,
	i.mtime, i.ctime, i.parent, i.writer, i.shard = unpack_s(FMT, s)
	return i
end

local function fixed(i)
	return pack(FMT, i.mode, i.uid, i.gid, i.nlink, i.size, i.rdev,
		    i.version, i.atime, i.mtime, i.ctime, i.parent, i.writer,
		    i.shard)
end

local function attr(i)
	return pack('<I8', tonumber(i.ino)) .. fixed(i)
end

local function is_dir(i)
	return band(i.mode, S_IFMT) == S_IFDIR
end

--- what one call sees and changes ---------------------------------------

local T = {}
T.__index = T

function T:inode(ino)
	local i = self.inodes[ino]
	if i == nil then
		local s = call('GET', self.base .. 'i' .. ino)
		i = s and decode(ino, s)
		self.inodes[ino] = i
	end
	return i
end

-- The directory, or nil and the errno.
function T:dir(ino, gone)
	local i = self:inode(ino)
	if not i then
		return nil, gone or ENOENT
	end
	if not is_dir(i) then
		return nil, ENOTDIR
	end
	return i
end

function T:child(dir, name)
	return call('HGET', self.base .. 'd' .. dir.ino, name)
end

function T:note(kind, key, field, value)
	self.ops[#self.ops + 1] = op(kind, key, field, value)
end

function T:set(key, value)
	call('SET', self.base .. key, value)
	self:note(SET, key, '', value)
end

function T:del(key)
	if call('UNLINK', self.base .. key) == 1 then
		self:note(DEL, key, '', '')
	end
end

function T:hset(key, field, value)
	call('HSET', self.base .. key, field, value)
	self:note(HSET, key, field, value)
end

function T:hdel(key, field)
	if call('HDEL', self.base .. key, field) == 1 then
		self:note(HDEL, key, field, '')
	end
end

-- Remember to store this inode at the end of the call.
function T:touch(i, now)
	if now then
		i.ctime = now
	end
	if not self.dirty[i.ino] then
		self.dirty[i.ino] = true
		self.order[#self.order + 1] = i
	end
end

-- A directory whose entries changed.
function T:touch_dir(dir, now)
	dir.mtime = now
	self:touch(dir, now)
end

function T:forget(ino)
	self.inodes[ino] = false
	self:del('i' .. ino)
	self:del('x' .. ino)
	self:del('s' .. ino)
	call('UNLINK', self.base .. 'h' .. ino, self.base .. 'l' .. ino)
end

function T:flush()
	for _, i in ipairs(self.order) do
		if self.inodes[i.ino] then
			self:set('i' .. i.ino, fixed(i) .. i.rest)
		end
	end
end

-- inc no longer keeps this unlinked file; the last keeper's going frees it.
function T:release(ino, inc)
	self:hdel('o' .. ino, inc)
	self:hdel('p', ino .. ':' .. inc)
	if call('EXISTS', self.base .. 'o' .. ino) == 1 then
		return
	end
	local i = self:inode(ino)
	if i and i.nlink == 0 then
		self:forget(ino)
	end
end

-- A file lost a name. Without any it is kept for this node, which knows
-- whether somebody has it open and says so with a later call.
function T:drop_name(i, now)
	i.nlink = i.nlink - 1
	if i.nlink <= 0 then
		i.nlink = 0
		self:hset('o' .. i.ino, self.inc, '')
		self:hset('p', i.ino .. ':' .. self.inc, '')
	end
	self:touch(i, now)
end

local function gone(i)
	if not i then
		return pack('<I8I4I4', 0, 0, 0)
	end
	return pack('<I8I4I4', tonumber(i.ino), i.nlink, i.mode)
end

--- the frame of every call ----------------------------------------------

-- args: token, the newest seq in the caller's log. A store that is older than
-- its reader was rolled back. set: the version of the keepers that the caller
-- counts itself among: of what is done under another one its log may not be
-- asked.
local function gate(base, token, seq, set)
	local m = call('HMGET', base .. 'm', 'token', 'ready', 'seq', 'next',
		       'set')
	if not m[1] or m[2] ~= '1' or not blessed[m[1]] or
	   set and set ~= '0' and set ~= m[5] then
		return UNREADY
	end
	if m[1] ~= token then
		return FOREIGN
	end
	if tonumber(m[3]) < tonumber(seq) then
		return BEHIND
	end
	return 0, tonumber(m[3]), tonumber(m[4])
end

local function register(name, flags, fn)
	redis.register_function({
		function_name = 'kvfs1_ckpt_' .. name,
		flags = flags,
		callback = fn,
	})
end

local function session(base)
	return setmetatable({ base = base, inodes = {}, dirty = {}, order = {},
			      ops = {} }, T)
end

-- fn(t, …) returns status, result.
local function reading(name, fn)
	register(name, { 'no-writes' }, function(keys, args)
		local base = keys[1]
		local status = gate(base, args[1], args[2])
		local result
		if status == 0 then
			status, result = fn(session(base), unpack(args, 3))
		end
		return answer(status, 0, '', result or '')
	end)
end

-- A caller that lost the connection asks again under the same number and gets
-- the same answer. While it may ask again no younger call has its slot
-- (ckpt_number_take); what arrives behind one that has is not run.
local function answered(t, sid, count)
	local s = call('HGET', t.base .. 'r' .. t.inc, count % RING)
	if not s or #s < 16 or string.sub(s, 1, 8) ~= sid then
		return nil
	end
	local last = unpack_s('<I8', s, 9)
	if last == count then
		return string.sub(s, 17)
	end
	return last > count and answer(OLD, 0, '', '') or nil
end

local function remember(t, sid, count, reply)
	local ring = t.base .. 'r' .. t.inc
	call('HSET', ring, count % RING, sid .. pack('<I8', count) .. reply)
	if count % RING == 1 then
		call('EXPIRE', ring, 86400)
	end
end

local function commit(t, status, result)
	t:flush()
	if #t.ops == 0 then
		return answer(status, 0, '', result)
	end
	local seq, record = t.seq + 1, table.concat(t.ops)
	call('HSET', t.base .. 'm', 'seq', id(seq))
	call('XADD', t.base .. 'log', id(seq) .. '-0', 'r', record)
	if seq % 1000 == 0 then -- ckpt_keep trims it long before
		call('XTRIM', t.base .. 'log', 'MAXLEN', '~', LOG_MAX)
	end
	return answer(status, seq, record, result)
end

-- args: token, seq, version of the keepers if the caller is one (else 0),
-- session, number of the call, incarnation, inodes that this node lets go of (8
-- bytes each), then fn's own.
local function mutation(name, flags, fn)
	register(name, flags, function(keys, args)
		local t = session(keys[1])
		local status, seq, next_ino = gate(t.base, args[1], args[2],
						   args[3])
		if status ~= 0 then
			return answer(status, 0, '', '')
		end
		local sid, count, free = args[4], tonumber(args[5]), args[7]
		t.inc, t.seq, t.next_ino = args[6], seq, next_ino
		local reply = answered(t, sid, count)
		if reply then
			return reply
		end
		for at = 1, #free - 7, 8 do
			t:release(id((unpack_s('<I8', free, at))), t.inc)
		end
		local result
		status, result = fn(t, unpack(args, 8))
		reply = commit(t, status, result or '')
		if #t.ops > 0 then
			remember(t, sid, count, reply)
		end
		return reply
	end)
end

--- reading --------------------------------------------------------------

reading('lookup', function(t, parent, name)
	local dir, err = t:dir(parent)
	if not dir then
		return err
	end
	local ino = t:child(dir, name)
	local i = ino and t:inode(ino)
	if not i then
		return ENOENT
	end
	return 0, attr(i)
end)

reading('getattr', function(t, ino)
	local i = t:inode(ino)
	if not i then
		return ESTALE
	end
	return 0, attr(i)
end)

reading('readlink', function(t, ino)
	local i = t:inode(ino)
	if not i then
		return ESTALE
	end
	if band(i.mode, S_IFMT) ~= S_IFLNK then
		return EINVAL
	end
	return 0, i.rest
end)

-- Inode numbers of names and their records, a bounded MGET at a time.
local function entries(t, page, out)
	local keys = {}
	for n = 2, #page, 2 do
		keys[#keys + 1] = t.base .. 'i' .. page[n]
	end
	if #keys == 0 then
		return
	end
	local records = call('MGET', unpack(keys))
	for n, s in ipairs(records) do
		if s and #s >= FIXED then
			local name = page[2 * n - 1]
			out[#out + 1] = pack('<Hc0I8', #name, name,
					     tonumber(page[2 * n])) ..
					string.sub(s, 1, FIXED)
		end
	end
end

reading('readdir', function(t, ino, cursor, count)
	local dir, err = t:dir(ino, ESTALE)
	if not dir then
		return err
	end
	local scan = call('HSCAN', t.base .. 'd' .. ino, cursor, 'COUNT', count)
	local out, pairs_of = { pack('<H', #scan[1]) .. scan[1] }, scan[2]
	for from = 1, #pairs_of, 2000 do
		entries(t, { unpack(pairs_of, from,
				    math.min(from + 1999, #pairs_of)) }, out)
	end
	return 0, table.concat(out)
end)

reading('checksums', function(t, ino, version)
	local s = call('GET', t.base .. 's' .. ino)
	if s and #s >= 8 and string.sub(s, 1, 8) == version then
		return 0, string.sub(s, 9)
	end
	return 0, ''
end)

-- Incarnation, length, bitmap of each that has shards of this version.
reading('holders', function(t, ino, version)
	local i = t:inode(ino)
	if not i or pack('<I8', i.version) ~= version then
		return ESTALE
	end
	local out, all = {}, call('HGETALL', t.base .. 'h' .. ino)
	for n = 1, #all, 2 do
		local value = all[n + 1]
		if string.sub(value, 1, 8) == version then
			out[#out + 1] = pack('<I4I4', tonumber(all[n]),
					     #value - 8) ..
					string.sub(value, 9)
		end
	end
	return 0, table.concat(out)
end)

reading('xattr_get', function(t, ino, name)
	local value = call('HGET', t.base .. 'x' .. ino, name)
	if value then
		return 0, value
	end
	return t:inode(ino) and ENODATA or ESTALE
end)

reading('xattr_list', function(t, ino)
	if not t:inode(ino) then
		return ESTALE
	end
	local out = {}
	for _, name in ipairs(call('HKEYS', t.base .. 'x' .. ino)) do
		if name ~= '' then
			out[#out + 1] = name .. '\0'
		end
	end
	return 0, table.concat(out)
end)

--- changing one inode ---------------------------------------------------

local MODE, UID, GID, SIZE, ATIME, MTIME, CTIME = 1, 2, 4, 8, 16, 32, 64
local SHARD = 128

local function apply(i, mask, set)
	local function has(bit_)
		return band(mask, bit_) ~= 0
	end
	if has(MODE) then
		i.mode = bor(band(i.mode, S_IFMT), band(set.mode, 4095))
	end
	i.uid = has(UID) and set.uid or i.uid
	i.gid = has(GID) and set.gid or i.gid
	i.size = has(SIZE) and set.size or i.size
	i.atime = has(ATIME) and set.atime or i.atime
	i.mtime = has(MTIME) and set.mtime or i.mtime
	i.ctime = has(CTIME) and set.ctime or i.ctime
	i.shard = has(SHARD) and set.shard or i.shard
end

mutation('setattr', {}, function(t, ino, mask, set)
	local i = t:inode(ino)
	if not i then
		return ESTALE
	end
	apply(i, tonumber(mask), decode('0', set))
	t:touch(i)
	return 0, attr(i)
end)

-- dead: an incarnation that the caller knows to be no member any more.
mutation('open_write', {}, function(t, ino, dead)
	local i, inc = t:inode(ino), tonumber(t.inc)
	if not i then
		return ESTALE
	end
	if i.writer ~= 0 and i.writer ~= inc and i.writer ~= tonumber(dead) then
		return EBUSY, pack('<I4', i.writer)
	end
	if i.writer ~= inc then
		i.writer = inc
		t:touch(i)
	end
	call('HDEL', t.base .. 'h' .. ino, t.inc)
	return 0, attr(i)
end)

-- dead: as above; a node that was taken for dead goes on under another number.
mutation('publish', {}, function(t, ino, mask, set, last, dead)
	local i, inc = t:inode(ino), tonumber(t.inc)
	if not i then
		return ESTALE, pack('<I4', 0)
	end
	if i.writer ~= 0 and i.writer ~= inc and i.writer ~= tonumber(dead) then
		return ESTALE, pack('<I4', i.writer)
	end
	apply(i, tonumber(mask), decode('0', set))
	if tonumber(mask) ~= 0 or last ~= '1' then
		i.version = i.version + 1
		t:del('s' .. ino)
		call('UNLINK', t.base .. 'h' .. ino)
		call('HSET', t.base .. 'h' .. ino, t.inc,
		     pack('<I8', i.version))
	end
	i.writer = last == '1' and 0 or i.writer == 0 and 0 or inc
	t:touch(i)
	return 0, attr(i)
end)

-- What this node has: inode, version and bitmap (empty: nothing), …
mutation('shards_set', {}, function(t, ...)
	local args = { ... }
	for n = 1, #args - 1, 2 do
		local key, value = t.base .. 'h' .. args[n], args[n + 1]
		local i = #value > 8 and t:inode(args[n])
		if i and pack('<I8', i.version) == string.sub(value, 1, 8) then
			call('HSET', key, t.inc, value)
		else
			call('HDEL', key, t.inc)
		end
	end
	return 0
end)

-- Of a version the first that came: they never change.
mutation('set_checksums', {}, function(t, ino, version, sums)
	local i = t:inode(ino)
	if i and pack('<I8', i.version) == version and
	   call('EXISTS', t.base .. 's' .. ino) == 0 then
		t:set('s' .. ino, version .. sums)
	end
	return 0
end)

local XATTR_CREATE, XATTR_REPLACE = 1, 2

mutation('xattr_set', {}, function(t, ino, name, value, flags, now)
	local i, key = t:inode(ino), t.base .. 'x' .. ino
	if not i then
		return ESTALE
	end
	local is, flag = call('HEXISTS', key, name) == 1, tonumber(flags)
	if is and band(flag, XATTR_CREATE) ~= 0 then
		return EEXIST
	end
	if not is and band(flag, XATTR_REPLACE) ~= 0 then
		return ENODATA
	end
	local total = tonumber(call('HGET', key, '') or '0') + #value
	if is then
		total = total - call('HSTRLEN', key, name)
	else
		total = total + #name + XATTR_EACH
	end
	if total > XATTR_TOTAL then
		return ENOSPC
	end
	t:hset('x' .. ino, name, value)
	t:hset('x' .. ino, '', id(total))
	t:touch(i, now)
	return 0
end)

mutation('xattr_remove', { 'allow-oom' }, function(t, ino, name, now)
	local i, key = t:inode(ino), t.base .. 'x' .. ino
	if not i then
		return ESTALE
	end
	if call('HEXISTS', key, name) == 0 then
		return ENODATA
	end
	local total = tonumber(call('HGET', key, '') or '0') -
		      call('HSTRLEN', key, name) - #name - XATTR_EACH
	t:hdel('x' .. ino, name)
	if call('HLEN', key) > 1 then
		t:hset('x' .. ino, '', id(math.max(total, 0)))
	else
		t:del('x' .. ino)
	end
	t:touch(i, now)
	return 0
end)

--- locks ----------------------------------------------------------------

local LOCK, LOCKS_MAX, ENOLCK = 21, 4096, 37

local function alive(live, known, inc)
	if inc > known then
		return true
	end
	local bytes = pack('<I4', inc)
	for at = 1, #live - 3, 4 do
		if string.sub(live, at, at + 3) == bytes then
			return true
		end
	end
	return false
end

-- The first of these locks that stands in the way of l.
local function overlap(locks, l)
	for at = 1, #locks - LOCK + 1, LOCK do
		local one = string.sub(locks, at, at + LOCK - 1)
		local first, last = string.sub(one, 6, 13), string.sub(one, 14)
		if first <= l.last and last >= l.first and
		   (l.kind == 'W' or string.sub(one, 1, 1) == 'W') then
			return one
		end
	end
end

-- Is there a lock of this incarnation among these owners? If not, it is no
-- longer one whose locks are looked for here.
local function unindex(t, ino, inc, owners)
	local start = '^%a ' .. inc .. ' '
	for _, owner in ipairs(owners) do
		if string.match(owner, start) then
			return
		end
	end
	call('SREM', t.base .. 'k' .. inc, ino)
end

-- Who is in the way: the lock and the incarnation, and how many locks there
-- are; with `clean` those of the dead leave.
local function conflict(t, ino, me, l, clean)
	local key = t.base .. 'l' .. ino
	local all, n, found, whose = call('HGETALL', key), 0, nil, nil
	for i = 1, #all, 2 do
		local kind, inc = string.match(all[i], '^(%a) (%d+) ')
		inc = tonumber(inc or 0)
		if inc ~= tonumber(l.inc) and
		   not alive(l.live, l.known, inc) then
			if clean then
				call('HDEL', key, all[i])
				call('SREM', t.base .. 'k' .. id(inc), ino)
			end
		else
			n = n + #all[i + 1] / LOCK
			if kind == l.class and all[i] ~= me and not found then
				found, whose = overlap(all[i + 1], l), inc
			end
		end
	end
	return found, whose, n
end

-- An owner's locks without a range.
local function cut(locks, l)
	local out = {}
	for at = 1, #locks - LOCK + 1, LOCK do
		local head = string.sub(locks, at, at + 4)
		local first = string.sub(locks, at + 5, at + 12)
		local last = string.sub(locks, at + 13, at + 20)
		if last < l.first or first > l.last then
			out[#out + 1] = head .. first .. last
		else
			if first < l.first then
				out[#out + 1] = head .. first .. l.before
			end
			if last > l.last then
				out[#out + 1] = head .. l.behind .. last
			end
		end
	end
	return table.concat(out)
end

local function lock_of(inc, class, kind, owner, first, last, before, behind,
		       live, known)
	return { inc = inc, class = class, kind = kind, first = first,
		 last = last, before = before, behind = behind, live = live,
		 known = tonumber(known),
		 me = class .. ' ' .. inc .. ' ' .. owner }
end

mutation('lock_set', {}, function(t, ino, class, kind, owner, first, last,
				  before, behind, pid, live, known)
	local key = t.base .. 'l' .. ino
	local l = lock_of(t.inc, class, kind, owner, first, last, before,
			  behind, live, known)
	if not t:inode(ino) then
		return kind == 'U' and 0 or ESTALE
	end
	local found, _, n = conflict(t, ino, l.me, l, true)
	if kind ~= 'U' and found then
		if class == 'f' then -- flock(2): he gives up what he has first
			call('HDEL', key, l.me)
		end
		return EBUSY
	end
	if kind ~= 'U' and n >= LOCKS_MAX then
		return ENOLCK
	end
	local mine = cut(call('HGET', key, l.me) or '', l)
	if kind ~= 'U' then
		mine = mine .. kind .. pack('<I4', tonumber(pid)) .. first ..
		       last
		call('SADD', t.base .. 'k', t.inc)
		call('SADD', t.base .. 'k' .. t.inc, ino)
	end
	if mine == '' then
		call('HDEL', key, l.me)
		unindex(t, ino, t.inc, call('HKEYS', key))
	else
		call('HSET', key, l.me, mine)
	end
	return 0
end)

reading('lock_get', function(t, ino, class, kind, owner, first, last, before,
			     behind, _, live, known, inc)
	local l = lock_of(inc, class, kind, owner, first, last, before, behind,
			  live, known)
	if not t:inode(ino) then
		return ESTALE
	end
	local one, whose = conflict(t, ino, l.me, l, false)
	if not one then
		return 0
	end
	return 0, string.sub(one, 1, 1) .. pack('<I4', whose) ..
		  string.sub(one, 2)
end)

mutation('lock_drop', { 'allow-oom' }, function(t, ino, owner)
	local key, tail = t.base .. 'l' .. ino, ' ' .. t.inc .. ' ' .. owner
	call('HDEL', key, 'p' .. tail, 'f' .. tail)
	unindex(t, ino, t.inc, call('HKEYS', key))
	return 0
end)

local function drop_all(t, inc)
	local start = '^%a ' .. inc .. ' '
	for _, ino in ipairs(call('SMEMBERS', t.base .. 'k' .. inc)) do
		local key = t.base .. 'l' .. ino
		for _, owner in ipairs(call('HKEYS', key)) do
			if string.match(owner, start) then
				call('HDEL', key, owner)
			end
		end
	end
	call('UNLINK', t.base .. 'k' .. inc)
	call('SREM', t.base .. 'k', inc)
end

-- A daemon that begins has no locks, even where it goes on under the
-- incarnation of one that was killed; and those of the dead leave.
mutation('lock_reset', { 'allow-oom' }, function(t, live, known)
	for _, inc in ipairs(call('SMEMBERS', t.base .. 'k')) do
		if inc == t.inc or
		   not alive(live, tonumber(known), tonumber(inc)) then
			drop_all(t, inc)
		end
	end
	return 0
end)

--- changing names -------------------------------------------------------

mutation('create', {}, function(t, parent, name, set, target)
	local dir, err = t:dir(parent)
	if not dir then
		return err
	end
	if t:child(dir, name) then
		return EEXIST
	end
	local i = decode(id(t.next_ino), set)
	if is_dir(i) and dir.nlink >= LINK_MAX then
		return EMLINK
	end
	i.nlink, i.version, i.parent, i.writer = 1, 0, 0, 0
	i.shard = dir.shard
	if band(dir.mode, S_ISGID) ~= 0 then
		i.gid = dir.gid
	end
	if is_dir(i) then
		i.nlink, i.parent = 2, tonumber(parent)
		i.mode = bor(i.mode, band(dir.mode, S_ISGID))
		dir.nlink = dir.nlink + 1
	end
	i.rest = target
	t.inodes[i.ino] = i
	t:hset('m', 'next', id(t.next_ino + 1))
	t:hset('d' .. parent, name, i.ino)
	t:touch(i)
	t:touch_dir(dir, i.ctime)
	return 0, attr(i)
end)

mutation('link', {}, function(t, ino, parent, name, now)
	local dir, err = t:dir(parent)
	if not dir then
		return err
	end
	if t:child(dir, name) then
		return EEXIST
	end
	local i = t:inode(ino)
	if not i or i.nlink == 0 then
		return ENOENT
	end
	if is_dir(i) then
		return EPERM
	end
	if i.nlink >= LINK_MAX then
		return EMLINK
	end
	i.nlink = i.nlink + 1
	t:hset('d' .. parent, name, ino)
	t:touch(i, now)
	t:touch_dir(dir, now)
	return 0, attr(i)
end)

mutation('unlink', { 'allow-oom' }, function(t, parent, name, now)
	local dir, err = t:dir(parent)
	if not dir then
		return err
	end
	local ino = t:child(dir, name)
	if not ino then
		return ENOENT
	end
	local i = t:inode(ino)
	if i and is_dir(i) then
		return EISDIR
	end
	t:hdel('d' .. parent, name)
	t:touch_dir(dir, now)
	if i then
		t:drop_name(i, now)
	end
	return 0, gone(i)
end)

local function empty(t, dir)
	return call('EXISTS', t.base .. 'd' .. dir.ino) == 0
end

local function drop_dir(t, dir, i)
	dir.nlink = dir.nlink - 1
	i.nlink = 0
	t:forget(i.ino)
end

mutation('rmdir', { 'allow-oom' }, function(t, parent, name, now)
	local dir, err = t:dir(parent)
	if not dir then
		return err
	end
	local ino = t:child(dir, name)
	local i = ino and t:inode(ino)
	if not i then
		return ENOENT
	end
	if not is_dir(i) then
		return ENOTDIR
	end
	if not empty(t, i) then
		return ENOTEMPTY
	end
	t:hdel('d' .. parent, name)
	drop_dir(t, dir, i)
	t:touch_dir(dir, now)
	return 0, gone(i)
end)

mutation('release', { 'allow-oom' }, function(t, ino)
	t:release(ino, t.inc)
	return 0
end)

-- What dead incarnations kept: pairs of inode and incarnation.
mutation('sweep', { 'allow-oom' }, function(t, pairs_)
	for at = 1, #pairs_ - 11, 12 do
		local ino, inc = unpack_s('<I8I4', pairs_, at)
		t:release(id(ino), id(inc))
	end
	return 0
end)

--- rename ---------------------------------------------------------------

local NOREPLACE, EXCHANGE = 1, 2

-- Is `ino` the directory `from` or above it?
local function is_above(t, ino, from)
	while from.ino ~= ino do
		local up = from.parent
		if up == 0 or tonumber(from.ino) == up then
			return false
		end
		from = t:inode(id(up))
		if not from then
			return false
		end
	end
	return true
end

-- The order of Linux's do_renameat2 and vfs_rename.
local function rename_errno(t, r, flags)
	if r.new and band(flags, NOREPLACE) ~= 0 then
		return EEXIST
	end
	if not r.new and band(flags, EXCHANGE) ~= 0 then
		return ENOENT
	end
	local moved = r.from.ino ~= r.to.ino
	if moved and is_dir(r.old) and is_above(t, r.old.ino, r.to) then
		return EINVAL
	end
	if moved and r.new and is_dir(r.new) and
	   is_above(t, r.new.ino, r.from) then
		return band(flags, EXCHANGE) ~= 0 and EINVAL or ENOTEMPTY
	end
	if not r.new or r.new.ino == r.old.ino or band(flags, EXCHANGE) ~= 0 then
		return 0
	end
	if is_dir(r.old) and not is_dir(r.new) then
		return ENOTDIR
	end
	if not is_dir(r.old) and is_dir(r.new) then
		return EISDIR
	end
	if is_dir(r.new) and not empty(t, r.new) then
		return ENOTEMPTY
	end
	return 0
end

-- How many subdirectories `to` gains.
local function rename_links(r, flags)
	if r.from.ino == r.to.ino then
		return 0
	end
	local n = is_dir(r.old) and 1 or 0
	if r.new and is_dir(r.new) and band(flags, EXCHANGE) ~= 0 then
		n = n - 1
	end
	return n
end

local function move(t, i, to, now)
	if is_dir(i) then
		i.parent = tonumber(to.ino)
	end
	t:touch(i, now)
end

local function rename_swap(t, r, now)
	t:hset('d' .. r.from.ino, r.name, r.new.ino)
	t:hset('d' .. r.to.ino, r.new_name, r.old.ino)
	move(t, r.old, r.to, now)
	move(t, r.new, r.from, now)
	return gone(nil)
end

local function rename_over(t, r, now)
	t:hdel('d' .. r.from.ino, r.name)
	t:hset('d' .. r.to.ino, r.new_name, r.old.ino)
	move(t, r.old, r.to, now)
	if r.new and is_dir(r.new) then
		drop_dir(t, r.to, r.new)
	elseif r.new then
		t:drop_name(r.new, now)
	end
	return gone(r.new)
end

-- Both names and what they stand for, or nil and the errno.
local function rename_find(t, from, name, to, new_name)
	local r, err = { name = name, new_name = new_name }, nil
	r.from, err = t:dir(from)
	if not r.from then
		return nil, err
	end
	r.to, err = t:dir(to)
	if not r.to then
		return nil, err
	end
	local ino, new_ino = t:child(r.from, name), t:child(r.to, new_name)
	r.old = ino and t:inode(ino)
	r.new = new_ino and t:inode(new_ino) or nil
	if not r.old then
		return nil, ENOENT
	end
	return r
end

mutation('rename', {}, function(t, from, name, to, new_name, flags, now)
	flags = tonumber(flags)
	local r, err = rename_find(t, from, name, to, new_name)
	if not r then
		return err
	end
	err = rename_errno(t, r, flags)
	if err ~= 0 then
		return err
	end
	if r.new and r.new.ino == r.old.ino then
		return 0, gone(nil)
	end
	local links, swap = rename_links(r, flags), band(flags, EXCHANGE) ~= 0
	local freed = not swap and r.new and is_dir(r.new) and 1 or 0
	if r.to.nlink + links - freed > LINK_MAX or
	   r.from.nlink - links > LINK_MAX then
		return EMLINK
	end
	local result = (swap and rename_swap or rename_over)(t, r, now)
	r.from.nlink = r.from.nlink - links
	r.to.nlink = r.to.nlink + links
	t:touch_dir(r.from, now)
	t:touch_dir(r.to, now)
	return 0, result
end)

--- the whole tree: snapshot, reload -------------------------------------

-- Keys of the tree itself; the log, the answers and m are not.
local STRINGS, HASHES = { i = true, s = true }, { d = true, x = true, o = true,
						  p = true }
local BIG_FIELDS, BIG_BYTES = 512, 65536

local function suffix(base, key)
	local s = string.sub(key, #base + 1)
	return s, string.sub(s, 1, 1)
end

local function fields_to_ops(key, list, out)
	for n = 1, #list, 2 do
		out[#out + 1] = op(HSET, key, list[n], list[n + 1])
	end
end

local function is_big(base, s, kind)
	if call('HLEN', base .. s) > BIG_FIELDS then
		return true
	end
	return kind == 'x' and
	       tonumber(call('HGET', base .. s, '') or '0') > BIG_BYTES
end

-- One page of the tree as operations: the next cursor, the operations, then
-- the hashes that are too large for a page.
register('dump', { 'no-writes' }, function(keys, args)
	local base = keys[1]
	local status = gate(base, args[1], args[2])
	if status ~= 0 then
		return { tostring(status) }
	end
	local page = call('SCAN', args[3], 'MATCH', base .. '*', 'COUNT', 200)
	local out, big = {}, {}
	for _, key in ipairs(page[2]) do
		local s, kind = suffix(base, key)
		if STRINGS[kind] then
			out[#out + 1] = op(SET, s, '', call('GET', key) or '')
		elseif HASHES[kind] and is_big(base, s, kind) then
			big[#big + 1] = s
		elseif HASHES[kind] then
			fields_to_ops(s, call('HGETALL', key), out)
		elseif s == 'm' then
			out[#out + 1] = op(HSET, 'm', 'next',
					   call('HGET', key, 'next'))
		end
	end
	return { '0', page[1], table.concat(out), unpack(big) }
end)

register('dump_hash', { 'no-writes' }, function(keys, args)
	local base, out = keys[1], {}
	local status = gate(base, args[1], args[2])
	if status ~= 0 then
		return { tostring(status) }
	end
	local page = call('HSCAN', base .. args[3], args[4], 'COUNT', 1000)
	fields_to_ops(args[3], page[2], out)
	return { '0', page[1], table.concat(out) }
end)

-- One page of inode numbers.
register('inos', { 'no-writes' }, function(keys, args)
	local base, out = keys[1], {}
	local status = gate(base, args[1], args[2])
	if status ~= 0 then
		return { tostring(status) }
	end
	local page = call('SCAN', args[3], 'MATCH', base .. 'i*', 'COUNT', 1000)
	for _, key in ipairs(page[2]) do
		out[#out + 1] = (suffix(base, key))
	end
	return { '0', page[1], unpack(out) }
end)

-- One page of who keeps unlinked files: "ino:incarnation".
register('kept', { 'no-writes' }, function(keys, args)
	local base, out = keys[1], {}
	local status = gate(base, args[1], args[2])
	if status ~= 0 then
		return { tostring(status) }
	end
	local page = call('HSCAN', base .. 'p', args[3], 'COUNT', 1000)
	for n = 1, #page[2], 2 do
		out[#out + 1] = page[2][n]
	end
	return { '0', page[1], unpack(out) }
end)

local function store(base)
	local m = call('HMGET', base .. 'm', 'tree', 'seq', 'ready', 'token',
		       'life', 'base', 'prev', 'loader', 'load_at', 'set')
	return { tree = m[1] or '', seq = tonumber(m[2] or '0'),
		 ready = m[3] or '', token = m[4] or '',
		 life = tonumber(m[5] or '0'), base = m[6] or '0',
		 prev = m[7] or '', loader = m[8] or '',
		 load_at = tonumber(m[9] or '0'), set = tonumber(m[10] or '0'),
		 live = m[3] == '1' and blessed[m[4]] or false }
end

-- tree, seq, whole, token, life, base, prev, may it be asked
register('state', { 'no-writes' }, function(keys)
	local s = store(keys[1])
	return { s.tree, id(s.seq), s.ready, s.token, id(s.life), s.base,
		 s.prev, s.live and '1' or '0' }
end)

-- Who waits for replicas writes behind what it was answered: ckpt_replicas.c.
-- args: token, the newest seq that the caller saw.
register('mark', { 'allow-oom' }, function(keys, args)
	local status = gate(keys[1], args[1], args[2])
	if status == 0 then
		call('SET', keys[1] .. 'w', args[2])
	end
	return status
end)

-- Records from a seq on: seq, record, seq, record …
register('since', { 'no-writes' }, function(keys, args)
	local base, out = keys[1], {}
	local status = gate(base, args[1], '0')
	if status ~= 0 then
		return { tostring(status) }
	end
	local list = call('XRANGE', base .. 'log', args[2] .. '-0', '+',
			  'COUNT', args[3])
	for _, e in ipairs(list) do
		out[#out + 1] = string.match(e[1], '^(%d+)')
		out[#out + 1] = e[2][2]
	end
	return { '0', unpack(out) }
end)

local function is_loading(s, inc)
	return s.ready == '0' and s.loader ~= inc and
	       call('TIME')[1] - s.load_at < LOAD_LEASE_S
end

-- args: the tree that should be there ("": none), the tree to load, token,
-- incarnation. From here on to load_end nobody else gets an answer.
register('load_begin', { 'allow-oom' }, function(keys, args)
	local m, s = keys[1] .. 'm', store(keys[1])
	local load = loads[keys[1]]
	if s.tree ~= args[1] or s.live or not load or load.inc ~= args[4] then
		return FOREIGN
	end
	if is_loading(s, args[4]) then
		return EBUSY
	end
	load.token = args[3]
	call('HSET', m, 'tree', args[2], 'ready', '0', 'loading', args[3],
	     'loader', args[4], 'load_at', call('TIME')[1])
	return 0
end)

local function loading(name, flags, fn)
	register(name, flags, function(keys, args)
		local m = keys[1] .. 'm'
		local old = call('HMGET', m, 'loading', 'ready')
		local load = loads[keys[1]]
		if old[1] ~= args[1] or old[2] ~= '0' or
		   not load or load.token ~= args[1] then
			return { tostring(EBUSY) }
		end
		call('HSET', m, 'load_at', call('TIME')[1])
		return { '0', fn(keys[1], unpack(args, 2)) }
	end)
end

loading('load_wipe', { 'allow-oom' }, function(base, cursor)
	local page = call('SCAN', cursor, 'MATCH', base .. '*', 'COUNT', 1000)
	for _, key in ipairs(page[2]) do
		if key ~= base .. 'm' and key ~= base .. 'elect' then
			call('UNLINK', key)
		end
	end
	return page[1]
end)

local function replay(base, ops)
	local at, kind, key, field, value = 1, nil, nil, nil, nil
	while at <= #ops do
		local n
		kind, n, at = unpack_s('<BH', ops, at)
		key, at = base .. string.sub(ops, at, at + n - 1), at + n
		n, at = unpack_s('<H', ops, at)
		field, at = string.sub(ops, at, at + n - 1), at + n
		n, at = unpack_s('<I4', ops, at)
		value, at = string.sub(ops, at, at + n - 1), at + n
		if kind == SET then
			call('SET', key, value)
		elseif kind == DEL then
			call('UNLINK', key)
		elseif kind == HSET then
			call('HSET', key, field, value)
		elseif kind == HDEL then
			call('HDEL', key, field)
		else
			damaged('record')
		end
	end
end

loading('load', {}, function(base, ops)
	replay(base, ops)
	return 'ok'
end)
