-- cron_set: no job moves
-- Makes a schedule, or changes one. What stays as it was keeps its due time, so setting it again and again, as every start
-- of every program may, neither loses a slot nor fires one twice.
--
-- KEYS[1] cron        millstream:{Q}:cron      hash, what is kept of a schedule
-- KEYS[2] due         millstream:{Q}:cron:due  zset, schedule -> next due (unix ms)
-- ARGV[1] schedule    its id
-- ARGV[2] definition  JSON
-- ARGV[3] payload     what its jobs carry
-- ARGV[4] timing      when it fires, as text that is equal if and only if the times are
-- ARGV[5] version     a name for this definition that no other has
-- ARGV[6] due_ms      its first slot, or inf for none
-- ARGV[7] paused      1 pauses it; 0 leaves an older pause alone
-- ARGV[8] wake        channel that hears of it
--
-- Returns {OK, change, due_ms, paused}: created, changed or unchanged. Cost O(log n), n = schedules.
local cron, due = KEYS[1], KEYS[2]
local id, definition, payload, timing, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local due_ms, paused, wake = ARGV[6], ARGV[7] == '1', ARGV[8]

check('HLEN', cron)
check('ZCARD', due)
local before = redis.call('HMGET', cron, id, id .. ' payload')
local state, was_due = read_state(cron, id), redis.call('ZSCORE', due, id)
local change = 'changed'
if not before[1] then
  change = 'created'
elseif before[1] == definition and before[2] == payload and state and state.version and was_due then
  change = 'unchanged'
end

state = state or {}
local pauses = paused and not state.paused
if change == 'unchanged' and not pauses then return { OK, change, was_due, state.paused and 1 or 0 } end
local keeps_due = was_due and state.timing == timing
if change ~= 'unchanged' then
  redis.call('HSET', cron, id, definition, id .. ' payload', payload)
  state.version, state.timing = version, timing
end
if paused then state.paused = true end
if state.paused then
  due_ms = NEVER
elseif keeps_due then
  due_ms = was_due
end
state.fired = tonumber(state.fired) or 0
write_state(cron, id, state)
redis.call('ZADD', due, due_ms, id)
wake_cron(wake)
return { OK, change == 'unchanged' and 'changed' or change, due_ms, state.paused and 1 or 0 }
