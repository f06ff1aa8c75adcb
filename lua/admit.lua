-- admit: held -> ready
-- Gives held jobs the room that their groups have: group by group, or those whose buckets have filled up. Whoever settles a job does
-- so for its own group; this is for rates, for limits that were changed, and for jobs whose record or payload somebody broke by hand:
-- nobody else passes over those.
--
-- KEYS[1] held      millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[2] groups    millstream:{Q}:groups         hash, group -> slots taken
-- KEYS[3] limits    millstream:{Q}:limits         hash, concurrency of groups
-- KEYS[4] rates     millstream:{Q}:rates          zset, buckets of groups that have a rate
-- KEYS[5] lane      millstream:{Q}:ready          stream for the jobs that may run
-- KEYS[6] suspects  millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[7] dead      millstream:{Q}:dead           zset, job id -> died at (unix ms)
-- KEYS[8] jobs      millstream:{Q}:jobs           hash, job id -> record
-- KEYS[9] payloads  millstream:{Q}:payloads       hash, job id -> payload
-- KEYS[10] stats     millstream:{Q}:stats          hash, lifetime counters
-- KEYS[11] events   millstream:{Q}:events         stream, capped
-- KEYS[12] high     millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[13] low      millstream:{Q}:ready:low      stream, jobs of low priority
-- ARGV[1] from      group to begin with, or '' for the first
-- ARGV[2] limit     groups and jobs together, 1 to 1,000
-- ARGV[3] due       1: only groups whose buckets have filled up, those that did first in front; buckets that are full are forgotten
--
-- Returns {OK, admitted, next, rated_in_us}: the group to go on with, '' at the end; microseconds until `due` has something to do, 0
-- when it has now, -1 when it has not. Cost O(limit log n), n = held jobs.
local held, groups, limits, rates, lane, suspects, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local jobs, payloads, stats, events, high, low = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local from, limit, only_due = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
-- Broken jobs that are looked for at the head of a group; those behind them come later.
local BROKEN_MAX = 10

check('XLEN', lane)
check('XLEN', suspects)
check('ZCARD', dead)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
use_groups({
  held = held, groups = groups, limits = limits, lane = lane, suspects = suspects, jobs = jobs, payloads = payloads,
  high = high, low = low, rates = rates,
})
check('ZCARD', rates)
local us = now_us()
local now = ms_of(us)

local function bury_broken(group)
  for _, member in ipairs(held_of(group, BROKEN_MAX)) do
    local job_id = string.match(member, US .. '%d+' .. US .. '(.*)$')
    local record, payload = read_record(jobs, job_id), redis.call('HGET', payloads, job_id)
    if record and payload then return end
    redis.call('ZREM', held, member)
    bury_orphan(dead, jobs, payloads, stats, events, now, job_id, record, payload)
  end
end

-- The first group at or behind `bound`, in the order of their bytes.
local function group_from(bound)
  local first = redis.call('ZRANGEBYLEX', held, bound, '+', 'LIMIT', 0, 1)[1]
  return first and string.match(first, '^(.-)' .. US)
end

-- Up to `most` held jobs of the group.
local function admit_of(group, most)
  return admit_held({ group }, function() return most end)
end

local admitted = 0
if only_due then
  for _, name in ipairs(take_due(rates, us, limit)) do
    local group = group_named(name)
    bury_broken(group)
    admitted = admitted + admit_of(group, math.max(1, limit - admitted))
    group.is_touched = true
    -- What is missing comes in from now on, and not once a clock that was set back is there again.
    if group.is_wrong then group.is_charged = true end
  end
  close_groups()
  return { OK, admitted, '', rated_in(rates, us) }
end
local name = group_from(from == '' and '-' or '[' .. from .. US)
while name and limit > 0 do
  local group = group_named(name)
  bury_broken(group)
  local more = admit_of(group, limit)
  admitted, limit = admitted + more, limit - more - 1
  -- Out of budget: the same group may have more room.
  if limit > 0 then name = group_from('[' .. name .. ' ') end
end
close_groups()
return { OK, admitted, name or '', turns.quiet and -1 or rated_in(rates, us) }
