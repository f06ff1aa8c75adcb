-- cron_pause: no job moves
-- Pauses a schedule, or ends that. What would have been due meanwhile is not owed.
--
-- KEYS[1] cron      millstream:{Q}:cron      hash, what is kept of a schedule
-- KEYS[2] due       millstream:{Q}:cron:due  zset, schedule -> next due (unix ms)
-- ARGV[1] schedule  its id
-- ARGV[2] version   the definition that due_ms was reckoned from
-- ARGV[3] paused    1 or 0
-- ARGV[4] due_ms    its next slot, or inf for none
-- ARGV[5] wake      channel that hears of it
--
-- Returns {OK, due_ms}; with nothing changed {MISSING}, or {STALE} when it has another definition by now.
-- Cost O(log n), n = schedules.
local cron, due = KEYS[1], KEYS[2]
local id, version, paused, due_ms, wake = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4], ARGV[5]

check('HLEN', cron)
check('ZCARD', due)
local state, was_due = read_state(cron, id), redis.call('ZSCORE', due, id)
if not state then return { MISSING } end
if state.version ~= version then return { STALE } end
if was_due and (state.paused or false) == paused then return { OK, was_due } end
if paused then
  state.paused = true
  due_ms = NEVER
else
  state.paused = nil
end
write_state(cron, id, state)
redis.call('ZADD', due, due_ms, id)
wake_cron(wake)
return { OK, due_ms }
