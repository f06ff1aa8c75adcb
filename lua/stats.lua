-- stats: no job moves
-- A queue's counts at one moment, from the structures themselves.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled  zset, job id -> due (unix ms)
-- KEYS[2] dead       millstream:{Q}:dead       zset, job id -> died at (unix ms)
-- KEYS[3] held       millstream:{Q}:held       zset, jobs that wait for their group
-- KEYS[4] limits     millstream:{Q}:limits     hash, `paused` is looked at
-- KEYS[5] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[6..] lanes    millstream:{Q}:ready*     streams
-- ARGV[1] group      consumer group
--
-- Returns {OK, ready, running, scheduled, dead, held, paused, oldest_ready_ms, {counter, value ...}};
-- oldest_ready_ms is -1 when no job is ready. Cost O(lanes).
local scheduled, dead, held, limits, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group = ARGV[1]

check('ZCARD', scheduled)
check('ZCARD', dead)
check('ZCARD', held)
check('HLEN', limits)
check('HLEN', stats)
for lane = 6, #KEYS do check('XLEN', KEYS[lane]) end

local now = ms_of(now_us())
local ready, running, oldest = 0, 0, nil
for lane = 6, #KEYS do
  local waiting, pending, first = redis.call('XLEN', KEYS[lane]), 0, '-'
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[lane])
  for _, fields in ipairs(groups.err and {} or groups) do
    local info = {}
    for i = 1, #fields, 2 do info[fields[i]] = fields[i + 1] end
    if info.name == group then
      pending, first = info.pending, '(' .. info['last-delivered-id']
    end
  end
  running = running + pending
  ready = ready + waiting - pending
  local oldest_entry = redis.call('XRANGE', KEYS[lane], first, '+', 'COUNT', 1)[1]
  if oldest_entry then
    local added = tonumber(string.match(oldest_entry[1], '^%d+'))
    oldest = math.max(oldest or 0, now - added)
  end
end
return {
  OK, math.max(0, ready), running, redis.call('ZCARD', scheduled), redis.call('ZCARD', dead), redis.call('ZCARD', held),
  redis.call('HEXISTS', limits, 'paused'), oldest or -1, redis.call('HGETALL', stats),
}
