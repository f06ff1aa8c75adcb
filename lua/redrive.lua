-- redrive: dead -> ready
-- Dead jobs get another life: all their attempts again, stalls forgotten, their errors kept.
--
-- KEYS[1] dead      millstream:{Q}:dead      zset, job id -> died at (unix ms)
-- KEYS[2] lane      millstream:{Q}:ready     stream for the jobs that may run
-- KEYS[3] jobs      millstream:{Q}:jobs      hash, job id -> record
-- KEYS[4] payloads  millstream:{Q}:payloads  hash, job id -> payload
-- KEYS[5] stats     millstream:{Q}:stats     hash, lifetime counters
-- KEYS[6] events    millstream:{Q}:events    stream, capped
-- ARGV[1..] ids     job ids, up to 1,000
--
-- Returns {OK, redriven}; ids that are not dead are passed over. Cost O(ids log n), n = dead jobs.
local dead, lane, jobs, payloads, stats, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

check('ZCARD', dead)
check('XLEN', lane)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)

local redriven, last = 0, nil
for _, job_id in ipairs(ARGV) do
  local record, payload = read_record(jobs, job_id), redis.call('HGET', payloads, job_id)
  if record and payload and record.state == 'dead' then
    local fields = read_meta(record.meta)
    -- A new life is not bound by the old one's unique key and expiry: both were given up when the job died.
    fields.stalls, fields.unique, fields.expires_at_ms = nil, nil, nil
    record.meta, record.attempt, record.reason = cjson.encode(fields), 1, nil
    place(lane, jobs, job_id, record, payload)
    redis.call('HDEL', payloads, job_id)
    redis.call('ZREM', dead, job_id)
    redriven, last = redriven + 1, job_id
  end
end
if redriven > 0 then
  redis.call('HINCRBY', stats, 'redriven', redriven)
  event(events, 'redriven', redriven == 1 and last or '', string.format('%d jobs', redriven))
end
return { OK, redriven }
