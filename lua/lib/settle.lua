-- settle: ends a delivery. The entry id is the fence: whoever takes a job from its holder adds it again under
-- a new id, so an entry exists exactly as long as its delivery is the live one.

-- The fields that `enqueue` wrote. An entry that somebody else put on the stream keeps all it says as its payload,
-- so that it can be dead-lettered and looked at.
local function job_of(fields)
  local ours = fields[1] == 'name' and fields[3] == 'payload' and fields[5] == 'attempt' and fields[7] == 'meta'
  if ours and tonumber(fields[6]) and (fields[8] == '' or pcall(cjson.decode, fields[8])) then
    return { name = fields[2], payload = fields[4], attempt = tonumber(fields[6]), meta = fields[8] }
  end
  return { name = 'foreign entry', payload = cmsgpack.pack(fields), attempt = 1, meta = '' }
end

-- The job behind a live delivery, taken out of the stream; nil when the delivery is no longer the live one.
local function take(lane, group, entry_id)
  local found = redis.call('XRANGE', lane, entry_id, entry_id)
  if #found == 0 then return nil end
  if redis.call('XACK', lane, group, entry_id) == 0 then return nil end
  redis.call('XDEL', lane, entry_id)
  return job_of(found[1][2])
end

-- The record of a job just taken from its stream, with the errors that an older record kept.
local function record_of(jobs, job_id, job, state)
  local record = read_record(jobs, job_id) or {}
  record.state, record.name, record.attempt, record.payload_bytes = state, job.name, job.attempt, #job.payload
  record.meta = with_id(job.meta, job_id)
  record.lane, record.entry = nil, nil
  return record
end
