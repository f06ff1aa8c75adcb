-- cron_due: no job moves
-- Says which schedules are due by Redis's clock, and when the next one will be.
--
-- KEYS[1] cron    millstream:{Q}:cron      hash, what is kept of a schedule
-- KEYS[2] due     millstream:{Q}:cron:due  zset, schedule -> next due (unix ms)
-- ARGV[1] offset  due ones to pass over: those that the caller cannot fire
-- ARGV[2] limit   schedules, 0 to 1,000
--
-- Returns {OK, now_ms, wait_ms, due}: wait_ms until the next one that is not due yet, -1 when there is none; due holds
-- id, due_ms, definition and version of each, the longest due first. Cost O(limit log n), n = schedules.
local cron, due = KEYS[1], KEYS[2]
local offset, limit = ARGV[1], ARGV[2]

check('HLEN', cron)
check('ZCARD', due)
local now = ms_of(now_us())
local found = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'WITHSCORES', 'LIMIT', offset, limit)
local list = {}
for i = 1, #found, 2 do
  local id, definition = found[i], redis.call('HGET', cron, found[i])
  local state = read_state(cron, id)
  list[#list + 1] = id
  list[#list + 1] = found[i + 1]
  list[#list + 1] = definition or ''
  list[#list + 1] = state and state.version or ''
end
local first = redis.call('ZRANGEBYSCORE', due, string.format('(%.0f', now), '(' .. NEVER, 'WITHSCORES', 'LIMIT', 0, 1)
local wait_ms = first[2] and tonumber(first[2]) - now or -1
return { OK, now, wait_ms, list }
