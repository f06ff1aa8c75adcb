-- circuit: no job moves
-- Notes that a worker claims nothing because what its jobs need is down, confirms it, or notes that it is over.
--
-- KEYS[1] circuits  millstream:{Q}:circuits  zset, `worker target` -> until when it counts (unix ms)
-- KEYS[2] events    millstream:{Q}:events    stream, capped
-- ARGV[1] circuit   worker and target
-- ARGV[2] hold_ms   how long it counts unless it is confirmed; 0: it is over
-- ARGV[3] event     circuit_opened, circuit_closed, or '' for none
-- ARGV[4] detail    for people, at most 4 KiB, cut by the caller
--
-- Returns {OK}. Cost O(log n), n = open circuits; up to 100 that nobody confirmed are dropped on the way.
local circuits, events = KEYS[1], KEYS[2]
local circuit, hold_ms, kind, detail = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

check('ZCARD', circuits)
check('XLEN', events)
local now = ms_of(now_us())
if hold_ms > 0 then
  redis.call('ZADD', circuits, now + hold_ms, circuit)
  -- The key goes with the last worker that had something to say.
  redis.call('PEXPIRE', circuits, 2 * hold_ms)
else
  redis.call('ZREM', circuits, circuit)
end
if kind ~= '' then event(events, kind, '', detail) end
local lapsed = redis.call('ZRANGE', circuits, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
if #lapsed > 0 then redis.call('ZREM', circuits, unpack(lapsed)) end
return { OK }
