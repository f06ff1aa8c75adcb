-- release: running -> ready
-- A worker that stops hands its deliveries back. They run next, and no attempt is used.
--
-- KEYS[1] lane       millstream:{Q}:ready*      the stream that delivered the entries
-- KEYS[2] next       millstream:{Q}:ready:next  stream that is read first
-- KEYS[3] jobs       millstream:{Q}:jobs        hash, job id -> record
-- KEYS[4] stats      millstream:{Q}:stats       hash, lifetime counters
-- ARGV[1] group      consumer group
-- ARGV[2..] entries  entry ids, up to 1,000
--
-- Returns {OK, "id id ..."}: the deliveries that were no longer live; they were left alone. Cost O(entries).
local lane, next_lane, jobs, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group = ARGV[1]

check('XLEN', next_lane)
check('HLEN', jobs)
check('HLEN', stats)

local lost, released = {}, 0
for i = 2, #ARGV do
  local job = take(lane, group, ARGV[i])
  if job then
    local job_id = id_of(job.meta, ARGV[i])
    place(next_lane, jobs, job_id, record_of(jobs, job_id, job, 'ready'), job.payload)
    released = released + 1
  else
    lost[#lost + 1] = ARGV[i]
  end
end
if released > 0 then redis.call('HINCRBY', stats, 'released', released) end
return { OK, table.concat(lost, ' ') }
