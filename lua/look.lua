-- look: no job moves
-- What a worker asks once a second, hints or no hints: may it claim, how, and of what is there more than it reads.
--
-- KEYS[1] limits    millstream:{Q}:limits         hash, `paused`, `concurrency` and `rate` are looked at
-- KEYS[2] suspects  millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[3] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[4] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- ARGV[1] group     consumer group
--
-- Returns {OK, paused, limited, prioritised, suspected}, each 1 or 0. Cost O(1).
local limits, suspects, high, low = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group = ARGV[1]

check('HLEN', limits)
for lane = 2, #KEYS do check('XLEN', KEYS[lane]) end

-- A suspect that runs already is somebody's.
local running = redis.pcall('XPENDING', suspects, group)
local waiting = redis.call('XLEN', suspects) - (running.err and 0 or running[1])
local set = redis.call('HMGET', limits, 'paused', 'concurrency', 'rate')
local function is(yes) return yes and 1 or 0 end
return {
  OK,
  is(set[1]),
  is(set[2] or set[3]),
  is(redis.call('XLEN', high) > 0 or redis.call('XLEN', low) > 0),
  is(waiting > 0),
}
