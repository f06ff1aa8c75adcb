-- orphan: a job that waits and cannot be run, because somebody broke or deleted its record or its payload by hand. What is left
-- of it is kept to be looked at. The caller takes it from where it waited.
local function bury_orphan(dead, jobs, payloads, stats, events, now, job_id, record, payload)
  tally(stats, 'orphaned', 1)
  if record or payload then
    record = record or { name = 'orphaned payload', attempt = 1, meta = with_id('', job_id) }
    record.state, record.reason, record.payload_bytes, record.turn = 'dead', 'orphaned', #(payload or ''), nil
    redis.call('ZADD', dead, now, job_id)
    park(jobs, payloads, job_id, record, payload or '')
    tally(stats, 'dead', 1)
  else
    redis.call('HDEL', jobs, job_id)
  end
  event(events, 'orphaned', job_id, '')
end
