-- promote: scheduled -> ready
-- Moves due jobs to the stream, the longest due first.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled  zset, job id -> due (unix ms)
-- KEYS[2] lane       millstream:{Q}:ready      stream for the jobs that may run
-- KEYS[3] jobs       millstream:{Q}:jobs       hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads   hash, job id -> payload
-- KEYS[5] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[6] lock       millstream:{Q}:upkeep     string, the worker that does the upkeep
-- ARGV[1] worker     who asks
-- ARGV[2] lock_ms    how long the asker keeps the upkeep
-- ARGV[3] limit      jobs, 1 to 1,000
--
-- Returns {OK, promoted, due_in_us}: microseconds until the next job is due, 0 when more are due now, -1 when none is
-- scheduled. {STANDBY} when another worker does the upkeep. Cost O(limit log n), n = scheduled jobs.
local scheduled, lane, jobs, payloads, stats, lock = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local worker, lock_ms, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])

check('ZCARD', scheduled)
check('XLEN', lane)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
if not leads(lock, worker, lock_ms) then return { STANDBY } end

local us = now_us()
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', ms_of(us), 'LIMIT', 0, limit)
local promoted = 0
for _, job_id in ipairs(due) do
  local record, payload = read_record(jobs, job_id), redis.call('HGET', payloads, job_id)
  if record and payload then
    place(lane, jobs, job_id, record, payload)
    redis.call('HDEL', payloads, job_id)
    promoted = promoted + 1
  else
    -- Somebody deleted the record or the payload by hand: there is nothing left to run, and the other half goes too.
    redis.call('HDEL', jobs, job_id)
    redis.call('HDEL', payloads, job_id)
    redis.call('HINCRBY', stats, 'orphaned', 1)
  end
  redis.call('ZREM', scheduled, job_id)
end
if #due == limit then return { OK, promoted, 0 } end
local first = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
if not first[2] then return { OK, promoted, -1 } end
return { OK, promoted, math.max(0, tonumber(first[2]) * 1000 - us) }
