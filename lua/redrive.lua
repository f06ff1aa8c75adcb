-- redrive: dead -> ready | held
-- Dead jobs get another life: all their attempts again, stalls forgotten, their errors kept.
--
-- KEYS[1] dead       millstream:{Q}:dead      zset, job id -> died at (unix ms)
-- KEYS[2] lane       millstream:{Q}:ready     stream for the jobs that may run
-- KEYS[3] jobs       millstream:{Q}:jobs      hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads  hash, job id -> payload
-- KEYS[5] stats      millstream:{Q}:stats     hash, lifetime counters
-- KEYS[6] events     millstream:{Q}:events    stream, capped
-- KEYS[7] producers  millstream:{Q}:producers  hash, caller -> last number and answer
-- KEYS[8] held       millstream:{Q}:held      zset, jobs that wait for their group
-- KEYS[9] groups     millstream:{Q}:groups    hash, group -> slots taken
-- KEYS[10] limits    millstream:{Q}:limits    hash, concurrency of groups
-- KEYS[11] rates     millstream:{Q}:rates     zset, buckets of groups that have a rate
-- KEYS[12] high      millstream:{Q}:ready:high  stream, jobs of high priority
-- KEYS[13] low       millstream:{Q}:ready:low   stream, jobs of low priority
-- ARGV[1] caller     who numbers its calls
-- ARGV[2] number     of this call, counting up
-- ARGV[3] wake       channel on which workers listen
-- ARGV[4..] ids      job ids, up to 1,000
--
-- Returns {OK, 'redriven looked'}; ids that are not dead are passed over. It stops early where the jobs are large: the first
-- `looked` ids are dealt with, at least one. {OLD} when a later call of this caller was carried out.
-- Cost O(ids log n), n = dead jobs, and their bytes up to a bound.
local dead, lane, jobs, payloads, stats, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local producers, held, groups, limits, rates, high, low = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local caller, number, wake = ARGV[1], ARGV[2], ARGV[3]
local FIRST = 4
-- A call goes on to the next job as long as it is below this. A record is decoded and encoded again, a payload only copied.
local BYTES_MAX, BYTES_PER_RECORD_BYTE = 1048576, 8

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('ZCARD', dead)
check('XLEN', lane)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
check('XLEN', high)
check('XLEN', low)
-- A job that begins anew is no suspect.
use_groups({
  held = held, groups = groups, limits = limits, lane = lane, suspects = lane, jobs = jobs, payloads = payloads, stats = stats,
  wake = wake, high = high, low = low, rates = rates,
})

local redriven, looked, bytes, last = 0, 0, 0, nil
for i = FIRST, #ARGV do
  if bytes >= BYTES_MAX then break end
  local job_id = ARGV[i]
  bytes = bytes + BYTES_PER_RECORD_BYTE * redis.call('HSTRLEN', jobs, job_id)
  local record, payload = read_record(jobs, job_id), redis.call('HGET', payloads, job_id)
  looked, bytes = looked + 1, bytes + #(payload or '')
  -- Of a record that somebody broke by hand nothing can be made; the others come back all the same.
  local is_whole, fields = pcall(read_meta, record and record.meta or '')
  if record and payload and record.state == 'dead' and is_whole then
    -- A new life is not bound by the old one's unique key and times: they were given up when the job died.
    fields.stalls, fields.unique, fields.expires_at_ms, fields.deadline_at_ms = nil, nil, nil, nil
    record.meta, record.attempt, record.reason = cjson.encode(fields), 1, nil
    place_in_turn(nil, IN_LINE, job_id, record, payload)
    redis.call('ZREM', dead, job_id)
    redriven, last = redriven + 1, job_id
  end
end
close_groups()
local done = string.format('%d %d', redriven, looked)
if redriven > 0 then
  tally(stats, 'redriven', redriven)
  event_of(events, 'redriven', last, redriven)
  remember(producers, caller, number, ms_of(now_us()), done)
end
return { OK, done }
