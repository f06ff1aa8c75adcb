-- reclaim: running -> ready | dead
-- Takes jobs from workers that have stopped renewing their leases. They run next; one that is a stall short of a crash loop
-- waits among the suspects, and one that has stalled too often kills its workers and goes to the dead letter.
--
-- When nobody has asked for half a lease, or ever, Redis itself was away, or every worker was: then the living get half a lease
-- to renew before anything is taken from them. Whoever stands by has asked too: the end of one worker is no silence of all.
--
-- KEYS[1] next       millstream:{Q}:ready:next     stream that is read first
-- KEYS[2] suspects   millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[3] dead       millstream:{Q}:dead           zset, job id -> died at (unix ms)
-- KEYS[4] jobs       millstream:{Q}:jobs           hash, job id -> record
-- KEYS[5] payloads   millstream:{Q}:payloads       hash, job id -> payload
-- KEYS[6] stats      millstream:{Q}:stats          hash, lifetime counters; swept_ms and grace_until_ms
-- KEYS[7] events     millstream:{Q}:events         stream, capped
-- KEYS[8] lock       millstream:{Q}:upkeep         string, the worker that does the upkeep
-- KEYS[9] held       millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[10] groups    millstream:{Q}:groups         hash, group -> slots taken
-- KEYS[11] limits    millstream:{Q}:limits         hash, concurrency of groups
-- KEYS[12] rates     millstream:{Q}:rates          zset, buckets of groups that have a rate
-- KEYS[13] ready     millstream:{Q}:ready          stream, for the next job of a group
-- KEYS[14] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[15] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- KEYS[16..] lanes   millstream:{Q}:ready*         the streams that are swept
-- ARGV[1] group      consumer group
-- ARGV[2] worker     who asks
-- ARGV[3] lock_ms    how long the asker keeps the upkeep
-- ARGV[4] lease_ms   silence after which a job counts as stalled
-- ARGV[5] stalls     at this number of stalls a job is dead
-- ARGV[6] lane       number of the lane to begin with, from 1
-- ARGV[7] cursor     0-0, or where the last call left off in that lane
-- ARGV[8] limit      jobs, 1 to 100; ten times as many entries of each lane are looked at
-- ARGV[9] wake       channel that hears of a suspect
--
-- Returns {OK, lane, cursor, reclaimed, dead, {unique key name, job id ...}}; go on there unless the lane is 0. The named
-- unique keys belonged to jobs that died and may be released. {STANDBY} when another worker does the upkeep. Cost O(limit).
local next_lane, suspects, dead, jobs, payloads = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local stats, events, lock = KEYS[6], KEYS[7], KEYS[8]
local held, groups, limits, rates, ready, high, low = KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local FIRST_LANE = 16
local group, worker, lock_ms, lease_ms, stalls_max = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local lane_number, cursor, limit, wake = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), ARGV[9]

check('XLEN', next_lane)
check('XLEN', suspects)
check('ZCARD', dead)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
check('XLEN', ready)
use_groups({
  held = held, groups = groups, limits = limits, lane = ready, suspects = suspects, jobs = jobs, payloads = payloads,
  high = high, low = low, rates = rates,
})
for i = FIRST_LANE, #KEYS do check('XLEN', KEYS[i]) end
local now = ms_of(now_us())
local times = redis.call('HMGET', stats, 'swept_ms', 'grace_until_ms')
local swept, grace_until = tonumber(times[1]), tonumber(times[2])
local leading = leads(lock, worker, lock_ms)
local times_now = { 'swept_ms', now }
if not swept or now - swept > lease_ms / 2 then
  -- Also by one who stands by: whoever asks after him sees no silence any more.
  grace_until = now + lease_ms / 2
  times_now[3], times_now[4] = 'grace_until_ms', string.format('%.0f', grace_until)
end
-- Redis may have no memory for it; whoever leads has written before and is not asked.
redis.pcall('HSET', stats, unpack(times_now))
if not leading then return { STANDBY } end

-- A grace that ends later than any could was given before the clock was set back.
if grace_until and now < grace_until and grace_until - now <= lease_ms then return { OK, 0, '0-0', 0, 0, {} } end

local reclaimed, died, orphaned, unlocked = 0, 0, 0, {}

-- Takes a job from its silent worker.
local function take_back(lane, entry_id)
  local job = take(lane, group, entry_id)
  if not job then return end
  local fields = read_meta(job.meta)
  local job_id = fields.id or entry_id
  fields.id = job_id
  fields.stalls = (fields.stalls or 0) + 1
  job.meta = cjson.encode(fields)
  if fields.stalls < stalls_max then
    place(next_lane, suspects, wake, jobs, job_id, record_of(jobs, job_id, job, 'ready'), job.payload)
    event(events, 'stalled', job_id, string.format('stall %d', fields.stalls))
    reclaimed = reclaimed + 1
    return
  end
  vacate(job)
  local record = record_of(jobs, job_id, job, 'dead')
  record.reason = 'crash_loop'
  add_error(record, now, job.attempt, string.format('its worker went silent %d times', fields.stalls))
  redis.call('ZADD', dead, now, job_id)
  park(jobs, payloads, job_id, record, job.payload)
  event(events, 'dead', job_id, 'crash_loop')
  if fields.unique then
    unlocked[#unlocked + 1] = fields.unique
    unlocked[#unlocked + 1] = job_id
  end
  died = died + 1
end

local next_number = 0
for i = FIRST_LANE + lane_number - 1, #KEYS do
  local sweep = redis.pcall('XAUTOCLAIM', KEYS[i], group, worker, lease_ms, cursor, 'COUNT', limit - reclaimed - died)
  -- Without a group nothing is running there; the workers' reads make it anew. What was found before must be counted.
  if sweep.err then
    if not string.find(sweep.err, 'NOGROUP', 1, true) then error(sweep) end
    sweep = { '0-0', {} }
  end
  for _, entry in ipairs(sweep[2]) do take_back(KEYS[i], entry[1]) end
  -- Entries that somebody deleted by hand while they were running; the server has dropped them from the pending list.
  orphaned = orphaned + (sweep[3] and #sweep[3] or 0)
  cursor = sweep[1]
  if cursor ~= '0-0' then
    next_number = i - FIRST_LANE + 1
    break
  elseif reclaimed + died >= limit then
    next_number = i < #KEYS and i - FIRST_LANE + 2 or 0
    break
  end
end
close_groups()
if orphaned > 0 then tally(stats, 'orphaned', orphaned) end
if reclaimed + died > 0 then tally(stats, 'stalled', reclaimed + died) end
if died > 0 then tally(stats, 'dead', died) end
return { OK, next_number, cursor, reclaimed, died, unlocked }
