-- place: adds a job to a lane under a new entry id; the record says where.
local function place(lane, jobs, job_id, record, payload)
  local entry = redis.call('XADD', lane, '*',
    'name', record.name, 'payload', payload, 'attempt', record.attempt, 'meta', record.meta)
  record.state, record.lane, record.entry = 'ready', lane, entry
  write_record(jobs, job_id, record)
  return entry
end
