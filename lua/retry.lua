-- retry: running -> scheduled
-- The handler failed and attempts remain: park the job until its backoff has passed. Or it asked to be called later
-- (snooze): the same, but no attempt is used and no error kept. It waits no longer than until its deadline, when it ends. The next
-- job of its group gets its place.
--
-- KEYS[1] lane       millstream:{Q}:ready*     the stream that delivered the entry
-- KEYS[2] scheduled  millstream:{Q}:scheduled  zset, job id -> due (unix ms)
-- KEYS[3] jobs       millstream:{Q}:jobs       hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads   hash, job id -> payload
-- KEYS[5] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[6] events     millstream:{Q}:events     stream, capped
-- KEYS[7] producers  millstream:{Q}:producers  hash, caller -> last number and answer
-- KEYS[8] held       millstream:{Q}:held       zset, jobs that wait for their group
-- KEYS[9] groups     millstream:{Q}:groups     hash, group -> slots taken
-- KEYS[10] limits    millstream:{Q}:limits     hash, concurrency and order of groups
-- KEYS[11] rates     millstream:{Q}:rates      zset, buckets of groups that have a rate
-- KEYS[12] ready     millstream:{Q}:ready      stream, for the next job of the group
-- KEYS[13] suspects  millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[14] high      millstream:{Q}:ready:high  stream, jobs of high priority
-- KEYS[15] low       millstream:{Q}:ready:low   stream, jobs of low priority
-- ARGV[1] group      consumer group
-- ARGV[2] caller     who numbers its calls
-- ARGV[3] number     of this call, counting up
-- ARGV[4] entry_id   the delivery being given up; the fence
-- ARGV[5] delay_ms   wait from now
-- ARGV[6] charged    1: an attempt failed, 0: snoozed
-- ARGV[7] error      at most 4 KiB, cut by the caller
-- ARGV[8] wake       channel that hears of a new earliest due time
--
-- Returns {OK, due_ms}, {STALE} with nothing changed, or {OLD} when a later call of this caller was carried out.
-- Cost O(log n), n = scheduled jobs.
local lane, scheduled, jobs, payloads = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stats, events, producers = KEYS[5], KEYS[6], KEYS[7]
local held, groups, limits, rates, ready, suspects = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local high, low = KEYS[14], KEYS[15]
local group, caller, number, entry_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local delay_ms, charged, message, wake = tonumber(ARGV[5]), ARGV[6] == '1', ARGV[7], ARGV[8]

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('ZCARD', scheduled)
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

local job = take(lane, group, entry_id)
if not job then return { STALE } end

local us = now_us()
local fields = read_meta(job.meta)
local job_id = fields.id or entry_id
-- It has started in time; expiry is about the wait before that.
fields.expires_at_ms = nil
if job.meta ~= '' then job.meta = cjson.encode(fields) end
if tonumber(fields.deadline_at_ms) then
  delay_ms = math.max(0, math.min(delay_ms, fields.deadline_at_ms - ms_of(us)))
end
-- Where the order of a group holds across retries, the job keeps its slot: so nobody overtakes it meanwhile.
if fields.slot and not group_named(fields.group).blocks then vacate(job) end
local record = record_of(jobs, job_id, job, 'scheduled')
if charged then
  add_error(record, ms_of(us), job.attempt, message)
  record.attempt = job.attempt + 1
  tally(stats, 'failed', 1)
  tally(stats, 'retried', 1)
  event(events, 'retried', job_id, string.format('attempt %d failed, next in %.0f ms', job.attempt, delay_ms))
else
  tally(stats, 'snoozed', 1)
end
park(jobs, payloads, job_id, record, job.payload)
close_groups()

answer = string.format('%.0f', math.ceil(schedule(scheduled, wake, job_id, us, delay_ms)))
remember(producers, caller, number, ms_of(us), answer)
return { OK, answer }
