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
-- KEYS[7] progress   millstream:{Q}:progress   hash, job id -> what its handlers have told
-- KEYS[8..] lanes    millstream:{Q}:ready*     streams
-- ARGV[1] group      consumer group
-- ARGV[2] part       jobs, payloads, scheduled, dead, groups, progress; entries or pending of the lane `lane`
-- ARGV[3] lane       its number, from 1
-- ARGV[4] cursor     0, or where the last step left off
-- ARGV[5] limit      about as many are looked at, 1 to 1,000
--
-- Returns {OK, cursor, looked, bytes, {kind, id ...}}: where to go on ('0' at the end), how many were looked at, and how many bytes
-- that took. An id is a job's, an entry's or a group's name. Groups are counted where there
-- are at most 1,000 jobs. Cost O(limit log n), n = jobs.
local keys = {
  scheduled = KEYS[1], dead = KEYS[2], jobs = KEYS[3], payloads = KEYS[4], held = KEYS[5], groups = KEYS[6], progress = KEYS[7],
}
local lanes = { unpack(KEYS, 8) }
local group, part, lane, cursor, limit = ARGV[1], ARGV[2], lanes[tonumber(ARGV[3])], ARGV[4], tonumber(ARGV[5])

check('ZCARD', keys.scheduled)
check('ZCARD', keys.dead)
check('HLEN', keys.jobs)
check('HLEN', keys.payloads)
check('ZCARD', keys.held)
check('HLEN', keys.groups)
check('HLEN', keys.progress)
for i = 1, #lanes do check('XLEN', lanes[i]) end

local wrong, looked, bytes = {}, 0, 0
local function note(kind, id)
  looked = looked + 1
  if not kind then return end
  wrong[#wrong + 1] = kind
  wrong[#wrong + 1] = id
end
local function from() return cursor == '0' and '-' or '(' .. cursor end

if part == 'entries' then
  local last = last_delivered(lane, group)
  local entries = redis.call('XRANGE', lane, from(), '+', 'COUNT', limit)
  for _, entry in ipairs(entries) do
    for i = 1, #entry[2] do bytes = bytes + #entry[2][i] end
    note(examine_entry(keys.jobs, lane, group, last, entry), entry[1])
  end
  cursor = #entries == limit and entries[limit][1] or '0'
elseif part == 'pending' then
  local rows = redis.pcall('XPENDING', lane, group, from(), '+', limit)
  if rows.err then rows = {} end
  for _, row in ipairs(rows) do
    local is_there = #redis.call('XRANGE', lane, row[1], row[1]) > 0
    note(not is_there and 'dangling-pending' or nil, row[1])
  end
  cursor = #rows == limit and rows[limit][1] or '0'
elseif part == 'groups' then
  local counted = slots_counted(keys, lanes)
  local page = counted and redis.call('HSCAN', keys.groups, cursor, 'COUNT', limit) or { '0', {} }
  for i = 1, #page[2], 2 do note(examine_group(keys, counted, page[2][i]), page[2][i]) end
  -- And those that should be counted and are not.
  for name in pairs(cursor == '0' and counted or {}) do
    if redis.call('HEXISTS', keys.groups, name) == 0 then note('group-slots', name) end
  end
  cursor = page[1]
else
  local scan = (part == 'scheduled' or part == 'dead') and 'ZSCAN' or 'HSCAN'
  local page = redis.call(scan, keys[part], cursor, 'COUNT', limit)
  local look = part == 'progress' and examine_progress or examine
  for i = 1, #page[2], 2 do
    bytes = bytes + #page[2][i] + #page[2][i + 1]
    note(look(keys, lanes, page[2][i]), page[2][i])
  end
  cursor = page[1]
end
return { OK, cursor, looked, bytes, wrong }
