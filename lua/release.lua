-- release: running -> ready
-- A worker that stops hands its deliveries back. They run next, and no attempt is used.
--
-- KEYS[1] lane       millstream:{Q}:ready*         the stream that delivered the entries
-- KEYS[2] next       millstream:{Q}:ready:next     stream that is read first
-- KEYS[3] suspects   millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[4] jobs       millstream:{Q}:jobs           hash, job id -> record
-- KEYS[5] stats      millstream:{Q}:stats          hash, lifetime counters
-- KEYS[6] producers  millstream:{Q}:producers      hash, caller -> last number and answer
-- ARGV[1] group      consumer group
-- ARGV[2] caller     who numbers its calls
-- ARGV[3] number     of this call, counting up
-- ARGV[4] wake       channel that hears of a suspect
-- ARGV[5..] entries  entry ids, up to 1,000
--
-- Returns {OK, "id id ..."}: the deliveries that were no longer live; they were left alone.
-- {OLD} when a later call of this caller was carried out. Cost O(entries).
local lane, next_lane, suspects, jobs, stats, producers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local group, caller, number, wake = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST = 5

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('XLEN', next_lane)
check('XLEN', suspects)
check('HLEN', jobs)
check('HLEN', stats)

local lost, released = {}, 0
for i = FIRST, #ARGV do
  local job = take(lane, group, ARGV[i])
  if job then
    local job_id = id_of(job.meta, ARGV[i])
    place(next_lane, suspects, wake, jobs, job_id, record_of(jobs, job_id, job, 'ready'), job.payload)
    released = released + 1
  else
    lost[#lost + 1] = ARGV[i]
  end
end
answer = table.concat(lost, ' ')
if released > 0 then
  tally(stats, 'released', released)
  remember(producers, caller, number, ms_of(now_us()), answer)
end
return { OK, answer }
