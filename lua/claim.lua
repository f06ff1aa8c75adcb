-- claim: ready -> running
-- Delivers up to `limit` jobs over all lanes together, in lane order. Workers on the plain path read the lanes with
-- XREADGROUP itself, which is cheaper but counts per lane; this script is for when the count must be exact, or the order of more
-- lanes. A lane may be named twice: first with a share of its own, then with what is left.
--
-- KEYS[1] limits    millstream:{Q}:limits  hash, `paused` is looked at
-- KEYS[2..] lanes   millstream:{Q}:ready*  streams, the one to be read first in front
-- ARGV[1] group     consumer group
-- ARGV[2] consumer  the worker that will hold the leases
-- ARGV[3] limit     jobs, 1 to 1,000
-- ARGV[4..] shares  the most from each lane, in the order of the lanes, from 1
--
-- Returns {OK, {{lane number from 1, entry id, {field, value ...}} ...}}. Cost O(jobs).
local limits = KEYS[1]
local group, consumer, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local SHARES = 4

check('HLEN', limits)
for lane = 2, #KEYS do check('XLEN', KEYS[lane]) end

local claimed = {}
if redis.call('HGET', limits, 'paused') then return { OK, claimed } end
for lane = 2, #KEYS do
  local count = math.min(tonumber(ARGV[SHARES + lane - 2]), limit - #claimed)
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', KEYS[lane], '>')
  if reply then
    for _, entry in ipairs(reply[1][2]) do claimed[#claimed + 1] = { lane - 1, entry[1], entry[2] } end
  end
  if #claimed >= limit then break end
end
return { OK, claimed }
