-- update: scheduled -> scheduled; held -> held | scheduled; ready -> ready | scheduled
-- An operator changes a job that waits: its payload, its priority, or when it is due. One that is put back on a lane goes to its
-- end, and one that was handed back stays among those; one that is held keeps its turn.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled      zset, job id -> due (unix ms)
-- KEYS[2] jobs       millstream:{Q}:jobs           hash, job id -> record
-- KEYS[3] payloads   millstream:{Q}:payloads       hash, job id -> payload
-- KEYS[4] events     millstream:{Q}:events         stream, capped
-- KEYS[5] producers  millstream:{Q}:producers      hash, caller -> last number and answer
-- KEYS[6] lane       millstream:{Q}:ready          stream for the jobs that may run
-- KEYS[7] next       millstream:{Q}:ready:next     stream that is read first
-- KEYS[8] suspects   millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[9] held       millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[10] groups    millstream:{Q}:groups         hash, group -> slots taken
-- KEYS[11] limits    millstream:{Q}:limits         hash, concurrency of groups
-- KEYS[12] rates     millstream:{Q}:rates          zset, buckets of groups that have a rate
-- KEYS[13] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[14] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- ARGV[1] group      consumer group
-- ARGV[2] caller     who numbers its calls
-- ARGV[3] number     of this call, counting up
-- ARGV[4] job_id     the job
-- ARGV[5] wake       channel that hears of a new earliest due time, of a suspect and of a priority
-- ARGV[6] changes    JSON, what is said of it changes:
--                    payload   true: the payload, which was written for the job name `name` and sealed with the key `sealed`, if any
--                    priority  high, normal or low
--                    delay_ms  wait from now; 0 for a job that is ready or held leaves it there
-- ARGV[7] payload    the new payload
--
-- Returns {OK, state after}, or with nothing changed {WRONG_STATE, state}, {MISSING}, {STALE} when the job has another name;
-- {OLD} when a later call of this caller was carried out. Cost O(log n), n = scheduled jobs.
local scheduled, jobs, payloads, events, producers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lanes, next_lane, suspects = { KEYS[6], KEYS[7], KEYS[8], KEYS[13], KEYS[14] }, KEYS[7], KEYS[8]
local held, groups, limits, rates, high, low = KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local group, caller, number, job_id, wake = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local changes, new_payload = cjson.decode(ARGV[6]), ARGV[7]

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('ZCARD', scheduled)
check('HLEN', jobs)
check('HLEN', payloads)
check('XLEN', events)
for _, lane in ipairs(lanes) do check('XLEN', lane) end
use_groups({
  held = held, groups = groups, limits = limits, lane = lanes[1], suspects = suspects, jobs = jobs, payloads = payloads,
  wake = wake, high = high, low = low, rates = rates,
})

local us = now_us()
local job = found(job_id, lanes, jobs, group)
if not job then return { MISSING } end
if not waits(job) then return { WRONG_STATE, job.state } end
local on_lane = job.lane ~= nil
local payload = on_lane and job.job.payload or redis.call('HGET', payloads, job_id)
local record = on_lane and record_of(jobs, job_id, job.job, 'ready') or job.record
local is_json, fields = pcall(read_meta, record.meta)
-- Of what somebody broke by hand nothing can be made.
if not payload or not is_json or type(fields) ~= 'table' then return { WRONG_STATE, job.state } end
if changes.name and changes.name ~= record.name then return { STALE } end

if changes.payload then
  payload, fields.sealed = new_payload, changes.sealed
  record.payload_bytes = #payload
end
if changes.priority then fields.priority = changes.priority ~= 'normal' and changes.priority or nil end
local is_changed = changes.payload or changes.priority
if is_changed then record.meta = cjson.encode(fields) end
local delay_ms = changes.delay_ms
if delay_ms then
  -- It waits no longer than until it is out of time, when it ends.
  local ends_at = math.min(tonumber(fields.expires_at_ms) or math.huge, tonumber(fields.deadline_at_ms) or math.huge)
  delay_ms = math.max(0, math.min(delay_ms, ends_at - ms_of(us)))
end

local is_delayed = delay_ms and changes.delay_ms > 0
if job.state == 'scheduled' or is_delayed then
  record.state = 'scheduled'
  if job.state == 'held' then let_go(job_id, record) end
  if on_lane then vacate(record) end
  park(jobs, payloads, job_id, record, payload)
  if delay_ms then schedule(scheduled, wake, job_id, us, delay_ms) end
elseif job.state == 'held' then
  park(jobs, payloads, job_id, record, payload)
elseif is_changed then
  local lane = job.lane == next_lane and next_lane or lane_of(turns, wake, record.meta)
  place(lane, suspects, wake, jobs, job_id, record, payload)
end
if on_lane and (record.state == 'scheduled' or is_changed) then withdraw(job.lane, group, job.entry) end

close_groups()

local changed = {}
if changes.payload then changed[#changed + 1] = 'payload' end
if changes.priority then changed[#changed + 1] = 'priority' end
if delay_ms then changed[#changed + 1] = 'due' end
event(events, 'updated', job_id, table.concat(changed, ', '))
remember(producers, caller, number, ms_of(us), record.state)
return { OK, record.state }
