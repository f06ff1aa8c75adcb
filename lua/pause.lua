-- pause: no job moves
-- Lets no worker claim from the queue, or ends that.
--
-- KEYS[1] limits  millstream:{Q}:limits  hash, what an operator sets at run time
-- KEYS[2] events  millstream:{Q}:events  stream, capped
-- ARGV[1] paused  1 to pause, 0 to resume
-- ARGV[2] wake    channel on which workers listen
--
-- Returns {OK}. Cost O(1).
local limits, events = KEYS[1], KEYS[2]
local paused, wake = ARGV[1] == '1', ARGV[2]

check('HLEN', limits)
check('XLEN', events)
if paused then
  redis.call('HSET', limits, 'paused', '1')
else
  redis.call('HDEL', limits, 'paused')
end
event(events, paused and 'paused' or 'resumed', '', '')
-- Only a hint: workers look every second, and need no right to publish.
redis.pcall('PUBLISH', wake, 'limits')
return { OK }
