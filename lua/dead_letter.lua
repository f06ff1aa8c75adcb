-- dead_letter: running -> dead
-- The job is given up: its attempts are used up, its handler refused it, or it expired before it could start.
-- Payload, reason and errors are kept for a look and a redrive.
--
-- KEYS[1] lane       millstream:{Q}:ready*     the stream that delivered the entry
-- KEYS[2] dead       millstream:{Q}:dead       zset, job id -> died at (unix ms)
-- KEYS[3] jobs       millstream:{Q}:jobs       hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads   hash, job id -> payload
-- KEYS[5] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[6] events     millstream:{Q}:events     stream, capped
-- KEYS[7] producers  millstream:{Q}:producers  hash, caller -> last number and answer
-- KEYS[8] held       millstream:{Q}:held       zset, jobs that wait for their group
-- KEYS[9] groups     millstream:{Q}:groups     hash, group -> slots taken
-- KEYS[10] limits    millstream:{Q}:limits     hash, concurrency of groups
-- KEYS[11] rates     millstream:{Q}:rates      zset, buckets of groups that have a rate
-- KEYS[12] ready     millstream:{Q}:ready      stream, for the next job of the group
-- KEYS[13] suspects  millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[14] high      millstream:{Q}:ready:high  stream, jobs of high priority
-- KEYS[15] low       millstream:{Q}:ready:low   stream, jobs of low priority
-- KEYS[16..] unique  millstream:{Q}:unique:*   string, id of the job that holds the key
-- ARGV[1] group      consumer group
-- ARGV[2] caller     who numbers its calls
-- ARGV[3] number     of this call, counting up
-- ARGV[4] entry_id   the delivery being given up; the fence
-- ARGV[5] reason     attempts, refused or expired
-- ARGV[6] error      at most 4 KiB, cut by the caller; for `expired` the script knows it
--
-- Returns {OK, died_ms}, {STALE} with nothing changed, {WRONG_STATE, left_ms} with nothing changed when the reason is `expired`
-- and the job has not (left_ms: until its deadline, -1 without one), or {OLD} when a later call of this caller was carried out.
-- Cost O(log n), n = dead jobs.
local lane, dead, jobs, payloads = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stats, events, producers = KEYS[5], KEYS[6], KEYS[7]
local held, groups, limits, rates, ready, suspects = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local high, low = KEYS[14], KEYS[15]
local FIRST_UNIQUE = 16
local group, caller, number, entry_id, reason, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('ZCARD', dead)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
check('XLEN', ready)
check('XLEN', suspects)
use_groups({
  held = held, groups = groups, limits = limits, lane = ready, suspects = suspects, jobs = jobs, payloads = payloads,
  high = high, low = low, rates = rates,
})
for i = FIRST_UNIQUE, #KEYS do check('STRLEN', KEYS[i]) end

local now = ms_of(now_us())
if reason == 'expired' then
  local found = looked_at(lane, redis.pcall('XRANGE', lane, entry_id, entry_id))
  local fields = found[1] and read_meta(job_of(found[1][2]).meta)
  message = fields and out_of_time(fields, now)
  if fields and not message then
    return { WRONG_STATE, fields.deadline_at_ms and fields.deadline_at_ms - now or -1 }
  end
end
local job = take(lane, group, entry_id)
if not job then return { STALE } end

local job_id = id_of(job.meta, entry_id)
vacate(job)
local record = record_of(jobs, job_id, job, 'dead')
record.reason = reason
add_error(record, now, job.attempt, message)
redis.call('ZADD', dead, now, job_id)
park(jobs, payloads, job_id, record, job.payload)
for i = FIRST_UNIQUE, #KEYS do unlock(KEYS[i], job_id) end
if reason ~= 'expired' then tally(stats, 'failed', 1) end
tally(stats, 'dead', 1)
event(events, 'dead', job_id, reason)
close_groups()

answer = string.format('%.0f', now)
remember(producers, caller, number, now, answer)
return { OK, answer }
