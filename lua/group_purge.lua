-- group_purge: scheduled | held | ready | running | dead -> gone
-- Removes jobs of a group for good, wherever they are. A handler that runs one of them learns of it through the wake channel, at
-- the latest when it renews its lease.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled      zset, job id -> due (unix ms)
-- KEYS[2] dead       millstream:{Q}:dead           zset, job id -> died at (unix ms)
-- KEYS[3] jobs       millstream:{Q}:jobs           hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads       hash, job id -> payload
-- KEYS[5] stats      millstream:{Q}:stats          hash, lifetime counters
-- KEYS[6] events     millstream:{Q}:events         stream, capped
-- KEYS[7] producers  millstream:{Q}:producers      hash, caller -> last number and answer
-- KEYS[8] lane       millstream:{Q}:ready          stream for the jobs that may run
-- KEYS[9] next       millstream:{Q}:ready:next     stream that is read first
-- KEYS[10] suspects  millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[11] held      millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[12] groups    millstream:{Q}:groups         hash, group -> slots taken
-- KEYS[13] limits    millstream:{Q}:limits         hash, concurrency of groups
-- KEYS[14] rates     millstream:{Q}:rates          zset, buckets of groups that have a rate
-- KEYS[15] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[16] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- KEYS[17] progress  millstream:{Q}:progress       hash, job id -> what its handlers have told
-- ARGV[1] group      consumer group
-- ARGV[2] caller     who numbers its calls
-- ARGV[3] number     of this call, counting up
-- ARGV[4] of_group   the group whose jobs are purged
-- ARGV[5] total      how many were purged in all, told in an event; 0 while the work goes on
-- ARGV[6] wake       channel on which workers listen
-- ARGV[7..] ids      job ids, up to 1,000
--
-- Returns {OK, JSON}: how many were purged, how many were looked at, and unique key name and job id of each that held one and may be
-- released. Ids that are nowhere, or are jobs of another group, are passed over. It stops early where the payloads are large: the
-- first `looked` ids are dealt with, at least one. {OLD} when a later call of this caller was carried out.
-- Cost O(ids log n), n = jobs, and their bytes up to a bound.
local scheduled, dead, jobs, payloads, stats, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local producers, lanes = KEYS[7], { KEYS[8], KEYS[9], KEYS[10], KEYS[15], KEYS[16] }
local held, groups, limits, rates, progress = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[17]
local group, caller, number, of_group, total, wake = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local FIRST = 7
-- A call goes on to the next job as long as it is below this. What is on a stream is read, what is off the streams only freed.
local BYTES_MAX, FREED_BYTES_PER_BYTE = 1048576, 16

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('ZCARD', scheduled)
check('ZCARD', dead)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
for _, lane in ipairs(lanes) do check('XLEN', lane) end
check('HLEN', progress)
use_groups({
  held = held, groups = groups, limits = limits, lane = lanes[1], suspects = lanes[3], jobs = jobs, payloads = payloads,
  wake = wake, rates = rates, high = lanes[4], low = lanes[5],
})

local purged, looked, bytes, died, unlocked = 0, 0, 0, 0, {}

local function purge(job_id)
  local job = found(job_id, lanes, jobs, group)
  local payload = job and job.job and job.job.payload
  bytes = bytes + (payload and #payload or redis.call('HSTRLEN', payloads, job_id) / FREED_BYTES_PER_BYTE)
  local told = job and (job.job or job.record)
  local fields = told and grouped(told.meta)
  if not fields or fields.group ~= of_group then return end
  if job.lane then
    redis.pcall('XACK', job.lane, group, job.entry)
    withdraw(job.lane, group, job.entry)
    -- Only a hint: without the right to publish, the renewal tells it.
    if job.state == 'running' then redis.pcall('PUBLISH', wake, 'lost ' .. job.entry .. ' ' .. job.lane) end
  elseif job.state == 'scheduled' then
    redis.call('ZREM', scheduled, job_id)
  elseif job.state == 'held' then
    let_go(job_id, job.record)
  else
    redis.call('ZREM', dead, job_id)
    died = died + 1
  end
  vacate(told)
  redis.call('HDEL', jobs, job_id)
  redis.call('HDEL', payloads, job_id)
  redis.call('HDEL', progress, job_id)
  -- A dead job has given its key up.
  if job.state ~= 'dead' and type(fields.unique) == 'string' then
    unlocked[#unlocked + 1] = fields.unique
    unlocked[#unlocked + 1] = job_id
  end
  purged = purged + 1
end

for i = FIRST, #ARGV do
  if bytes >= BYTES_MAX then break end
  looked = looked + 1
  purge(ARGV[i])
end
close_groups()
if died > 0 then tally(stats, 'purged', died) end
if purged > died then tally(stats, 'cancelled', purged - died) end
if total > 0 then event(events, 'purged', '', string.format('group %s: %.0f jobs', of_group, total)) end
-- An empty list and an empty object are the same to cjson.
answer = cjson.encode({ purged = purged, looked = looked, unlock = #unlocked > 0 and unlocked or nil })
remember(producers, caller, number, ms_of(now_us()), answer)
return { OK, answer }
