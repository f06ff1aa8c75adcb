-- claim: ready -> running
-- Delivers up to `limit` jobs over all lanes together, in lane order. Workers on the plain path read the lanes with
-- XREADGROUP itself, which is cheaper but counts per lane; this script is for when the count must be exact.
--
-- KEYS[1] limits    millstream:{Q}:limits  hash, `paused` is looked at
-- KEYS[2..] lanes   millstream:{Q}:ready*  streams, the one to be read first in front
-- ARGV[1] group     consumer group
-- ARGV[2] consumer  the worker that will hold the leases
-- ARGV[3] limit     jobs, 1 to 1,000
--
-- Returns {OK, {{lane number from 1, entry id, {field, value ...}} ...}}. Cost O(jobs).
local limits = KEYS[1]
local group, consumer, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])

check('HLEN', limits)
for lane = 2, #KEYS do check('XLEN', KEYS[lane]) end

local claimed = {}
if redis.call('HGET', limits, 'paused') then return { OK, claimed } end
for lane = 2, #KEYS do
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', limit - #claimed, 'STREAMS', KEYS[lane], '>')
  if reply then
    for _, entry in ipairs(reply[1][2]) do claimed[#claimed + 1] = { lane - 1, entry[1], entry[2] } end
  end
  if #claimed >= limit then break end
end
return { OK, claimed }
