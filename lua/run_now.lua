-- run_now: scheduled -> ready
-- An operator does not want to wait: the job runs next.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled   zset, job id -> due (unix ms)
-- KEYS[2] next       millstream:{Q}:ready:next  stream that is read first
-- KEYS[3] jobs       millstream:{Q}:jobs        hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads    hash, job id -> payload
-- ARGV[1] job_id     the scheduled job
--
-- Returns {OK}, or with nothing changed {WRONG_STATE, state} or {MISSING}. Cost O(log n), n = scheduled jobs.
local scheduled, next_lane, jobs, payloads = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local job_id = ARGV[1]

check('ZCARD', scheduled)
check('XLEN', next_lane)
check('HLEN', jobs)
check('HLEN', payloads)

local record, payload = read_record(jobs, job_id), redis.call('HGET', payloads, job_id)
if not record then return { MISSING } end
if record.state ~= 'scheduled' or not payload then return { WRONG_STATE, record.state } end
place(next_lane, jobs, job_id, record, payload)
redis.call('HDEL', payloads, job_id)
redis.call('ZREM', scheduled, job_id)
return { OK }
