-- settle: ends a delivery. The entry id is the fence: whoever takes a job from its holder adds it again under
-- a new id, so an entry exists exactly as long as its delivery is the live one.

local ATTEMPT_MAX = 4294967295

-- Records are JSON, and JSON is UTF-8: whole characters become spaces, and what is left over is no part of one.
local function is_utf8(text)
  if not string.find(text, '[\128-\255]') then return true end
  local rest = text:gsub('[\194-\223][\128-\191]', ' ')
  rest = rest:gsub('\224[\160-\191][\128-\191]', ' '):gsub('\237[\128-\159][\128-\191]', ' ')
  rest = rest:gsub('[\225-\236\238\239][\128-\191][\128-\191]', ' ')
  rest = rest:gsub('\240[\144-\191][\128-\191][\128-\191]', ' '):gsub('\244[\128-\143][\128-\191][\128-\191]', ' ')
  rest = rest:gsub('[\241-\243][\128-\191][\128-\191][\128-\191]', ' ')
  return not string.find(rest, '[\128-\255]')
end

-- Whether a script may rely on what an entry says. A script that stumbled over it half-way would lose the job.
local function is_ours(fields)
  if #fields ~= 8 or fields[1] ~= 'name' or fields[3] ~= 'payload' or fields[5] ~= 'attempt' or fields[7] ~= 'meta' then
    return false
  end
  local name, attempt, meta = fields[2], fields[6], fields[8]
  if not string.find(attempt, '^%d+$') or tonumber(attempt) > ATTEMPT_MAX then return false end
  if not is_utf8(name) or not is_utf8(meta) then return false end
  if meta == '' then return true end
  local is_json, said = pcall(cjson.decode, meta)
  if not is_json or type(said) ~= 'table' then return false end
  -- A number without end is read, and cannot be written again.
  if not pcall(cjson.encode, said) then return false end
  local kinds =
    { id = 'string', unique = 'string', priority = 'string', stalls = 'number', expires_at_ms = 'number', deadline_at_ms = 'number' }
  for field, kind in pairs(kinds) do
    if said[field] ~= nil and type(said[field]) ~= kind then return false end
  end
  return true
end

-- The fields that `enqueue` wrote. An entry that somebody else put on the stream keeps all it says as its payload,
-- so that it can be dead-lettered and looked at.
local function job_of(fields)
  if is_ours(fields) then
    return { name = fields[2], payload = fields[4], attempt = tonumber(fields[6]), meta = fields[8] }
  end
  return { name = 'foreign entry', payload = cmsgpack.pack(fields), attempt = 1, meta = '' }
end

-- The job behind a live delivery, taken out of the stream; nil when the delivery is no longer the live one.
local function take(lane, group, entry_id)
  local found = looked_at(lane, redis.pcall('XRANGE', lane, entry_id, entry_id))
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
