-- meta: the small JSON beside a payload; '' when a job has nothing but defaults.
local function read_meta(meta)
  if meta == '' then return {} end
  return cjson.decode(meta)
end

-- The job's id: its entry id until it first left the stream, from then on what meta says.
local function id_of(meta, entry_id)
  return read_meta(meta).id or entry_id
end

-- Writes the id down, for a job that is about to get another entry.
local function with_id(meta, job_id)
  if meta == '' then return '{"id":"' .. job_id .. '"}' end
  local fields = cjson.decode(meta)
  if fields.id then return meta end
  fields.id = job_id
  return cjson.encode(fields)
end
