-- complete: running -> completed
-- Settles a batch of deliveries whose handlers succeeded. Sent again with the same caller and number it settles nothing
-- and gives the same answer.
--
-- KEYS[1] lane       millstream:{Q}:ready*     the stream that delivered the entries
-- KEYS[2] jobs       millstream:{Q}:jobs       hash, job id -> record
-- KEYS[3] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[4] producers  millstream:{Q}:producers  hash, caller -> last number and answer
-- KEYS[5] completed  millstream:{Q}:completed  stream, history
-- KEYS[6] progress   millstream:{Q}:progress   hash, job id -> what its handlers have told
-- KEYS[7..] more     with `grouped` held, groups, limits, rates, payloads and the lanes: ready, suspect, high, low; with `kept`
--                    results, stream, capped;
--                    then strings: unique keys, id of the job that holds the key, and results, what a handler gave back, each
--                    followed by the key that keeps what the job told as long
-- ARGV[1] group      consumer group
-- ARGV[2] caller     who numbers its calls
-- ARGV[3] number     of this call, counting up
-- ARGV[4] history    entries that the history keeps, about; 0 writes none
-- ARGV[5] count      deliveries, 1 to 1,000
-- ARGV[6] grouped    1 when one of the deliveries has a slot of its group
-- ARGV[7] kept       1 when the result of one of the deliveries is kept
-- ARGV[8] slots      how many of the deliveries, the first of them, have nothing to leave behind but a slot, and perhaps a record
-- ARGV[9..] entries  `count` entry ids; then for each of `slots` its group, and its job id if it has a record, else ''; then ten for
--                    each delivery that leaves more behind:
--                    its place among the entry ids from 1, job id, number of its unique key among the strings or 0, name,
--                    attempt, took_ms, '+' and its group if it has a slot, '-' and its group if it has none, '' without a
--                    group, number of its result or 0, how long it is kept (ms), the result
--
-- Returns "id id ..." without a status, which stands for {OK, "id id ..."}: the deliveries that were no longer live; they were not settled.
-- {OLD} when a later call of this caller was carried out. Cost O(count), O(log n) more for each job that is admitted, n = held jobs.
local lane, jobs, stats, producers, completed, progress = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local group, caller, number, history, count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local has_groups, keeps, slots = ARGV[6] == '1', ARGV[7] == '1', tonumber(ARGV[8])
local FIRST, STRIDE = 9, 10
local RESULTS_MAX = 10000
local before_strings = (has_groups and 15 or 6) + (keeps and 1 or 0)
local results = KEYS[before_strings]
local last = FIRST + count - 1
local first_row = last + 1 + 2 * slots

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('HLEN', stats)
local has_told = false
local has_records = false
if last < #ARGV then
  has_records = looked_at(jobs, redis.pcall('HLEN', jobs)) > 0
  has_told = looked_at(progress, redis.pcall('HLEN', progress)) > 0
  check('XLEN', completed)
  if keeps then check('XLEN', results) end
  for i = before_strings + 1, #KEYS do check('STRLEN', KEYS[i]) end
end
if has_groups then
  check('HLEN', KEYS[11])
  check('XLEN', KEYS[12])
  check('XLEN', KEYS[13])
  use_groups({
    held = KEYS[7], groups = KEYS[8], limits = KEYS[9], rates = KEYS[10], payloads = KEYS[11], lane = KEYS[12],
    suspects = KEYS[13], jobs = jobs, high = KEYS[14], low = KEYS[15],
  })
end

local lost, is_lost = end_entries(lane, group, FIRST, count)
local gone = {}
if slots > 1 then
  local names, is_known = {}, {}
  for i = last + 1, first_row - 1, 2 do
    if not is_known[ARGV[i]] then
      names[#names + 1], is_known[ARGV[i]] = ARGV[i], true
    end
  end
  expect_groups(names)
end
for i = 1, slots do
  local at = last + 2 * i - 1
  if not is_lost[i] then
    if ARGV[at + 1] ~= '' then gone[#gone + 1] = ARGV[at + 1] end
    leave(ARGV[at])
  end
end
-- An earlier attempt may have told something.
if has_told and #gone > 0 then redis.call('HDEL', progress, unpack(gone)) end
for i = first_row, #ARGV, STRIDE do
  local place_of, job_id, unique, name, attempt, took_ms, group_of =
    tonumber(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]
  if not is_lost[place_of] then
    -- Also when the id is that of the entry: a job that came back may have got it again, on the other lane.
    gone[#gone + 1] = job_id
    if unique > 0 then unlock(KEYS[before_strings + unique], job_id) end
    local result = tonumber(ARGV[i + 7])
    if result > 0 then
      redis.call('SET', KEYS[before_strings + result], ARGV[i + 9], 'PX', ARGV[i + 8])
      redis.call('XADD', results, 'MAXLEN', '~', RESULTS_MAX, '*', 'job', job_id)
      local told = has_told and redis.call('HGET', progress, job_id)
      if told then redis.call('SET', KEYS[before_strings + result + 1], told, 'PX', ARGV[i + 8]) end
    end
    if has_told then redis.call('HDEL', progress, job_id) end
    local name_of_group = string.sub(group_of, 2)
    if history > 0 and group_of ~= '' then
      redis.call('XADD', completed, 'MAXLEN', '~', history, '*',
        'job', job_id, 'name', name, 'attempt', attempt, 'took_ms', took_ms, 'group', name_of_group)
    elseif history > 0 then
      redis.call('XADD', completed, 'MAXLEN', '~', history, '*',
        'job', job_id, 'name', name, 'attempt', attempt, 'took_ms', took_ms)
    end
    if string.sub(group_of, 1, 1) == '+' then leave(name_of_group) end
  end
end
if has_records and #gone > 0 then redis.call('HDEL', jobs, unpack(gone)) end
if has_groups then close_groups() end

return settled(stats, producers, caller, number, count, lost)
