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
-- Returns {OK, purged}; ids that are not dead are passed over. {OLD} when a later call of this caller was carried out.
-- Cost O(ids log n), n = dead jobs.
local dead, jobs, payloads, stats, events, producers, progress = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local caller, number = ARGV[1], ARGV[2]
local FIRST = 3

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('ZCARD', dead)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
check('HLEN', progress)

local purged, last = 0, nil
for i = FIRST, #ARGV do
  local job_id = ARGV[i]
  if redis.call('ZREM', dead, job_id) == 1 then
    redis.call('HDEL', jobs, job_id)
    redis.call('HDEL', payloads, job_id)
    redis.call('HDEL', progress, job_id)
    purged, last = purged + 1, job_id
  end
end
if purged > 0 then
  tally(stats, 'purged', purged)
  event_of(events, 'purged', last, purged)
  remember(producers, caller, number, ms_of(now_us()), purged)
end
return { OK, purged }
