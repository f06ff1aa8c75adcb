-- purge: dead -> gone
-- Removes dead jobs for good.
--
-- KEYS[1] dead       millstream:{Q}:dead      zset, job id -> died at (unix ms)
-- KEYS[2] jobs       millstream:{Q}:jobs      hash, job id -> record
-- KEYS[3] payloads   millstream:{Q}:payloads  hash, job id -> payload
-- KEYS[4] stats      millstream:{Q}:stats     hash, lifetime counters
-- KEYS[5] events     millstream:{Q}:events    stream, capped
-- KEYS[6] producers  millstream:{Q}:producers  hash, caller -> last number and answer
-- KEYS[7] progress   millstream:{Q}:progress   hash, job id -> what its handlers have told
-- ARGV[1] caller     who numbers its calls
-- ARGV[2] number     of this call, counting up
-- ARGV[3..] ids      job ids, up to 1,000
--
-- Returns {OK, 'purged looked'}; ids that are not dead are passed over. It stops early where the payloads are large: the first
-- `looked` ids are dealt with, at least one. {OLD} when a later call of this caller was carried out.
-- Cost O(ids log n), n = dead jobs, and their bytes up to a bound.
local dead, jobs, payloads, stats, events, producers, progress = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local caller, number = ARGV[1], ARGV[2]
local FIRST = 3
-- A call goes on to the next job as long as it has freed less than this: some 50 us a MiB.
local BYTES_MAX = 16777216

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('ZCARD', dead)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
check('HLEN', progress)

local purged, looked, bytes, last = 0, 0, 0, nil
for i = FIRST, #ARGV do
  if bytes >= BYTES_MAX then break end
  local job_id = ARGV[i]
  looked, bytes = looked + 1, bytes + redis.call('HSTRLEN', payloads, job_id)
  if redis.call('ZREM', dead, job_id) == 1 then
    redis.call('HDEL', jobs, job_id)
    redis.call('HDEL', payloads, job_id)
    redis.call('HDEL', progress, job_id)
    purged, last = purged + 1, job_id
  end
end
local done = string.format('%d %d', purged, looked)
if purged > 0 then
  tally(stats, 'purged', purged)
  event_of(events, 'purged', last, purged)
  remember(producers, caller, number, ms_of(now_us()), done)
end
return { OK, done }
