-- enqueue: new -> ready
-- The short way, for a call of nothing but jobs that go to the lane at once, as most do: without group, priority and delay, with no
-- unique key but one that is held for a time, whatever becomes of the job. It is what a lone caller waits for, and Redis has slept since
-- the last one: what it touches and runs has to be fetched first, and costs several times what it costs in a row. So it takes the keys
-- that it needs and no other, and for a job by itself it asks for no clock, reads and prints no number and calls no function but Redis's.
-- A caller may go both ways by turns, for both remember his calls in the same place.
--
-- KEYS[1] lane       millstream:{Q}:ready      stream
-- KEYS[2] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[3] producers  millstream:{Q}:producers  hash, caller -> last number and answer
-- KEYS[4] limits     millstream:{Q}:limits     hash, `max_depth` is looked at
-- KEYS[5..] more     millstream:{Q}:unique:*   strings, id of the job that holds the key; in the order of the jobs that have one
-- ARGV[1] caller     who numbers its calls
-- ARGV[2] number     of this call, counting up; all have one length
-- ARGV[3..] jobs     name and payload of a single one that has nothing else to say; else run by run as for `enqueue.lua`, where
--                    options is '' or '!' and the time in ms for which the unique key is held
--
-- Returns "id id ..." without a status, which stands for {OK, "id id ..."} and costs less; with '=' in front it is the id of the job that
-- holds the unique key, and no job was made. {BOUNDED} with nothing changed when the queue has a maximum depth, which takes
-- `enqueue.lua` to look after; {OLD} when a later call of this caller was carried out. Cost O(jobs).
local lane, stats, producers, limits = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local caller, number = ARGV[1], ARGV[2]
local FIRST, FIRST_UNIQUE, LAST = 3, 5, #ARGV
-- Arguments of a job that has nothing to say but its name and payload; and what is in front of the id of a holder.
local ALONE, HELD = 4, string.byte('=')
-- An error is a table, which no answer here is.
local ask = redis.pcall

local last = ask('HGET', producers, caller)
-- Numbers of one length are in the order of their texts, and what is behind the last one makes it no smaller.
if last and (type(last) == 'table' or number <= last) then
  local again, first_answer = replayed(producers, caller, number)
  if again == OK then return first_answer end
  if again then return { again } end
end
local max_depth = ask('HGET', limits, 'max_depth')
if max_depth and looked_at(limits, max_depth) then return { BOUNDED } end

-- Jobs in all: as text where one argument says it, for Redis prints a number with 17 digits.
local told = '1'
if LAST ~= ALONE then
  local counted, run = 0, FIRST
  while run <= LAST do
    local of_run = tonumber(ARGV[run])
    counted = counted + of_run
    run = run + 4 + of_run * (ARGV[run + 2] == '*' and 2 or 1)
  end
  told = run == FIRST + 4 + counted and ARGV[FIRST] or counted
end
-- Who holds the keys: asked for all at once, and hardly any is held.
local holders
if KEYS[FIRST_UNIQUE] then
  holders = {}
  if redis.call('EXISTS', unpack(KEYS, FIRST_UNIQUE)) > 0 then
    for i = FIRST_UNIQUE, #KEYS do
      holders[KEYS[i]] = looked_at(KEYS[i], ask('GET', KEYS[i])) or nil
    end
  end
end
-- The first two writes ask by themselves whether their keys hold what they should: a call that fails changes nothing.
if type(ask('HINCRBY', stats, 'enqueued', told)) == 'table' then
  check('XLEN', lane)
  -- What somebody edited into something that is no number begins anew; what else is wrong this says.
  looked_at(stats, ask('HSET', stats, 'enqueued', told))
end

if LAST == ALONE then
  local id = ask('XADD', lane, '*', 'name', ARGV[3], 'payload', ARGV[4], 'attempt', '1', 'meta', '')
  if type(id) == 'table' then
    redis.call('HINCRBY', stats, 'enqueued', '-1')
    looked_at(lane, id)
  end
  redis.call('HSET', producers, caller, number .. ' ' .. id)
  return id
end

local ids, count, duplicates, key_at, run = {}, 0, 0, FIRST_UNIQUE, FIRST
while run <= LAST do
  local name, meta, options = ARGV[run + 1], ARGV[run + 2], ARGV[run + 3]
  local own_meta = meta == '*'
  local step = own_meta and 2 or 1
  local last_of_run = run + 3 + ARGV[run] * step
  local window = options ~= '' and string.sub(options, 2)
  for i = run + 3 + step, last_of_run, step do
    local key, holder
    count = count + 1
    if window then
      key = KEYS[key_at]
      key_at, holder = key_at + 1, holders[key]
    end
    if holder then
      ids[count] = '=' .. holder
      duplicates = duplicates + 1
    else
      local id = ask('XADD', lane, '*',
        'name', name, 'payload', ARGV[i], 'attempt', '1', 'meta', own_meta and ARGV[i - 1] or meta)
      if type(id) == 'table' then
        if count == duplicates + 1 then redis.call('HINCRBY', stats, 'enqueued', -told) end
        looked_at(lane, id)
      end
      if key then
        redis.call('SET', key, id, 'PX', window)
        holders[key] = id
      end
      ids[count] = id
    end
  end
  run = last_of_run + 1
end
if duplicates > 0 then redis.call('HINCRBY', stats, 'enqueued', -duplicates) end
local answer = table.concat(ids, ' ')
-- The id of a new entry begins with the time, which `prune` looks at.
local at = string.byte(answer) == HELD and redis.call('TIME')[1] .. '000 ' or ''
redis.call('HSET', producers, caller, number .. ' ' .. at .. answer)
return answer
