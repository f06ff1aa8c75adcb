-- mend: no job moves
-- Gives what `audit` found a home again, or takes away what is too much. Each is judged anew: one that is well by now, or ails from
-- something else, is left alone. A job that has a home stays in it; one that cannot be run any more goes to the dead letter with
-- what is left of it.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled      zset, job id -> due (unix ms)
-- KEYS[2] dead       millstream:{Q}:dead           zset, job id -> died at (unix ms)
-- KEYS[3] jobs       millstream:{Q}:jobs           hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads       hash, job id -> payload
-- KEYS[5] held       millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[6] groups     millstream:{Q}:groups         hash, group -> slots taken
-- KEYS[7] limits     millstream:{Q}:limits         hash, concurrency of groups
-- KEYS[8] rates      millstream:{Q}:rates          zset, buckets of groups that have a rate
-- KEYS[9] stats      millstream:{Q}:stats          hash, lifetime counters
-- KEYS[10] events     millstream:{Q}:events         stream, capped
-- KEYS[11] next      millstream:{Q}:ready:next     stream of the jobs that are read first
-- KEYS[12] ready     millstream:{Q}:ready          stream for the jobs that may run
-- KEYS[13] suspects  millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[14] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[15] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- KEYS[16] progress  millstream:{Q}:progress       hash, job id -> what its handlers have told
-- KEYS[17..] lanes   millstream:{Q}:ready*         streams
-- ARGV[1] group      consumer group
-- ARGV[2] wake       channel on which workers listen
-- ARGV[3] kind       what is wrong, in a word of `audit`
-- ARGV[4] lane       the number of the lane, from 1, for entries
-- ARGV[5..] ids      of jobs or entries, or members of `rates`, up to 100
--
-- Returns {OK, mended}. Cost O(ids log n), n = jobs.
local keys = { scheduled = KEYS[1], dead = KEYS[2], jobs = KEYS[3], payloads = KEYS[4], held = KEYS[5] }
local groups = KEYS[6]
local limits, rates, stats, events, next_lane, ready, suspects = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local high, low, progress, lanes = KEYS[14], KEYS[15], KEYS[16], { unpack(KEYS, 17) }
local group, wake, kind, lane = ARGV[1], ARGV[2], ARGV[3], lanes[tonumber(ARGV[4])]
local FIRST = 5

check('ZCARD', keys.scheduled)
check('ZCARD', keys.dead)
check('HLEN', keys.jobs)
check('HLEN', keys.payloads)
check('HLEN', stats)
check('XLEN', events)
check('XLEN', next_lane)
check('XLEN', ready)
check('XLEN', suspects)
check('XLEN', high)
check('XLEN', low)
check('HLEN', progress)
for i = 1, #lanes do check('XLEN', lanes[i]) end
use_groups({
  held = keys.held, groups = groups, limits = limits, lane = ready, suspects = suspects, jobs = keys.jobs,
  payloads = keys.payloads, stats = stats, high = high, low = low, rates = rates,
})

local us = now_us()
local now = ms_of(us)

-- To the dead letter, with what is left: nobody knows any more how to run it.
local function bury(job_id, record, payload, why)
  record = record or { name = 'orphaned payload', attempt = 1, meta = cjson.encode({ id = job_id }) }
  if record.state == 'held' then let_go(job_id, record) end
  vacate(record)
  record.state, record.reason, record.payload_bytes = 'dead', 'orphaned', #(payload or '')
  record.lane, record.entry, record.turn = nil, nil, nil
  if why then add_error(record, now, record.attempt, why) end
  if not redis.call('ZSCORE', keys.dead, job_id) then
    redis.call('ZADD', keys.dead, now, job_id)
    tally(stats, 'dead', 1)
  end
  park(keys.jobs, keys.payloads, job_id, record, payload or '')
  redis.call('ZREM', keys.scheduled, job_id)
  tally(stats, 'orphaned', 1)
  event(events, 'orphaned', job_id, kind)
end

local function record_and_payload(job_id)
  return read_record(keys.jobs, job_id), redis.call('HGET', keys.payloads, job_id)
end

