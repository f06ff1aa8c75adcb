-- complete: running -> completed
-- The short way, for a batch of nothing but plain jobs, which leave nothing behind but their number: no record, slot of a group, unique
-- key or result, on a queue that keeps no history. As for `enqueue_plain.lua`, little is touched and run.
--
-- KEYS[1] lane       millstream:{Q}:ready*     the stream that delivered the entries
-- KEYS[2] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[3] producers  millstream:{Q}:producers  hash, caller -> last number and answer
-- ARGV[1] group      consumer group
-- ARGV[2] caller     who numbers its calls
-- ARGV[3] number     of this call, counting up; all have one length
-- ARGV[4] count      deliveries, 1 to 1,000
-- ARGV[5..] entries  their ids
--
-- Returns "id id ..." without a status, which stands for {OK, "id id ..."}: the deliveries that were no longer live; they were not settled.
-- {OLD} when a later call of this caller was carried out. Cost O(count).
local lane, stats, producers = KEYS[1], KEYS[2], KEYS[3]
local group, caller, number, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST = 5
local ask = redis.pcall

local last = ask('HGET', producers, caller)
-- As in `enqueue_plain.lua`.
if last and (type(last) == 'table' or number <= last) then
  local again, first_answer = replayed(producers, caller, number)
  if again then return { again, first_answer } end
end
check('HLEN', stats)
local acked = looked_at(lane, ask('XACK', lane, group, unpack(ARGV, FIRST)))
local lost = take_out(lane, group, FIRST, tonumber(count), acked)
local answer = ''
if #lost == 0 then
  tally(stats, 'completed', count)
else
  tally(stats, 'completed', count - #lost)
  tally(stats, 'lease_lost', #lost)
  answer = table.concat(lost, ' ')
end
-- To the second: `prune` asks for no more.
redis.call('HSET', producers, caller, number .. ' ' .. redis.call('TIME')[1] .. '000 ' .. answer)
return answer
