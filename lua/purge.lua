-- purge: dead -> gone
-- Removes dead jobs for good.
--
-- KEYS[1] dead      millstream:{Q}:dead      zset, job id -> died at (unix ms)
-- KEYS[2] jobs      millstream:{Q}:jobs      hash, job id -> record
-- KEYS[3] payloads  millstream:{Q}:payloads  hash, job id -> payload
-- KEYS[4] stats     millstream:{Q}:stats     hash, lifetime counters
-- KEYS[5] events    millstream:{Q}:events    stream, capped
-- ARGV[1..] ids     job ids, up to 1,000
--
-- Returns {OK, purged}; ids that are not dead are passed over. Cost O(ids log n), n = dead jobs.
local dead, jobs, payloads, stats, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

check('ZCARD', dead)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)

local purged, last = 0, nil
for _, job_id in ipairs(ARGV) do
  if redis.call('ZREM', dead, job_id) == 1 then
    redis.call('HDEL', jobs, job_id)
    redis.call('HDEL', payloads, job_id)
    purged, last = purged + 1, job_id
  end
end
if purged > 0 then
  redis.call('HINCRBY', stats, 'purged', purged)
  event(events, 'purged', purged == 1 and last or '', string.format('%d jobs', purged))
end
return { OK, purged }
