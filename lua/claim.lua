-- claim: ready -> running
-- Delivers up to `limit` jobs over all lanes together, in lane order, and no more than the queue's concurrency and rate let through.
-- Workers on the plain path read the lanes with XREADGROUP itself, which is cheaper but counts per lane; this script is for when the
-- count must be exact, or the order of more lanes. A lane may be named twice: first with a share of its own, then with what is left.
--
-- What runs is counted where it is, in the pending entries, so no crash loses a place. A job takes a token of the queue's bucket
-- unless it comes back to the lanes by itself: what is handed back or reclaimed had its own.
--
-- KEYS[1] limits    millstream:{Q}:limits  hash, `paused`, `concurrency`, `rate` and `burst` are looked at
-- KEYS[2] rates     millstream:{Q}:rates   zset, the bucket of the queue, if it has a rate
-- KEYS[3..] lanes   millstream:{Q}:ready*  streams, the one to be read first in front
-- ARGV[1] group     consumer group
-- ARGV[2] consumer  the worker that will hold the leases
-- ARGV[3] limit     jobs, 1 to 1,000
-- ARGV[4..] shares  the most from each lane, in the order of the lanes, from 1; 0: only what runs there is counted
--
-- Returns {OK, {{lane number from 1, entry id, {field, value ...}} ...}, wait_us, {entry id ...}}: microseconds until the rate lets
-- more through, 0 when as many run as may, -1 when neither is in the way. When nothing was found in a queue that has such limits:
-- the last entry of each lane, so that a reader can wait for the next. Cost O(jobs + lanes).
local limits, rates = KEYS[1], KEYS[2]
local group, consumer, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIRST_LANE, SHARES = 3, 4

local said = looked_at(limits, redis.pcall('HMGET', limits, 'paused', 'concurrency', 'rate', 'burst'))
local concurrency, rate = tonumber(said[2]), read_rate(said[3], said[4])
for lane = FIRST_LANE, #KEYS do
  if concurrency or ARGV[SHARES + lane - FIRST_LANE] ~= '0' then check('XLEN', KEYS[lane]) end
end

local claimed = {}
if said[1] then return { OK, claimed, -1, {} } end
if concurrency then
  local running, counted = 0, {}
  for lane = FIRST_LANE, #KEYS do
    local pending = counted[KEYS[lane]] and { 0 } or redis.pcall('XPENDING', KEYS[lane], group)
    counted[KEYS[lane]] = true
    -- Without a group nothing is running there.
    running = running + (pending.err and 0 or pending[1])
  end
  limit = math.min(limit, concurrency - running)
  if limit <= 0 then return { OK, claimed, 0, {} } end
end
local us, missing, is_wrong, tokens = 0, 0, false, limit
if rate then
  us = now_us()
  missing, is_wrong = missing_of(rates, '', rate, us)
  tokens = math.floor((rate.depth - missing) / rate.each)
end

local wait_us, charged = -1, 0
for lane = FIRST_LANE, #KEYS do
  local key, count = KEYS[lane], math.min(tonumber(ARGV[SHARES + lane - FIRST_LANE]), limit - #claimed)
  local is_free = not rate or string.find(key, ':ready:next$') or string.find(key, ':ready:suspect$')
  if not is_free and count > tokens - charged then
    count = tokens - charged
    if count == 0 then wait_us = wait_for(rate, missing + charged * rate.each, 1) end
  end
  local reply = count > 0 and redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', key, '>')
  if reply then
    for _, entry in ipairs(reply[1][2]) do claimed[#claimed + 1] = { lane - FIRST_LANE + 1, entry[1], entry[2] } end
    if not is_free then charged = charged + #reply[1][2] end
  end
  if #claimed >= limit then break end
end
if charged > 0 or is_wrong then write_missing(rates, '', rate, us, missing + charged * rate.each) end

local last = {}
if #claimed == 0 and wait_us < 0 and (concurrency or rate) then
  for lane = FIRST_LANE, #KEYS do
    local newest = redis.call('XREVRANGE', KEYS[lane], '+', '-', 'COUNT', 1)[1]
    last[#last + 1] = newest and newest[1] or '0-0'
  end
end
return { OK, claimed, wait_us, last }
