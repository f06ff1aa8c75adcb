-- stats: no job moves
-- A queue's counts at one moment, from the structures themselves.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled  zset, job id -> due (unix ms)
-- KEYS[2] dead       millstream:{Q}:dead       zset, job id -> died at (unix ms)
-- KEYS[3] held       millstream:{Q}:held       zset, jobs that wait for their group
-- KEYS[4] limits     millstream:{Q}:limits     hash, `paused` is looked at
-- KEYS[5] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[6] circuits   millstream:{Q}:circuits   zset, `worker target` -> until when it counts (unix ms)
-- KEYS[7..] lanes    millstream:{Q}:ready*     streams
-- ARGV[1] group      consumer group
--
-- Returns {OK, ready, running, scheduled, dead, held, paused, oldest_ready_ms, {counter, value ...}, {circuit ...}, overdue_ms,
-- swept_ago_ms, {ready of each lane ...}}; oldest_ready_ms is -1 when no job is ready, swept_ago_ms when no worker ever looked for
-- silent ones. Of the open circuits 100 are told. Cost O(lanes + log circuits).
local scheduled, dead, held, limits, stats, circuits = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local FIRST_LANE = 7
local group = ARGV[1]

check('ZCARD', scheduled)
check('ZCARD', dead)
check('ZCARD', held)
check('HLEN', limits)
check('HLEN', stats)
check('ZCARD', circuits)
for lane = FIRST_LANE, #KEYS do check('XLEN', KEYS[lane]) end

local now = ms_of(now_us())
local ready, running, oldest, of_lanes = 0, 0, nil, {}
for lane = FIRST_LANE, #KEYS do
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
  of_lanes[#of_lanes + 1] = math.max(0, waiting - pending)
  local oldest_entry = redis.call('XRANGE', KEYS[lane], first, '+', 'COUNT', 1)[1]
  if oldest_entry then
    local added = tonumber(string.match(oldest_entry[1], '^%d+'))
    oldest = math.max(oldest or 0, now - added)
  end
end
local first_due = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')[2]
local swept = tonumber(redis.call('HGET', stats, 'swept_ms'))
return {
  OK, math.max(0, ready), running, redis.call('ZCARD', scheduled), redis.call('ZCARD', dead), redis.call('ZCARD', held),
  redis.call('HEXISTS', limits, 'paused'), oldest or -1, redis.call('HGETALL', stats),
  redis.call('ZRANGE', circuits, now, '+inf', 'BYSCORE', 'LIMIT', 0, 100),
  math.max(0, now - (tonumber(first_due) or now)), swept and math.max(0, now - swept) or -1, of_lanes,
}
