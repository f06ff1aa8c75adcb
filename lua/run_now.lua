-- run_now: scheduled | held -> ready | held
-- An operator does not want to wait: the job runs next, or next in its group when that has no room.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled      zset, job id -> due (unix ms)
-- KEYS[2] next       millstream:{Q}:ready:next     stream that is read first
-- KEYS[3] suspects   millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[4] jobs       millstream:{Q}:jobs           hash, job id -> record
-- KEYS[5] payloads   millstream:{Q}:payloads       hash, job id -> payload
-- KEYS[6] producers  millstream:{Q}:producers      hash, caller -> last number and answer
-- KEYS[7] held       millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[8] groups     millstream:{Q}:groups         hash, group -> slots taken
-- KEYS[9] limits     millstream:{Q}:limits         hash, concurrency of groups
-- KEYS[10] rates     millstream:{Q}:rates          zset, buckets of groups that have a rate
-- KEYS[11] stats     millstream:{Q}:stats          hash, lifetime counters
-- KEYS[12] lane      millstream:{Q}:ready          stream for the jobs that may run
-- KEYS[13] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[14] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- ARGV[1] caller     who numbers its calls
-- ARGV[2] number     of this call, counting up
-- ARGV[3] job_id     the scheduled job
-- ARGV[4] wake       channel that hears of a suspect
--
-- Returns {OK}, or with nothing changed {WRONG_STATE, state} or {MISSING}; {OLD} when a later call of this caller was
-- carried out. Cost O(log n), n = scheduled jobs.
local scheduled, next_lane, suspects, jobs, payloads, producers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local held, groups, limits, rates, stats, lane, high, low = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local caller, number, job_id, wake = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('ZCARD', scheduled)
check('XLEN', next_lane)
check('XLEN', suspects)
check('XLEN', lane)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
use_groups({
  held = held, groups = groups, limits = limits, lane = lane, suspects = suspects, jobs = jobs, payloads = payloads, stats = stats,
  wake = wake, high = high, low = low, rates = rates,
})

local record, payload = read_record(jobs, job_id), redis.call('HGET', payloads, job_id)
if not record then return { MISSING } end
if not payload or record.state ~= 'scheduled' and record.state ~= 'held' then return { WRONG_STATE, record.state } end
local was_held = record.state == 'held'
if was_held then let_go(job_id, record) end
place_in_turn(next_lane, IN_FRONT, job_id, record, payload)
if not was_held then redis.call('ZREM', scheduled, job_id) end
close_groups()
remember(producers, caller, number, ms_of(now_us()), '')
return { OK }
