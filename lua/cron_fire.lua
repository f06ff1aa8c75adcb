-- cron_fire: new -> ready | held
-- Makes the jobs of a schedule's slots, and sets its next due time, in one step. Only if it is still due at the time that
-- the caller has seen and defined as the caller has read it: so a slot is fired once, whoever tries.
--
-- KEYS[1] cron        millstream:{Q}:cron      hash, what is kept of a schedule
-- KEYS[2] due         millstream:{Q}:cron:due  zset, schedule -> next due (unix ms)
-- KEYS[3] lane        millstream:{Q}:ready     stream for the jobs that may run at once
-- KEYS[4] jobs        millstream:{Q}:jobs      hash, job id -> record
-- KEYS[5] stats       millstream:{Q}:stats     hash, lifetime counters
-- KEYS[6] events      millstream:{Q}:events    stream, capped
-- KEYS[7] payloads    millstream:{Q}:payloads  hash, job id -> payload
-- KEYS[8] held        millstream:{Q}:held      zset, jobs that wait for their group
-- KEYS[9] groups      millstream:{Q}:groups    hash, group -> slots taken
-- KEYS[10] limits     millstream:{Q}:limits    hash, concurrency of groups
-- KEYS[11] rates      millstream:{Q}:rates     zset, buckets of groups that have a rate
-- KEYS[12] suspects   millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[13] high       millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[14] low        millstream:{Q}:ready:low      stream, jobs of low priority
-- ARGV[1] schedule    its id
-- ARGV[2] version     of the definition that the caller has read
-- ARGV[3] due_ms      the due time that the caller has seen
-- ARGV[4] next_ms     the next one, or inf for none
-- ARGV[5] overlap     allow, or skip: no job while the last one is unfinished
-- ARGV[6] name        of the jobs
-- ARGV[7] expires_ms  how long a job may wait before it starts; 0 for ever
-- ARGV[8] deadline_ms how long it may take in all, retries included; 0 for ever
-- ARGV[9] tells       1: write an event for each job; a schedule of every second would push all others out
-- ARGV[10] missed     which slots were missed and are not made up for, in words; '' for none
-- ARGV[11..] slots   two per slot, up to 100: unix ms, and the meta of its job; the job's id is there if it has a priority
--
-- Returns {OK, "id id ...", holder}: holder is the unfinished job because of which slots were skipped, or ''.
-- {STALE} with nothing changed when somebody else has fired it, or it was changed. Cost O(slots + log n), n = schedules.
local cron, due, lane, jobs, stats, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local payloads, held, groups, limits, rates = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local suspects, high, low = KEYS[12], KEYS[13], KEYS[14]
local id, version, due_ms, next_ms, overlap = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local name, expires_ms, deadline_ms, tells, missed = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9] == '1', ARGV[10]
local FIRST, STRIDE = 11, 2

check('HLEN', cron)
check('ZCARD', due)
check('XLEN', lane)
check('HLEN', jobs)
check('HLEN', stats)
check('XLEN', events)
check('HLEN', payloads)
check('XLEN', suspects)
check('XLEN', high)
check('XLEN', low)
local us = now_us()
local now = ms_of(us)
use_groups({
  held = held, groups = groups, limits = limits, lane = lane, suspects = suspects, jobs = jobs, payloads = payloads, stats = stats,
  us = us, high = high, low = low, rates = rates,
})
local state, score = read_state(cron, id), tonumber(redis.call('ZSCORE', due, id))
if not state or state.version ~= version or score ~= tonumber(due_ms) or score > now then return { STALE } end
local payload = redis.call('HGET', cron, id .. ' payload') or ''

local function meta_of(meta)
  if expires_ms == 0 and deadline_ms == 0 then return meta end
  local fields = read_meta(meta)
  fields.expires_at_ms = expires_ms > 0 and now + expires_ms or nil
  fields.deadline_at_ms = deadline_ms > 0 and now + deadline_ms or nil
  return cjson.encode(fields)
end

local ids, holder = {}, ''
for i = FIRST, #ARGV, STRIDE do
  if overlap == 'skip' and state.last_job and is_unfinished(lane, jobs, state.last_job) then
    holder = state.last_job
    break
  end
  local meta = meta_of(ARGV[i + 1])
  local job_id = string.find(meta, '"priority":', 1, true) and read_meta(meta).id
  local fields = grouped(meta)
  if job_id then
    local record = { name = name, attempt = 1, meta = meta, payload_bytes = #payload }
    place_in_turn(nil, IN_LINE, job_id, record, payload, true)
  elseif fields then
    job_id = add_in_turn(lane, fields.group, name, payload, meta)
  else
    job_id = redis.call('XADD', lane, '*', 'name', name, 'payload', payload, 'attempt', '1', 'meta', meta)
  end
  ids[#ids + 1] = job_id
  state.last_job, state.last_slot_ms = job_id, tonumber(ARGV[i])
  if tells then event(events, 'fired', job_id, id) end
end
close_groups()
redis.call('ZADD', due, next_ms, id)
state.fired = (tonumber(state.fired) or 0) + #ids
if missed ~= '' then event(events, 'skipped', '', id .. ': ' .. missed) end
-- Once, and not again at every slot, while the same job goes on.
if holder ~= '' and not state.skipping then event(events, 'skipped', holder, id .. ': its last job is unfinished') end
if holder ~= '' then state.skipping = true else state.skipping = nil end
write_state(cron, id, state)
if #ids > 0 then tally(stats, 'enqueued', #ids) end
return { OK, table.concat(ids, ' '), holder }
