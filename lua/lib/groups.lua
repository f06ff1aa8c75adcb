-- groups: jobs of a group (a tenant, a shop) take turns. A limited group has as many slots as its concurrency. A job takes one
-- when it becomes ready and says so in its meta ("slot"); it gives it up when it leaves the lanes. Without a free slot a job is
-- held. Jobs of a group that is not limited have no slot and are not counted: what nobody uses costs nothing.
-- held: zset, lexical, "<group> US <turn> US <job id>"; the turns of a group rise
-- A group with a rate has a bucket of tokens besides; a job takes what it costs when it becomes ready, once for each attempt, and
-- one that comes back to the lanes by itself (handed back, reclaimed) takes no more.
-- groups: hash, group -> slots taken; no field at 0
-- limits: hash, what is set for all groups, group:<group> -> JSON {concurrency, max_backlog, rate, burst, paused}
local US = '\31'
-- A turn is one of these and a number that rises, so that texts are in the order of the numbers.
local IN_FRONT, IN_LINE = '0', '5'
-- Jobs that one call admits to a group beyond the slots that it freed itself: a raised limit is filled in steps.
local ADMIT_MORE = 100
local UNLIMITED = math.huge
-- A rated group of a paused queue is looked at again after this: what is ready at the end of the pause starts all at once.
local PAUSED_US = 1000000
-- Fields of `limits` that are no group's own.
local OF_ALL = {
  'group_concurrency', 'group_order', 'group_max_backlog', 'group_rate', 'group_burst',
  'paused', 'max_depth', 'concurrency', 'rate', 'burst',
}

-- Arguments of one command at most, and payloads, which may be large, that are fetched at once.
local ARGUMENTS_MAX, FETCHED_MAX = 1000, 50

-- The keys in use, what this call knows of each group, the groups in the order in which they came up,
-- and those that a job has left in the order in which it did.
local turns, groups_seen, groups_in_order, groups_left = nil, {}, {}, {}
-- What is to be written of jobs that are held by now, and of jobs that are on a lane by now: one command for many of them.
local held_now, placed_now = { records = {}, payloads = {}, members = {} }, { records = {}, ids = {}, turns = {} }

-- To be called before the first write. Looks at the keys that only groups need; the script looks at the others.
local function use_groups(keys)
  turns = keys
  -- The channel has its name from the same prefix as the keys.
  turns.wake = string.gsub(keys.held, 'held$', 'wake')
  local held = looked_at(keys.held, redis.pcall('ZCARD', keys.held))
  check('HLEN', keys.groups)
  turns.limits_set = looked_at(keys.limits, redis.pcall('HLEN', keys.limits))
  -- On most queues nothing is limited, and then nobody asks further.
  turns.quiet = held == 0 and turns.limits_set == 0
  turns.any_held = held > 0
  -- Those who wait go to the lanes of their priorities; who has more to do with these looks at them himself.
  if turns.any_held then
    check('XLEN', turns.high)
    check('XLEN', turns.low)
  end
  if not turns.quiet then check('ZCARD', keys.rates) end
end

-- What is set for all groups, asked for once.
local function for_all()
  if not turns.for_all then
    local said, count = redis.call('HMGET', turns.limits, unpack(OF_ALL)), 0
    turns.for_all = {}
    for i, setting in ipairs(OF_ALL) do
      if said[i] then
        turns.for_all[setting], count = said[i], count + 1
      end
    end
    turns.any_own = turns.limits_set > count
    local all = turns.for_all
    turns.usual = {
      max = tonumber(all.group_concurrency) or UNLIMITED,
      max_backlog = tonumber(all.group_max_backlog),
      rate = read_rate(all.group_rate, all.group_burst),
    }
  end
  return turns.for_all
end

-- Asks once for what would be asked of each of these groups.
local function expect_groups(names)
  if turns.quiet or #names < 2 then return end
  for_all()
  local asked = { taken = redis.call('HMGET', turns.groups, unpack(names)), own = {} }
  if turns.any_own then
    local fields = {}
    for i, name in ipairs(names) do fields[i] = 'group:' .. name end
    asked.own = redis.call('HMGET', turns.limits, unpack(fields))
  end
  turns.taken, turns.own = {}, {}
  for i, name in ipairs(names) do
    turns.taken[name], turns.own[name] = asked.taken[i], asked.own[i]
  end
end

-- What the group has of its own; nil when it has nothing.
local function own_of(name)
  if not turns.any_own then return nil end
  local own = turns.own and turns.own[name]
  if own == nil then own = redis.call('HGET', turns.limits, 'group:' .. name) end
  if not own then return nil end
  local is_json, fields = pcall(cjson.decode, own)
  return is_json and type(fields) == 'table' and fields or nil
