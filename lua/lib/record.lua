-- record: what is known of a job that is, or once was, off the streams.
-- jobs: hash, job id -> JSON { state, name, attempt, meta, errors?, reason?, lane?, entry?, payload_bytes }
-- payloads: hash, job id -> payload, while the job is off the streams
local ERRORS_KEPT = 10

-- What the text says of a job.
local function record_in(text)
  if not text then return nil end
  -- What somebody broke by hand must not stop a script that works through many.
  local is_json, fields = pcall(cjson.decode, text)
  if not is_json or type(fields) ~= 'table' then return nil end
  if type(fields.name) ~= 'string' or type(fields.attempt) ~= 'number' or type(fields.meta) ~= 'string' then return nil end
  if type(fields.errors) ~= 'table' then fields.errors = nil end
  return fields
end

local function read_record(jobs, job_id)
  return record_in(redis.call('HGET', jobs, job_id))
end

local function write_record(jobs, job_id, record)
  redis.call('HSET', jobs, job_id, cjson.encode(record))
end

local function add_error(record, now, attempt, message)
  local errors = record.errors or {}
  errors[#errors + 1] = { at_ms = now, attempt = attempt, error = message }
  if #errors > ERRORS_KEPT then table.remove(errors, 1) end
  record.errors = errors
end

-- Stores a job off the streams.
local function park(jobs, payloads, job_id, record, payload)
  redis.call('HSET', payloads, job_id, payload)
  write_record(jobs, job_id, record)
end
