-- cron_remove: no job moves
-- Forgets a schedule. Jobs that it has fired stay.
--
-- KEYS[1] cron      millstream:{Q}:cron      hash, what is kept of a schedule
-- KEYS[2] due       millstream:{Q}:cron:due  zset, schedule -> next due (unix ms)
-- ARGV[1] schedule  its id
--
-- Returns {OK}, or {MISSING}. Cost O(log n), n = schedules.
local cron, due = KEYS[1], KEYS[2]
local id = ARGV[1]

check('HLEN', cron)
check('ZCARD', due)
local fields = redis.call('HDEL', cron, id, id .. ' state', id .. ' payload')
if redis.call('ZREM', due, id) + fields == 0 then return { MISSING } end
return { OK }
