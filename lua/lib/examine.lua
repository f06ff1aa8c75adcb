-- examine: what is wrong with a job, judged by everything that is stored of it at one moment; nil when nothing is.
-- src/inspect/doctor/kinds.rs says what each word means.

-- What was read to judge. A byte of a record counts for eight: it is decoded.
local examined_bytes = 0
local BYTES_PER_RECORD_BYTE = 8

local function examined_record(jobs, job_id)
  examined_bytes = examined_bytes + BYTES_PER_RECORD_BYTE * redis.call('HSTRLEN', jobs, job_id)
  return read_record(jobs, job_id)
end

-- Whether the job is on the lane that its record names, under the entry that it names. A lane that is none of `lanes` is not
-- looked into: another version may know it.
local function is_on_its_lane(lanes, job_id, record)
  if type(record.entry) ~= 'string' or not string.find(record.entry, '^%d+%-%d+$') then return false end
  for _, lane in ipairs(lanes) do
    if lane == record.lane then
      local entry = redis.call('XRANGE', lane, record.entry, record.entry)[1]
      for i = 1, entry and #entry[2] or 0 do examined_bytes = examined_bytes + #entry[2][i] end
      local is_one, found = pcall(id_of, entry and entry[2][8] or '', record.entry)
      return entry ~= nil and is_one and found == job_id
    end
  end
  return type(record.lane) == 'string'
end

-- The place of a held job among those that wait for their group.
local function turn_of(job_id, record)
  local is_json, fields = pcall(read_meta, record.meta)
  if not is_json or type(fields) ~= 'table' or type(fields.group) ~= 'string' or type(record.turn) ~= 'string' then return '' end
  return table.concat({ fields.group, record.turn, job_id }, '\31')
end

-- A job by its id. keys: { scheduled, dead, jobs, payloads, held }.
local function examine(keys, lanes, job_id)
  local stored = redis.call('HEXISTS', keys.jobs, job_id) == 1
  local record = stored and examined_record(keys.jobs, job_id) or nil
  local due, died = redis.call('ZSCORE', keys.scheduled, job_id), redis.call('ZSCORE', keys.dead, job_id)
  local has_payload = redis.call('HEXISTS', keys.payloads, job_id) == 1
  if stored and not record then return 'unreadable-record' end
  if not record then
    if due or died then return 'missing-record' end
    return has_payload and 'orphan-payload' or nil
  end
  if record.state == 'ready' then
    if is_on_its_lane(lanes, job_id, record) then
      if due or died then return 'two-homes' end
      return has_payload and 'stray-payload' or nil
    end
    if due or died then return 'wrong-state' end
    return 'record-without-entry'
  end
  if record.state == 'held' then
    if due or died then return 'wrong-state' end
    if not redis.call('ZSCORE', keys.held, turn_of(job_id, record)) then return 'lost-place' end
    return not has_payload and 'missing-payload' or nil
  end
  -- A state that this version does not know is not judged.
  if record.state ~= 'scheduled' and record.state ~= 'dead' then return nil end
  if due and died then return 'two-homes' end
  if not due and not died then return 'lost-place' end
  if record.state ~= (due and 'scheduled' or 'dead') then return 'wrong-state' end
  return not has_payload and 'missing-payload' or nil
end

-- What handlers have told of a job, by its id: the job must be somewhere.
local function examine_progress(keys, lanes, job_id)
  if redis.call('HEXISTS', keys.jobs, job_id) == 1 or redis.call('HEXISTS', keys.payloads, job_id) == 1 then return nil end
  if string.find(job_id, '^%d+%-%d+$') then
    for _, lane in ipairs(lanes) do
      local entry = redis.call('XRANGE', lane, job_id, job_id)[1]
      for i = 1, entry and #entry[2] or 0 do examined_bytes = examined_bytes + #entry[2][i] end
      if entry then return nil end
    end
  end
  return 'orphan-progress'
end

local function is_pending(lane, group, entry_id)
  local row = redis.pcall('XPENDING', lane, group, entry_id, entry_id, 1)
  return not row.err and #row > 0
end

-- The entry that the group was given last; nil without a group.
local function last_delivered(lane, group)
  local groups = redis.pcall('XINFO', 'GROUPS', lane)
  for _, fields in ipairs(groups.err and {} or groups) do
    local info = {}
    for i = 1, #fields, 2 do info[fields[i]] = fields[i + 1] end
    if info.name == group then return info['last-delivered-id'] end
  end
  return nil
end

-- An entry of a lane. `last`: from last_delivered.
local function examine_entry(jobs, lane, group, last, entry)
  local entry_id, fields = entry[1], entry[2]
  if not is_ours(fields) then return 'foreign-entry' end
  if last and not is_after(entry_id, last) and not is_pending(lane, group, entry_id) then return 'lost-delivery' end
  if fields[8] == '' then return nil end
  local job_id = read_meta(fields[8]).id
  if not job_id then return nil end
  local record = examined_record(jobs, job_id)
  if not record then
    -- One that cannot be read is found among the records.
    return redis.call('HEXISTS', jobs, job_id) == 0 and 'entry-without-record' or nil
  end
  if record.state == 'ready' and record.lane == lane and record.entry == entry_id then return nil end
  return 'second-entry'
end

-- What is no older, or due no later, is as it should be: upkeep comes in time, and clocks are set by less.
local SLACK_US = 60000000
-- No bucket takes longer to fill: the greatest burst at the smallest rate.
local FILLING_MAX_US = 100000 * PER_US.h

-- An entry of `rates`: a bucket, or the time of a group whose jobs wait for one.
local function examine_rate(rates, limits, member, us)
  local score = tonumber(redis.call('ZSCORE', rates, member) or nil)
  if not score then return nil end
  local kind, name = string.match(member, '^(%a+)' .. US .. '(.*)$')
  local rate
  if name == '' then
    rate = read_rate(unpack(redis.call('HMGET', limits, 'rate', 'burst')))
  elseif name then
    rate = group_named(name).rate
  end
  -- Without a rate it goes by itself when its time comes; with one, that is no later than a bucket takes to fill.
  local latest = us + SLACK_US + (rate and rate.depth / rate.count or FILLING_MAX_US)
  if kind == 'full' and score < 0 and -score <= latest then return nil end
  if kind == 'next' and name ~= '' and score > 0 and score <= latest then return nil end
  return 'broken-rate'
end

-- A group by its name: whether somebody will come and let its held jobs in.
local function examine_waiting(rates, name, us)
  local group = group_named(name)
  if group.taken >= group.max or not has_held(group) then return nil end
  local due = group.rate and redis.call('ZSCORE', rates, next_of(name))
  return not (due and tonumber(due) > us - SLACK_US) and 'stuck-group' or nil
end