local remedies = {
  ['unreadable-record'] = function(job_id)
    local text, payload = redis.call('HGET', keys.jobs, job_id), redis.call('HGET', keys.payloads, job_id)
    bury(job_id, nil, payload, is_utf8(text) and 'its record could not be read: ' .. string.sub(text, 1, 1000) or nil)
  end,
  ['missing-record'] = function(job_id)
    local payload = redis.call('HGET', keys.payloads, job_id)
    if payload then return bury(job_id, nil, payload) end
    redis.call('ZREM', keys.scheduled, job_id)
    redis.call('ZREM', keys.dead, job_id)
    tally(stats, 'orphaned', 1)
    event(events, 'orphaned', job_id, kind)
  end,
  ['orphan-payload'] = function(job_id)
    bury(job_id, nil, redis.call('HGET', keys.payloads, job_id))
  end,
  ['missing-payload'] = function(job_id)
    bury(job_id, read_record(keys.jobs, job_id), nil)
  end,
  ['stray-payload'] = function(job_id)
    redis.call('HDEL', keys.payloads, job_id)
  end,
  ['two-homes'] = function(job_id)
    local record = read_record(keys.jobs, job_id)
    if record.state ~= 'scheduled' then redis.call('ZREM', keys.scheduled, job_id) end
    if record.state ~= 'dead' then redis.call('ZREM', keys.dead, job_id) end
    if record.state == 'ready' then redis.call('HDEL', keys.payloads, job_id) end
  end,
  ['wrong-state'] = function(job_id)
    local record, payload = record_and_payload(job_id)
    if not payload then return bury(job_id, record, nil) end
    record.state = redis.call('ZSCORE', keys.dead, job_id) and 'dead' or 'scheduled'
    record.reason = record.state == 'dead' and (record.reason or 'orphaned') or nil
    record.lane, record.entry, record.turn, record.payload_bytes = nil, nil, nil, #payload
    write_record(keys.jobs, job_id, record)
  end,
  ['lost-place'] = function(job_id)
    local record, payload = record_and_payload(job_id)
    if not payload then return bury(job_id, record, nil) end
    if record.state == 'dead' then return redis.call('ZADD', keys.dead, now, job_id) end
    if record.state == 'held' then
      record.turn = nil
      return place_in_turn(nil, IN_LINE, job_id, record, payload)
    end
    schedule(keys.scheduled, wake, job_id, us, 0)
  end,
  ['record-without-entry'] = function(job_id)
    local record, payload = record_and_payload(job_id)
    if not payload then return bury(job_id, record, nil) end
    place(next_lane, suspects, wake, keys.jobs, job_id, record, payload)
    redis.call('HDEL', keys.payloads, job_id)
  end,
}

-- Remedies for an entry return whether they could be applied: what a worker has in its hands is left to it.
local entry_remedies = {
  ['foreign-entry'] = function(entry)
    if is_pending(lane, group, entry[1]) then return false end
    local job = job_of(entry[2])
    bury(entry[1], { name = job.name, attempt = 1, meta = cjson.encode({ id = entry[1] }) }, job.payload)
    withdraw(lane, group, entry[1])
    return true
  end,
  ['lost-delivery'] = function(entry)
    local job = job_of(entry[2])
    local job_id = id_of(job.meta, entry[1])
    place(next_lane, suspects, wake, keys.jobs, job_id, record_of(keys.jobs, job_id, job, 'ready'), job.payload)
    redis.call('XDEL', lane, entry[1])
    return true
  end,
  ['entry-without-record'] = function(entry)
    local job = job_of(entry[2])
    local record = record_of(keys.jobs, id_of(job.meta, entry[1]), job, 'ready')
    record.lane, record.entry = lane, entry[1]
    write_record(keys.jobs, id_of(job.meta, entry[1]), record)
    return true
  end,
  ['second-entry'] = function(entry)
    if is_pending(lane, group, entry[1]) then return false end
    local job = job_of(entry[2])
    local job_id = id_of(job.meta, entry[1])
    -- The home that the record names is the one, if there is a job in it.
    if not examine(keys, lanes, job_id) then return withdraw(lane, group, entry[1]) == 1 end
    local record = record_of(keys.jobs, job_id, job, 'ready')
    record.lane, record.entry, record.reason = lane, entry[1], nil
    write_record(keys.jobs, job_id, record)
    redis.call('HDEL', keys.payloads, job_id)
    return true
  end,
}

-- What is wrong now, and the remedy, called without arguments.
local function diagnosed(id)
  if remedies[kind] then
    return examine(keys, lanes, id), function()
      remedies[kind](id)
      return true
    end
  end
  if kind == 'orphan-progress' then
    local is_there = redis.call('HEXISTS', progress, id) == 1
    return is_there and examine_progress(keys, lanes, id) or nil, function() return redis.call('HDEL', progress, id) == 1 end
  end
  if kind == 'broken-rate' then
    return examine_rate(rates, limits, id, us), function()
      -- A bucket without an entry is full. Whoever waits for it gets another time.
      local name = string.match(id, '^%a+' .. US .. '(.+)$')
      if name then look_after(group_named(name)) end
      return redis.call('ZREM', rates, id) == 1
    end
  end
  if not string.find(id, '^%d+%-%d+$') then return nil end
  local entry = redis.call('XRANGE', lane, id, id)[1]
  if not entry then
    return is_pending(lane, group, id) and 'dangling-pending' or nil, function()
      return redis.call('XACK', lane, group, id) == 1
    end
  end
  return examine_entry(keys.jobs, lane, group, last_delivered(lane, group), entry), function()
    return entry_remedies[kind](entry)
  end
end

local mended, last = 0, ''
for i = FIRST, #ARGV do
  local found, remedy = diagnosed(ARGV[i])
  if found == kind and remedy() then
    mended, last = mended + 1, remedies[kind] and ARGV[i] or ''
  end
end
close_groups()
if mended > 0 then event_of(events, 'mended', last, mended) end
return { OK, mended }
