-- enqueue: new -> ready | scheduled | held
-- Stores a batch of jobs, all or nothing. Sent again with the same caller and number it stores nothing and gives the same answer.
--
-- KEYS[1] lane       millstream:{Q}:ready      stream for the jobs that may run at once
-- KEYS[2] scheduled  millstream:{Q}:scheduled  zset, job id -> due (unix ms)
-- KEYS[3] jobs       millstream:{Q}:jobs       hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads   hash, job id -> payload
-- KEYS[5] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[6] producers  millstream:{Q}:producers  hash, caller -> last number and answer
-- KEYS[7] next       millstream:{Q}:ready:next     stream that is read first
-- KEYS[8] suspects   millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[9] limits     millstream:{Q}:limits         hash, `max_depth` and the concurrency of groups
-- KEYS[10] held      millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[11] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[12] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- KEYS[13..] more    with `grouped` groups and rates; then the unique keys, string, id of the job that holds the key
-- ARGV[1] group      consumer group
-- ARGV[2] caller     who numbers its calls
-- ARGV[3] number     of this call, counting up
-- ARGV[4] wake       channel that hears of a new earliest due time
-- ARGV[5] grouped    1 when one of the jobs has a group or a priority, or may take the place of another
-- ARGV[6..] jobs     run by run of jobs that differ in nothing but their payloads: how many, name, meta, options, the payloads;
--                    where meta is '*', each payload comes with a meta of its own, in front of it; where options is '#', with its group and
--                    its meta, and it has nothing else to say
--
-- options is '' for a job that may run at once; '@' and the name for one of a group that has nothing else to say; '!' and the time
-- in ms for one whose unique key is held that long, whatever becomes of the job, and both, '!time@name', for both; else JSON:
--   group         the job's group
--   id            the job's id (with delay_ms or priority, and when it may be throttled)
--   priority      high or low, as its meta says
--   delay_ms      wait before it may run
--   unique        true: the job has a unique key
--   unique_ms     how long the key is held, at most
--   window        true: the key outlives the job, so a finished holder still counts
--   waiting       true: the key counts only while its holder waits
--   conflict      what to do when the key is held: nothing said: refuse; `replace` or `throttle`
--   expires_ms    how long the job may wait before it starts
--   deadline_ms   how long it may take in all, retries included
-- Unique keys are in the order of the jobs that have one.
--
-- Returns {OK, "id id ..."}; with '=' in front it is the id of the job that holds the unique key, with '~' of the one that was
-- replaced, and no job was made. {FULL, depth, max_depth} with nothing changed when the queue has no room for all of them;
-- {GROUP_FULL, group, held, max_backlog, fitting} when a group may not have so many held jobs, and how many more jobs it could have
-- had. {OLD} when a later call of this caller was carried out. Cost O(jobs), O(log n) more for each scheduled one.
local lane, scheduled, jobs, payloads, stats, producers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local next_lane, suspects, limits, held, high, low = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local group, caller, number, wake, has_groups = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local FIRST_UNIQUE = has_groups and 15 or 13
local FIRST = 6
local JSON, GROUP, OWN_META, OWN_GROUP = string.byte('{'), string.byte('@'), '*', '#'

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('XLEN', lane)
check('HLEN', stats)
-- All at once first: hardly any is there.
if KEYS[FIRST_UNIQUE] and redis.call('EXISTS', unpack(KEYS, FIRST_UNIQUE)) > 0 then
  for i = FIRST_UNIQUE, #KEYS do check('STRLEN', KEYS[i]) end
end

-- How many jobs the run that begins there has, how many arguments each of them is, and where the next run begins.
local function of_run(at)
  local count, step = tonumber(ARGV[at]), ARGV[at + 3] == OWN_GROUP and 3 or ARGV[at + 2] == OWN_META and 2 or 1
  return count, step, at + 4 + count * step
end

-- What is said of a job that is more than plain.
local function told(options)
  local kind = string.byte(options)
  if kind == JSON then return cjson.decode(options) end
  if kind == GROUP then return { group = string.sub(options, 2) } end
  local time, name = string.match(options, '^!(%d+)@?(.*)$')
  if not time then return {} end
  return { unique = true, unique_ms = tonumber(time), window = true, group = name ~= '' and name or nil }
end

local run = FIRST
while run <= #ARGV do
  if string.byte(ARGV[run + 3]) == JSON then
    check('ZCARD', scheduled)
    check('HLEN', jobs)
    check('HLEN', payloads)
    check('XLEN', next_lane)
    check('XLEN', suspects)
    check('XLEN', high)
    check('XLEN', low)
    break
  end
  run = select(3, of_run(run))