end

local function group_named(name)
  local group = groups_seen[name]
  if group then return group end
  local all = for_all()
  local taken = turns.taken and turns.taken[name]
  if taken == nil then taken = redis.call('HGET', turns.groups, name) end
  group = {
    name = name,
    max = turns.usual.max,
    max_backlog = turns.usual.max_backlog,
    rate = turns.usual.rate,
    blocks = all.group_order == 'block',
    taken = tonumber(taken) or 0,
    left = 0,
  }
  local own = own_of(name)
  if own then
    group.max = tonumber(own.concurrency) or group.max
    group.max_backlog = tonumber(own.max_backlog) or group.max_backlog
    -- A burst belongs to its rate.
    group.rate = read_rate(own.rate, own.burst) or read_rate(all.group_rate, own.burst or all.group_burst)
    group.paused = own.paused ~= nil
    if group.paused then group.max = 0 end
  end
  group.before = group.taken
  groups_seen[name] = group
  groups_in_order[#groups_in_order + 1] = group
  return group
end

-- The first held jobs of the group, up to `limit`: members of `held`.
local function held_of(group, limit)
  return redis.call('ZRANGEBYLEX', turns.held, '[' .. group.name .. US, '(' .. group.name .. ' ', 'LIMIT', 0, limit)
end

local function has_held(group)
  -- Asked for once; who is held by this call says so.
  if group.any_held == nil then group.any_held = turns.any_held and #held_of(group, 1) > 0 end
  return group.any_held
end

-- What the job takes from a bucket.
local function cost_of(meta)
  return tonumber(string.match(meta, '"cost":(%d+)')) or 1
end

-- Ticks that are missing in the bucket of a rated group.
local function missing_in(group)
  if not group.missing then
    turns.us = turns.us or now_us()
    group.missing, group.is_wrong = missing_of(turns.rates, group.name, group.rate, turns.us)
  end
  return group.missing
end

-- Takes what a job costs from the bucket of its group; false when there is too little in it.
local function charge(group, cost)
  if not group.rate then return true end
  if for_all().paused or wait_for(group.rate, missing_in(group), cost) > 0 then return false end
  group.missing = group.missing + ticks_of(group.rate, cost)
  group.is_charged, group.is_touched = true, true
  return true
end

local function with_slot(meta)
  return '{"slot":true,' .. string.sub(meta, 2)
end

-- The meta with which a job of the group may go to a lane now; nil when it has to wait for its turn.
local function enter(name, meta)
  if turns.quiet then return meta end
  local group = group_named(name)
  -- Nobody overtakes those who wait, not even when there is room for all of them.
  if group.taken >= group.max or has_held(group) or not charge(group, cost_of(meta)) then return nil end
  if group.max == UNLIMITED then return meta end
  group.taken = group.taken + 1
  return with_slot(meta)
end

-- How many jobs of a call would be held if `count` more came to the group, behind those that were asked about before.
local function would_hold(group, count, cost)
  local plan = group.plan
  if not plan then
    plan = { taken = group.taken, missing = group.rate and missing_in(group), ready = 0, held = 0 }
    group.plan = plan
  end
  for _ = 1, count do
    local has_room = plan.held == 0 and plan.taken < group.max and not has_held(group)
    if has_room and group.rate then
      has_room = not for_all().paused and wait_for(group.rate, plan.missing, cost) == 0
      if has_room then plan.missing = plan.missing + ticks_of(group.rate, cost) end
    end
    if has_room then
      plan.taken, plan.ready = plan.taken + 1, plan.ready + 1
    else
      plan.held = plan.held + 1
    end
  end
  return plan.held
end

local function backlog_of(group)
  return redis.call('ZLEXCOUNT', turns.held, '[' .. group.name .. US, '(' .. group.name .. ' ')
end

-- `command` on `key`, with all of the arguments, which come in pairs or one by one.
local function with_all(command, key, arguments)
  for from = 1, #arguments, ARGUMENTS_MAX do
    redis.call(command, key, unpack(arguments, from, math.min(#arguments, from + ARGUMENTS_MAX - 1)))
  end
end

-- Writes down where jobs are by now. To be called before anybody looks for one of them.
local function write_places()
  if #held_now.members > 0 then
    redis.call('HSET', turns.stats, 'held', string.format('%.0f', turns.turn))
    with_all('HSET', turns.payloads, held_now.payloads)
    with_all('HSET', turns.jobs, held_now.records)
    with_all('ZADD', turns.held, held_now.members)
    held_now = { records = {}, payloads = {}, members = {} }
  end
  if #placed_now.ids > 0 then
    with_all('HSET', turns.jobs, placed_now.records)
    with_all('HDEL', turns.payloads, placed_now.ids)
    with_all('ZREM', turns.held, placed_now.turns)
    placed_now = { records = {}, ids = {}, turns = {} }
  end
end

-- Puts a job that is off the streams on a lane; `turn`: its place among the held, if it had one.
local function to_lane(lane, job_id, record, payload, turn)
  put(lane, turns.suspects, turns.wake, record, payload)
  local records, ids, places = placed_now.records, placed_now.ids, placed_now.turns
  records[#records + 1], records[#records + 2] = job_id, cjson.encode(record)
  ids[#ids + 1] = job_id
  if turn then places[#places + 1] = turn end
end

-- The number of the next job that is held: rising, whatever somebody wrote there by hand.
local function next_turn()
  turns.turn = (turns.turn or tonumber(redis.call('HGET', turns.stats, 'held')) or 0) + 1
  return turns.turn
end

-- Lets a job wait for its group. Without `payload` the one that is stored stays. Without `job_id` it is new and gets a name,
-- which is no entry's.
local function hold(name, kind, job_id, record, payload)
  local number = next_turn()
  local turn = string.format('%s%016.0f', kind, number)
  if not job_id then
    job_id = string.format('%.0f.%.0f', turns.us, number)
    record.meta = '{"id":"' .. job_id .. '",' .. string.sub(record.meta, 2)
  end
  record.state, record.turn, record.lane, record.entry = 'held', turn, nil, nil
  local payloads, records, members = held_now.payloads, held_now.records, held_now.members
  if payload then payloads[#payloads + 1], payloads[#payloads + 2] = job_id, payload end
  records[#records + 1], records[#records + 2] = job_id, cjson.encode(record)
  members[#members + 1], members[#members + 2] = 0, name .. US .. turn .. US .. job_id
  if not turns.gathers then write_places() end
  local group = group_named(name)
  -- Who is not the first waits for those before him, and somebody sees to them.
  if not group.any_held then group.is_touched = true end
  group.any_held = true
  return job_id
end

-- What is stored of a job with a group, nil for one without. Looked for as text first: JSON is dear.
local function grouped(meta)
  if not string.find(meta, '"group":', 1, true) then return nil end
  local is_json, fields = pcall(cjson.decode, meta)
  if not is_json or type(fields) ~= 'table' or type(fields.group) ~= 'string' then return nil end
  -- Such a name is no producer's.
  if string.find(fields.group, US, 1, true) then return nil end
  return fields
end

-- A held job waits no longer.
local function let_go(job_id, record)
  local fields = grouped(record.meta)
  if fields and type(record.turn) == 'string' then
    redis.call('ZREM', turns.held, fields.group .. US .. record.turn .. US .. job_id)
  end
  record.turn = nil
end

-- At the end of the call those who wait in the group are let in, as far as there is room.
local function look_after(group)
  if group.is_looked_after then return end
  groups_left[#groups_left + 1] = group
  group.is_looked_after = true
end

-- A job of the group leaves the lanes, and had a slot.
local function leave(name)
  local group = group_named(name)
  group.is_touched = true
  group.taken = math.max(0, group.taken - 1)
  look_after(group)
  group.left = group.left + 1
end

-- The group of which a job has a slot.
local function slot_in(meta)
  local fields = grouped(meta)
  return fields and fields.slot and fields.group
end

-- Takes its slot from a job that leaves the lanes.
local function vacate(job)
  local fields = grouped(job.meta)
  if not fields or not fields.slot then return end
  fields.slot = nil
  job.meta = cjson.encode(fields)
  leave(fields.group)
end

-- Puts a job that is off the streams on `lane`, nil for the one of its priority, or among the held when it is not its turn.
-- `is_new`: this payload is not the one that is stored.
local function place_in_turn(lane, kind, job_id, record, payload, is_new)
  local fields = not turns.quiet and grouped(record.meta)
  if fields and fields.slot then
    local group = group_named(fields.group)
    if group.paused or not charge(group, cost_of(record.meta)) then
      -- It kept its slot so that nobody overtakes it, and nobody does.
      vacate(record)
      hold(fields.group, IN_FRONT, job_id, record, is_new and payload)
      return false
    end
  end
  if fields and not fields.slot then
    local meta = enter(fields.group, record.meta)
    if not meta then
      hold(fields.group, kind, job_id, record, is_new and payload)
      return false
    end
    record.meta = meta
  end
  to_lane(lane or lane_of(turns, turns.wake, record.meta), job_id, record, payload)
  if not turns.gathers then write_places() end
  return true
end

-- A new job without a priority of its own, to the lane or among the held.
local function add_in_turn(lane, name, job_name, payload, meta)
  local entered = enter(name, meta)
  if entered then
    return redis.call('XADD', lane, '*', 'name', job_name, 'payload', payload, 'attempt', '1', 'meta', entered)
  end
  return hold(name, IN_LINE, nil, { name = job_name, attempt = 1, meta = meta, payload_bytes = #payload }, payload)
end

-- How many of its held jobs have room in the group, no more than `most`.
local function room_in(group, most)
  local room = math.min(group.max - group.taken, most)
  if not turns.any_held or room <= 0 then return 0 end
  group.is_touched = true
  if group.rate then room = math.min(room, math.floor((group.rate.depth - missing_in(group)) / group.rate.each)) end
  return math.max(0, room)
end

-- Held -> ready, for one of `waiting`, whose record and payload these are; false when its group has too few tokens.
local function let_in(waiting, record, payload)
  local group = waiting.group
  if not charge(group, cost_of(record.meta)) then return false end
  if group.max < UNLIMITED then
    group.taken = group.taken + 1
    record.meta = with_slot(record.meta)
  end
  record.turn = nil
  to_lane(lane_of(turns, turns.wake, record.meta), waiting.job_id, record, payload, waiting.member)
  return true
end

-- Held -> ready, as far as each of `groups` has room; `most_of` says how many jobs of a group at most. Returns how many there were. A job
-- whose record or payload is broken is left to `admit`, which buries it.
local function admit_held(groups, most_of)
  local waiting = {}
  for _, group in ipairs(groups) do
    local room = room_in(group, most_of(group))
    for _, member in ipairs(room > 0 and held_of(group, room) or {}) do
      waiting[#waiting + 1] = { group = group, member = member, job_id = string.match(member, US .. '%d+' .. US .. '(.*)$') }
    end
  end
  local admitted, is_short = 0, {}
  for from = 1, #waiting, FETCHED_MAX do
    local ids = {}
    for i = from, math.min(#waiting, from + FETCHED_MAX - 1) do ids[#ids + 1] = waiting[i].job_id end
    local records, payloads = redis.call('HMGET', turns.jobs, unpack(ids)), redis.call('HMGET', turns.payloads, unpack(ids))
    for i = 1, #ids do
      local one, record, payload = waiting[from + i - 1], record_in(records[i]), payloads[i]
      if record and payload and not is_short[one.group] then
        if let_in(one, record, payload) then
          admitted = admitted + 1
        else
          -- Nobody passes the first of them.
          is_short[one.group] = true
        end
      end
    end
  end
  write_places()
  return admitted
end

-- Whoever has a slot to come, and too few tokens, comes when there are enough: upkeep sleeps until then.
local function set_timer(group)
  if group.taken >= group.max then return end
  -- Some of those who were held have been admitted.
  local first = has_held(group) and held_of(group, 1)[1]
  if not first then return end
  local record = read_record(turns.jobs, string.match(first, US .. '%d+' .. US .. '(.*)$'))
  local wait_us = wait_for(group.rate, missing_in(group), record and cost_of(record.meta) or 1)
  if for_all().paused then wait_us = math.max(wait_us, PAUSED_US) end
  local due = turns.us + wait_us
  local soonest = redis.call('ZRANGE', turns.rates, 0, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  redis.call('ZADD', turns.rates, string.format('%.0f', due), next_of(group.name))
  -- Only a hint: upkeep looks by itself, a little later.
  if not soonest or due < tonumber(soonest) then redis.pcall('PUBLISH', turns.wake, 'due') end
end

local function more_than_left(group)
  return group.left + ADMIT_MORE
end

-- Writes down how many slots and tokens are taken, once freed slots have gone to those who wait. Every script that had to do with
-- groups ends with this.
local function close_groups()
  write_places()
  if #groups_left > 0 and turns.any_held then admit_held(groups_left, more_than_left) end
  local taken, free = {}, {}
  for _, group in ipairs(groups_in_order) do
    if group.is_charged then write_missing(turns.rates, group.name, group.rate, turns.us, group.missing) end
    if group.rate and group.is_touched then set_timer(group) end
    if group.taken > 0 and group.taken ~= group.before then
      taken[#taken + 1], taken[#taken + 2] = group.name, group.taken
    elseif group.taken ~= group.before then
      free[#free + 1] = group.name
    end
  end
  with_all('HSET', turns.groups, taken)
  with_all('HDEL', turns.groups, free)
end
