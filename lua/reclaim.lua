-- reclaim: running -> ready | dead
-- Takes jobs from workers that have stopped renewing their leases. They run next; a job that has stalled too often is
-- one that kills its worker and goes to the dead letter as a crash loop.
--
-- When nobody has swept for half a lease, Redis itself was away, or every worker was: then the living get half a lease
-- to renew before anything is taken from them.
--
-- KEYS[1] lane       millstream:{Q}:ready*      the stream that is swept
-- KEYS[2] next       millstream:{Q}:ready:next  stream that is read first
-- KEYS[3] dead       millstream:{Q}:dead        zset, job id -> died at (unix ms)
-- KEYS[4] jobs       millstream:{Q}:jobs        hash, job id -> record
-- KEYS[5] payloads   millstream:{Q}:payloads    hash, job id -> payload
-- KEYS[6] stats      millstream:{Q}:stats       hash, lifetime counters; swept_ms and grace_until_ms
-- KEYS[7] events     millstream:{Q}:events      stream, capped
-- KEYS[8] lock       millstream:{Q}:upkeep      string, the worker that does the upkeep
-- ARGV[1] group      consumer group
-- ARGV[2] worker     who asks
-- ARGV[3] lock_ms    how long the asker keeps the upkeep
-- ARGV[4] lease_ms   silence after which a job counts as stalled
-- ARGV[5] stalls     at this number of stalls a job is dead
-- ARGV[6] cursor     0-0, or where the last call left off
-- ARGV[7] limit      jobs, 1 to 100; ten times as many entries are looked at
--
-- Returns {OK, cursor, reclaimed, dead, {unique key name, job id ...}}; go on until the cursor is 0-0. The named unique
-- keys belonged to jobs that died and may be released. {STANDBY} when another worker does the upkeep. Cost O(limit).
local lane, next_lane, dead, jobs, payloads = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local stats, events, lock = KEYS[6], KEYS[7], KEYS[8]
local group, worker, lock_ms, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local stalls_max, cursor, limit = tonumber(ARGV[5]), ARGV[6], ARGV[7]

check('XLEN', lane)
check('XLEN', next_lane)
check('ZCARD', dead)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
if not leads(lock, worker, lock_ms) then return { STANDBY } end

local now = ms_of(now_us())
local swept, grace_until = unpack(redis.call('HMGET', stats, 'swept_ms', 'grace_until_ms'))
redis.call('HSET', stats, 'swept_ms', now)
if swept and now - tonumber(swept) > lease_ms / 2 then
  grace_until = now + lease_ms / 2
  redis.call('HSET', stats, 'grace_until_ms', string.format('%.0f', grace_until))
end
if grace_until and now < tonumber(grace_until) then return { OK, '0-0', 0, 0, {} } end

local reclaimed, died, unlocked = 0, 0, {}
local sweep = redis.call('XAUTOCLAIM', lane, group, worker, lease_ms, cursor, 'COUNT', limit)
for _, entry in ipairs(sweep[2]) do
  local job = take(lane, group, entry[1])
  if job then
    local fields = read_meta(job.meta)
    local job_id = fields.id or entry[1]
    fields.id = job_id
    fields.stalls = (fields.stalls or 0) + 1
    job.meta = cjson.encode(fields)
    if fields.stalls >= stalls_max then
      local record = record_of(jobs, job_id, job, 'dead')
      record.reason = 'crash_loop'
      add_error(record, now, job.attempt, string.format('its worker went silent %d times', fields.stalls))
      redis.call('ZADD', dead, now, job_id)
      park(jobs, payloads, job_id, record, job.payload)
      event(events, 'dead', job_id, 'crash_loop')
      if fields.unique then
        unlocked[#unlocked + 1] = fields.unique
        unlocked[#unlocked + 1] = job_id
      end
      died = died + 1
    else
      place(next_lane, jobs, job_id, record_of(jobs, job_id, job, 'ready'), job.payload)
      event(events, 'stalled', job_id, string.format('stall %d', fields.stalls))
      reclaimed = reclaimed + 1
    end
  end
end
-- Entries that somebody deleted by hand while they were running; the server has dropped them from the pending list.
local orphaned = sweep[3] and #sweep[3] or 0
if orphaned > 0 then redis.call('HINCRBY', stats, 'orphaned', orphaned) end
if reclaimed + died > 0 then redis.call('HINCRBY', stats, 'stalled', reclaimed + died) end
if died > 0 then redis.call('HINCRBY', stats, 'dead', died) end
return { OK, sweep[1], reclaimed, died, unlocked }
