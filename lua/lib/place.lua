-- place: adds a job to a lane under a new entry id; the record says where.

-- One stall short of a crash loop, a job is a suspect: it waits on a lane of its own, of which each worker holds one job at
-- a time. So a job that kills its worker is alone to blame when it does so once more, and takes no other along.
local SUSPECT_STALLS = 2

local function is_suspect(meta)
  -- Looked for as text first: hardly any job has ever stalled, and JSON is dear.
  if not string.find(meta, '"stalls":', 1, true) then return false end
  local is_json, fields = pcall(cjson.decode, meta)
  return is_json and type(fields) == 'table' and (tonumber(fields.stalls) or 0) >= SUSPECT_STALLS
end

-- The lane for a job that waits for its turn, by its priority. `lanes` has `lane`, the usual one, `high` and `low`. Workers read
-- those two once they know of them, and hear of the first job there through `wake`; they also look by themselves.
local function lane_of(lanes, wake, meta)
  -- Looked for as text first: most jobs have no priority of their own, and JSON is dear.
  if not string.find(meta, '"priority":', 1, true) then return lanes.lane end
  local is_json, fields = pcall(cjson.decode, meta)
  local priority = is_json and type(fields) == 'table' and fields.priority
  if priority ~= 'high' and priority ~= 'low' then return lanes.lane end
  local lane = lanes[priority]
  if redis.call('XLEN', lane) == 0 then redis.pcall('PUBLISH', wake, 'priority') end
  return lane
end

-- To `suspects` if it is one, else to `lane`. Workers hear of a suspect through `wake`: their reads do not wait for it. They
-- also look by themselves, so a user without the right to publish stops nothing. The record says where; the caller stores it.
local function put(lane, suspects, wake, record, payload)
  local suspect = is_suspect(record.meta)
  if suspect then lane = suspects end
  local entry = redis.call('XADD', lane, '*',
    'name', record.name, 'payload', payload, 'attempt', record.attempt, 'meta', record.meta)
  record.state, record.lane, record.entry = 'ready', lane, entry
  if suspect then redis.pcall('PUBLISH', wake, 'suspect') end
end

local function place(lane, suspects, wake, jobs, job_id, record, payload)
  put(lane, suspects, wake, record, payload)
  write_record(jobs, job_id, record)
end