end
local max_depth = tonumber(looked_at(limits, redis.pcall('HGET', limits, 'max_depth')))
if max_depth then
  check('ZCARD', scheduled)
  check('ZCARD', held)
  check('XLEN', next_lane)
  check('XLEN', suspects)
  check('XLEN', high)
  check('XLEN', low)
end
local us = now_us()
if has_groups then
  check('HLEN', jobs)
  check('HLEN', payloads)
  use_groups({
    held = held, groups = KEYS[13], limits = limits, rates = KEYS[14], lane = lane, suspects = suspects, jobs = jobs,
    payloads = payloads, stats = stats, us = us, high = high, low = low, gathers = true,
  })
  -- Most jobs of groups have nothing else to say.
  local names, is_known = {}, {}
  run = FIRST
  while run <= #ARGV do
    local _, step, next_run = of_run(run)
    local options = ARGV[run + 3]
    local name = string.byte(options) == GROUP and string.sub(options, 2)
    for i = step == 3 and run + 4 or next_run, next_run - 1, 3 do
      local of_job = ARGV[i]
      if not is_known[of_job] then
        names[#names + 1], is_known[of_job] = of_job, true
      end
    end
    if name and not is_known[name] then
      names[#names + 1], is_known[name] = name, true
    end
    run = next_run
  end
  expect_groups(names)
end
local duplicates, replaced = 0, 0

-- The job in the way of one with the same unique key; nil when the key is free, or when its holder no longer counts.
local function in_the_way(key, options)
  local job_id = redis.call('GET', key)
  if not job_id then return nil end
  if has_groups then write_places() end
  if options.window and not options.conflict then return { id = job_id } end
  local holder = found(job_id, { lane, next_lane, suspects, high, low }, jobs, group) or { state = 'gone' }
  holder.id = job_id
  if options.window then return holder end
  if options.waiting then return waits(holder) and holder or nil end
  return holder.state ~= 'dead' and holder.state ~= 'gone' and holder or nil
end

-- Files the job under its id. `since`: where it waited before, if it replaces one, and until when it waits on.
local function file(id, name, payload, meta, options, since)
  local record = { state = 'scheduled', name = name, attempt = 1, meta = with_id(meta, id), payload_bytes = #payload }
  if since then succeed(record, since) end
  local was = since and (since.job or since.record)
  if since and since.keeps_due then
    local slot_of = slot_in(was.meta)
    if slot_of and slot_of == options.group then
      record.meta = with_slot(record.meta)
    elseif slot_of then
      leave(slot_of)
    end
    park(jobs, payloads, id, record, payload)
    return
  end
  if was then vacate(was) end
  if options.delay_ms then
    park(jobs, payloads, id, record, payload)
    -- One that is out of time before it is due ends then; but one at the end of a window keeps its place for who comes later.
    local ends_ms = math.min(options.expires_ms or math.huge, options.deadline_ms or math.huge)
    schedule(scheduled, wake, id, us, options.at_window_end and options.delay_ms or math.min(options.delay_ms, ends_ms))
  else
    place_in_turn(nil, IN_LINE, id, record, payload, true)
    if since then redis.call('ZREM', scheduled, id) end
  end
  if since and since.state == 'held' then let_go(id, since.record) end
  if since and since.lane then withdraw(since.lane, group, since.entry) end
end

local function add(name, payload, meta)
  return redis.call('XADD', lane, '*', 'name', name, 'payload', payload, 'attempt', '1', 'meta', meta)
end

local unique_at = FIRST_UNIQUE

local function store(name, payload, meta, options)
  local key = options.unique and KEYS[unique_at]
  if key then unique_at = unique_at + 1 end
  local holder, window_ends = key and in_the_way(key, options), nil
  if options.expires_ms or options.deadline_ms then
    local fields = read_meta(meta)
    fields.expires_at_ms = options.expires_ms and ms_of(us) + options.expires_ms
    fields.deadline_at_ms = options.deadline_ms and ms_of(us) + options.deadline_ms
    meta = cjson.encode(fields)
  end
  if holder and options.conflict == 'throttle' then
    if holder.state == 'scheduled' then
      -- The one that comes at the end of the window: it takes what is newest along.
      holder.keeps_due = true
      file(holder.id, name, payload, meta, options, holder)
      duplicates, replaced = duplicates + 1, replaced + 1
      return '~' .. holder.id
    end
    -- It comes at the end of this window, and with it another one begins.
    -- In moments and not in times from now: time goes on between two questions.
    local now = next_moment(us)
    local due = math.max(redis.call('PEXPIRETIME', key), now + (options.delay_ms or 0))
    options.delay_ms, options.at_window_end = due - now, true
    window_ends = math.ceil(due) + options.unique_ms
  elseif holder then
    duplicates = duplicates + 1
    if options.conflict ~= 'replace' or not waits(holder) then return '=' .. holder.id end
    file(holder.id, name, payload, meta, options, holder)
    redis.call('SET', key, holder.id, 'PX', options.unique_ms)
    replaced = replaced + 1
    return '~' .. holder.id
  end
  local id = options.id
  if options.delay_ms or options.priority then
    file(id, name, payload, meta, options)
  elseif options.group then
    id = add_in_turn(lane, options.group, name, payload, meta)
  else
    id = add(name, payload, meta)
  end
  if window_ends then
    redis.call('SET', key, id, 'PXAT', window_ends)
  elseif key then
    redis.call('SET', key, id, 'PX', options.unique_ms)
  end
  return id
end

-- Whether the job is new. One whose key is held is not, unless it is the one at the end of a window.
local function is_new(options, key)
  local holder = key and in_the_way(key, options)
  return not holder or (options.conflict == 'throttle' and holder.state ~= 'scheduled'), holder
end

-- Shows all jobs of the call to `look`, one by one, until it gives something back: what is said of the job, its meta and its key.
local function each_job(look)
  local at, key_at = FIRST, FIRST_UNIQUE
  while at <= #ARGV do
    local _, step, next_run = of_run(at)
    local meta, options, key = ARGV[at + 2], told(ARGV[at + 3]), nil
    for i = at + 3 + step, next_run - 1, step do
      if step > 1 then meta = ARGV[i - 1] end
      if step == 3 then options = { group = ARGV[i - 2] } end
      if options.unique then
        key, key_at = KEYS[key_at], key_at + 1
      end
      local found_it = look(options, meta, key)
      if found_it then return found_it end
    end
    at = next_run
  end
  return nil
end

-- How many jobs this call has, or how many of them are new.
local function count_jobs(only_new)
  local jobs_counted = 0
  each_job(function(options, _, key)
    if not only_new or is_new(options, key) then jobs_counted = jobs_counted + 1 end
  end)
  return jobs_counted
end

if max_depth then
  local depth = redis.call('ZCARD', scheduled) + redis.call('ZCARD', held)
  for _, of_lane in ipairs({ lane, next_lane, suspects, high, low }) do depth = depth + redis.call('XLEN', of_lane) end
  -- Who needs room is looked at only where it is short.
  if depth + count_jobs(false) > max_depth and depth + count_jobs(true) > max_depth then return { FULL, depth, max_depth } end
end

-- The first group that would have more held jobs than it may, {group, held, max_backlog, fitting}. Only jobs that want to run at once
-- are looked at: one that becomes due, or is tried again, finds its place whatever is held.
local function full_group()
  return each_job(function(options, meta, key)
    local wanted = options.group and not options.delay_ms and group_named(options.group)
    if not wanted or not wanted.max_backlog then return nil end
    local new, holder = is_new(options, key)
    local held_by_call = new and not holder and would_hold(wanted, 1, cost_of(meta)) or 0
    if held_by_call == 0 then return nil end
    local plan = wanted.plan
    plan.backlog = plan.backlog or backlog_of(wanted)
    local room = math.max(0, wanted.max_backlog - plan.backlog)
    return held_by_call > room and { wanted.name, plan.backlog, wanted.max_backlog, plan.ready + room } or nil
  end)
end

local may_be_full = has_groups and not turns.quiet and (for_all().group_max_backlog or turns.any_own)
local full = may_be_full and full_group()
if full then return { GROUP_FULL, unpack(full) } end

local ids, stored = {}, 0
run = FIRST
while run <= #ARGV do
  local _, step, next_run = of_run(run)
  local name, meta, options = ARGV[run + 1], ARGV[run + 2], ARGV[run + 3]
  local of_group = step == 3 or string.byte(options) == GROUP and string.sub(options, 2)
  local said = not of_group and options ~= '' and told(options)
  for i = run + 3 + step, next_run - 1, step do
    if step > 1 then meta = ARGV[i - 1] end
    stored = stored + 1
    if of_group then
      ids[stored] = add_in_turn(lane, step == 3 and ARGV[i - 2] or of_group, name, ARGV[i], meta)
    elseif said then
      -- What one of them finds out about its window is not said of the next.
      if said.conflict then said = told(options) end
      ids[stored] = store(name, ARGV[i], meta, said)
    else
      ids[stored] = add(name, ARGV[i], meta)
    end
  end
  run = next_run
end
if has_groups then close_groups() end

answer = table.concat(ids, ' ')
tally(stats, 'enqueued', stored - duplicates)
if replaced > 0 then tally(stats, 'replaced', replaced) end
remember(producers, caller, number, ms_of(us), answer)
return { OK, answer }
