-- promote: scheduled -> ready | held | dead
-- Moves due jobs to the stream, or among the held when their group has no room; the longest due first. One that is out of time
-- goes to the dead letter.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled      zset, job id -> due (unix ms)
-- KEYS[2] lane       millstream:{Q}:ready          stream for the jobs that may run
-- KEYS[3] suspects   millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[4] dead       millstream:{Q}:dead           zset, job id -> died at (unix ms)
-- KEYS[5] jobs       millstream:{Q}:jobs           hash, job id -> record
-- KEYS[6] payloads   millstream:{Q}:payloads       hash, job id -> payload
-- KEYS[7] stats      millstream:{Q}:stats          hash, lifetime counters
-- KEYS[8] events     millstream:{Q}:events         stream, capped
-- KEYS[9] lock       millstream:{Q}:upkeep         string, the worker that does the upkeep
-- KEYS[10] held      millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[11] groups    millstream:{Q}:groups         hash, group -> slots taken
-- KEYS[12] limits    millstream:{Q}:limits         hash, concurrency of groups
-- KEYS[13] rates     millstream:{Q}:rates          zset, buckets of groups that have a rate
-- KEYS[14] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[15] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- ARGV[1] worker     who asks
-- ARGV[2] lock_ms    how long the asker keeps the upkeep
-- ARGV[3] limit      jobs, 1 to 1,000
-- ARGV[4] wake       channel that hears of a suspect
--
-- Returns {OK, promoted, due_in_us, {unique key name, job id ...}, late_us, expired, rated_in_us}: microseconds until the next job is
-- due, 0 when more are due now, -1 when none is scheduled. The named unique keys belonged to jobs that died and may be released. For how
-- long the first of the jobs had been due; how many were out of time; microseconds until `admit` has to look after groups with a
-- rate, -1 when it has not. {STANDBY} when another worker does the upkeep.
-- Cost O(limit log n), n = scheduled jobs.
local scheduled, lane, suspects, dead, jobs, payloads = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local stats, events, lock = KEYS[7], KEYS[8], KEYS[9]
local held, groups, limits, rates, high, low = KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local worker, lock_ms, limit, wake = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

check('ZCARD', scheduled)
check('XLEN', lane)
check('XLEN', suspects)
check('XLEN', high)
check('XLEN', low)
check('ZCARD', dead)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
use_groups({
  held = held, groups = groups, limits = limits, lane = lane, suspects = suspects, jobs = jobs, payloads = payloads,
  stats = stats, wake = wake, high = high, low = low, rates = rates, gathers = true,
})
if not leads(lock, worker, lock_ms) then return { STANDBY } end

local us = now_us()
-- By eighths of a millisecond, as they are filed.
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', math.floor(us / 125) / 8, 'LIMIT', 0, limit)
local promoted, expired, unlocked = 0, 0, {}
local late_us = 0
if due[1] then late_us = math.max(0, us - tonumber(redis.call('ZSCORE', scheduled, due[1])) * 1000) end

-- Ends a job whose time is over; false when it may run.
local function expire(job_id, record)
  -- Looked for as text first: few jobs have such a time, and JSON is dear.
  if not string.find(record.meta, '_at_ms":', 1, true) then return false end
  local is_json, fields = pcall(cjson.decode, record.meta)
  local reason = is_json and type(fields) == 'table' and out_of_time(fields, ms_of(us))
  if not reason then return false end
  vacate(record)
  record.state, record.reason = 'dead', 'expired'
  add_error(record, ms_of(us), record.attempt, reason)
  redis.call('ZADD', dead, ms_of(us), job_id)
  write_record(jobs, job_id, record)
  tally(stats, 'dead', 1)
  expired = expired + 1
  event(events, 'dead', job_id, 'expired')
  if type(fields.unique) == 'string' then
    unlocked[#unlocked + 1] = fields.unique
    unlocked[#unlocked + 1] = job_id
  end
  return true
end

for from = 1, #due, FETCHED_MAX do
  local ids = { unpack(due, from, math.min(#due, from + FETCHED_MAX - 1)) }
  local stored, bodies = redis.call('HMGET', jobs, unpack(ids)), redis.call('HMGET', payloads, unpack(ids))
  for i, job_id in ipairs(ids) do
    local record, payload = record_in(stored[i]), bodies[i]
    if record and payload then
      if not expire(job_id, record) then
        place_in_turn(nil, IN_LINE, job_id, record, payload)
        promoted = promoted + 1
      end
    else
      bury_orphan(dead, jobs, payloads, stats, events, ms_of(us), job_id, record or nil, payload or nil)
    end
  end
end
if #due > 0 then redis.call('ZREM', scheduled, unpack(due)) end
close_groups()
local due_in_us = -1
if #due == limit then
  due_in_us = 0
else
  local first = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
  if first[2] then due_in_us = math.max(0, tonumber(first[2]) * 1000 - us) end
end
return { OK, promoted, due_in_us, unlocked, late_us, expired, turns.quiet and -1 or rated_in(rates, us) }
