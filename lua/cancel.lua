-- cancel: scheduled | held | ready | running -> cancelled
-- Calls a job off wherever it is. A running handler learns of it through the wake channel, at the latest when it renews its lease.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled      zset, job id -> due (unix ms)
-- KEYS[2] jobs       millstream:{Q}:jobs           hash, job id -> record
-- KEYS[3] payloads   millstream:{Q}:payloads       hash, job id -> payload
-- KEYS[4] stats      millstream:{Q}:stats          hash, lifetime counters
-- KEYS[5] events     millstream:{Q}:events         stream, capped
-- KEYS[6] producers  millstream:{Q}:producers      hash, caller -> last number and answer
-- KEYS[7] lane       millstream:{Q}:ready          stream for the jobs that may run
-- KEYS[8] next       millstream:{Q}:ready:next     stream that is read first
-- KEYS[9] suspects   millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[10] held      millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[11] groups    millstream:{Q}:groups         hash, group -> slots taken
-- KEYS[12] limits    millstream:{Q}:limits         hash, concurrency of groups
-- KEYS[13] rates     millstream:{Q}:rates          zset, buckets of groups that have a rate
-- KEYS[14] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[15] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- KEYS[16] progress  millstream:{Q}:progress       hash, job id -> what its handlers have told
-- KEYS[17..] unique  millstream:{Q}:unique:*       string, id of the job that holds the key
-- ARGV[1] group      consumer group
-- ARGV[2] caller     who numbers its calls
-- ARGV[3] number     of this call, counting up
-- ARGV[4] job_id     the job
-- ARGV[5] wake       channel on which its worker listens
--
-- Returns {OK, state before}, or with nothing changed {WRONG_STATE, state} or {MISSING}; {OLD} when a later call of this
-- caller was carried out. Cost O(log n), n = scheduled jobs.
local scheduled, jobs, payloads, stats, events, producers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local ready_lane, next_lane, suspects = KEYS[7], KEYS[8], KEYS[9]
local group, caller, number, job_id, wake = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local held, groups, limits, rates, high, low = KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]
local progress, FIRST_UNIQUE = KEYS[16], 17

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('ZCARD', scheduled)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
check('XLEN', ready_lane)
check('XLEN', next_lane)
check('XLEN', suspects)
check('XLEN', high)
check('XLEN', low)
check('HLEN', progress)
use_groups({
  held = held, groups = groups, limits = limits, lane = ready_lane, suspects = suspects, jobs = jobs, payloads = payloads,
  high = high, low = low, rates = rates,
})
for i = FIRST_UNIQUE, #KEYS do check('STRLEN', KEYS[i]) end

local record = read_record(jobs, job_id)
if record and record.state == 'dead' then return { WRONG_STATE, record.state } end

local before
if record and record.state == 'scheduled' then
  redis.call('ZREM', scheduled, job_id)
  redis.call('HDEL', payloads, job_id)
  vacate(record)
  before = 'scheduled'
elseif record and record.state == 'held' then
  let_go(job_id, record)
  redis.call('HDEL', payloads, job_id)
  before = 'held'
else
  -- On a stream: where the record says, or, having never left it, under its own id. Another job may have the same
  -- entry id on another lane, and a job that came back has an entry id that is not its name.
  local lane, entry = ready_lane, job_id
  if record then
    entry = record.entry or ''
    for _, known in ipairs({ next_lane, suspects, high, low }) do
      if record.lane == known then lane = known end
    end
  end
  if not string.find(entry, '^%d+%-%d+$') then return { MISSING } end
  local found = redis.call('XRANGE', lane, entry, entry)[1]
  local job = found and job_of(found[2])
  if job and id_of(job.meta, entry) == job_id then
    before = redis.call('XACK', lane, group, entry) == 1 and 'running' or 'ready'
    withdraw(lane, group, entry)
    vacate(job)
    -- Only a hint: without the right to publish, the renewal tells it.
    redis.pcall('PUBLISH', wake, 'lost ' .. entry .. ' ' .. lane)
  end
end
if not before then return { MISSING } end

redis.call('HDEL', jobs, job_id)
redis.call('HDEL', progress, job_id)
for i = FIRST_UNIQUE, #KEYS do unlock(KEYS[i], job_id) end
tally(stats, 'cancelled', 1)
event(events, 'cancelled', job_id, before)
close_groups()
remember(producers, caller, number, ms_of(now_us()), before)
return { OK, before }
