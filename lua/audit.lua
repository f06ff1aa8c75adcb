-- audit: no job moves
-- Looks through one part of a queue, a step at a time, for what does not fit together; each thing is judged by all that is
-- stored of it at that moment. Changes nothing.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled  zset, job id -> due (unix ms)
-- KEYS[2] dead       millstream:{Q}:dead       zset, job id -> died at (unix ms)
-- KEYS[3] jobs       millstream:{Q}:jobs       hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads   hash, job id -> payload
-- KEYS[5] held       millstream:{Q}:held       zset, jobs that wait for their group
-- KEYS[6] groups     millstream:{Q}:groups     hash, group -> slots taken
-- KEYS[7] limits     millstream:{Q}:limits     hash, what limits the queue and its groups
-- KEYS[8] rates      millstream:{Q}:rates      zset, buckets of groups that have a rate
-- KEYS[9] progress   millstream:{Q}:progress   hash, job id -> what its handlers have told
-- KEYS[10..] lanes   millstream:{Q}:ready*     streams: next, ready, suspect, high, low
-- ARGV[1] group      consumer group
-- ARGV[2] part       jobs, payloads, scheduled, dead, rates, progress, waiting (groups with held jobs), kept (slots of scheduled jobs);
--                    entries, pending or slots (those of its jobs) of the lane `lane`
-- ARGV[3] lane       its number, from 1
-- ARGV[4] cursor     0, or where the last step left off
-- ARGV[5] limit      about as many are looked at, 1 to 1,000
--
-- Returns {OK, cursor, looked, bytes, {kind, id ...}, {group, id ...}}: where to go on ('0' at the end; for `slots` always the last entry
-- that was seen, and the end is where fewer than `limit` were looked at), how many were looked at, how many bytes that took (see
-- examine), what is wrong, and which of the jobs on a lane or scheduled have a slot of their group. An id is a job's, an
-- entry's, a member of `rates` or a group's name. Cost O(limit log n), n = jobs.
local keys = {
  scheduled = KEYS[1], dead = KEYS[2], jobs = KEYS[3], payloads = KEYS[4], held = KEYS[5], rates = KEYS[8], progress = KEYS[9],
}
local groups, limits, rates, lanes = KEYS[6], KEYS[7], KEYS[8], { unpack(KEYS, 10) }
local group, part, lane, cursor, limit = ARGV[1], ARGV[2], lanes[tonumber(ARGV[3])], ARGV[4], tonumber(ARGV[5])

check('ZCARD', keys.scheduled)
check('ZCARD', keys.dead)
check('HLEN', keys.jobs)
check('HLEN', keys.payloads)
check('ZCARD', keys.held)
check('HLEN', keys.progress)
for i = 1, #lanes do check('XLEN', lanes[i]) end
use_groups({ held = keys.held, groups = groups, limits = limits, rates = rates, high = lanes[4], low = lanes[5] })

local wrong, slots, looked, bytes = {}, {}, 0, 0
local function note(kind, id)
  looked = looked + 1
  if not kind then return end
  wrong[#wrong + 1] = kind
  wrong[#wrong + 1] = id
end
local function note_slot(meta, id)
  local name = slot_in(meta)
  if name then slots[#slots + 1], slots[#slots + 2] = name, id end
end

-- A small hash or sorted set is stored in one piece, of which a scan gives all at once, however many were asked for. Of that so many
-- are taken, from the end on: what is mended and goes away moves nothing that is still to come.
local function scanned(scan, key)
  local at = tonumber(string.match(cursor, '^at (%d+)$'))
  local page = redis.call(scan, key, at and '0' or cursor, 'COUNT', limit)
  local last = #page[2] / 2 - 1
  if page[1] ~= '0' or (cursor ~= '0' and not at) or last < limit then return page end
  last = math.min(at or last, last)
  local first = math.max(0, last - limit + 1)
  return { first > 0 and 'at ' .. first - 1 or '0', { unpack(page[2], 2 * first + 1, 2 * last + 2) } }
end

local function from() return cursor == '0' and '-' or '(' .. cursor end

if part == 'entries' or part == 'slots' then
  local last = part == 'entries' and last_delivered(lane, group)
  local entries = redis.call('XRANGE', lane, from(), '+', 'COUNT', limit)
  for _, entry in ipairs(entries) do
    for i = 1, #entry[2] do bytes = bytes + #entry[2][i] end
    note(part == 'entries' and examine_entry(keys.jobs, lane, group, last, entry) or nil, entry[1])
    note_slot(entry[2][8] or '', entry[1])
  end
  local last_seen = #entries > 0 and entries[#entries][1]
  -- Whoever looks at slots has to know where the lane ended.
  cursor = part == 'slots' and (last_seen or cursor) or #entries == limit and last_seen or '0'
elseif part == 'pending' then
  local rows = redis.pcall('XPENDING', lane, group, from(), '+', limit)
  if rows.err then rows = {} end
  for _, row in ipairs(rows) do
    local is_there = #redis.call('XRANGE', lane, row[1], row[1]) > 0
    note(not is_there and 'dangling-pending' or nil, row[1])
  end
  cursor = #rows == limit and rows[limit][1] or '0'
elseif part == 'waiting' then
  local us = now_us()
  -- A group's name, as it may be anything, behind a sign.
  local bound = cursor == '0' and '-' or '[' .. string.sub(cursor, 2) .. ' '
  cursor = '0'
  for _ = 1, limit do
    local first = redis.call('ZRANGEBYLEX', keys.held, bound, '+', 'LIMIT', 0, 1)[1]
    local name = first and string.match(first, '^(.-)' .. US)
    if not name then break end
    note(examine_waiting(rates, name, us), name)
    bound, cursor = '[' .. name .. ' ', '=' .. name
  end
  if looked < limit then cursor = '0' end
elseif part == 'rates' then
  local us, page = now_us(), redis.call('ZSCAN', rates, cursor, 'COUNT', limit)
  for i = 1, #page[2], 2 do note(examine_rate(rates, limits, page[2][i], us), page[2][i]) end
  cursor = page[1]
elseif part == 'kept' then
  local page = redis.call('ZSCAN', keys.scheduled, cursor, 'COUNT', limit)
  for i = 1, #page[2], 2 do
    local text = redis.call('HGET', keys.jobs, page[2][i])
    bytes = bytes + #(text or '')
    note(nil, page[2][i])
    -- Looked for as text first: JSON is dear.
    local record = text and string.find(text, 'slot', 1, true) and record_in(text)
    if record then note_slot(record.meta, page[2][i]) end
  end
  cursor = page[1]
else
  local scan = (part == 'scheduled' or part == 'dead') and 'ZSCAN' or 'HSCAN'
  local page = scanned(scan, keys[part])
  local look = part == 'progress' and examine_progress or examine
  for i = 1, #page[2], 2 do
    bytes = bytes + #page[2][i] + #page[2][i + 1]
    note(look(keys, lanes, page[2][i]), page[2][i])
    local record = part == 'scheduled' and read_record(keys.jobs, page[2][i])
    if record then note_slot(record.meta, page[2][i]) end
  end
  cursor = page[1]
end
return { OK, cursor, looked, bytes + examined_bytes, wrong, slots }
