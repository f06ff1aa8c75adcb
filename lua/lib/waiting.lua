-- waiting: finds a job that is not finished, wherever it is, and follows one that has not started yet.

-- { state, record?, and for a job on a lane: lane, entry, job }; nil when it is nowhere. `lanes`: the one on which a job without
-- a record is, in front.
local function found(job_id, lanes, jobs, group)
  local record = read_record(jobs, job_id)
  if record and record.state ~= 'ready' then return { state = record.state, record = record } end
  -- On a stream: where the record says, or, having never left it, under its own id. Another job may have the same
  -- entry id on another lane, and a job that came back has an entry id that is not its name.
  local lane, entry = lanes[1], job_id
  if record then
    entry = record.entry or ''
    for _, known in ipairs(lanes) do
      if record.lane == known then lane = known end
    end
  end
  if not string.find(entry, '^%d+%-%d+$') then return nil end
  local on_lane = redis.call('XRANGE', lane, entry, entry)[1]
  local job = on_lane and job_of(on_lane[2])
  if not job or id_of(job.meta, entry) ~= job_id then return nil end
  -- Without a group nothing is running there.
  local pending = redis.pcall('XPENDING', lane, group, entry, entry, 1)
  local state = not pending.err and #pending > 0 and 'running' or 'ready'
  return { state = state, record = record, lane = lane, entry = entry, job = job }
end

local function waits(holder)
  return holder.state == 'scheduled' or holder.state == 'held' or holder.state == 'ready'
end

-- A job that takes another's place under its id keeps what has gone wrong with it, and how often its workers went silent.
local function succeed(record, before)
  record.errors = before.record and before.record.errors
  -- What somebody broke by hand has been silent never.
  local is_json, meta = pcall(read_meta, before.record and before.record.meta or before.job.meta)
  local stalls = is_json and type(meta) == 'table' and tonumber(meta.stalls)
  if stalls then
    local fields = read_meta(record.meta)
    fields.stalls = stalls
    record.meta = cjson.encode(fields)
  end
end
