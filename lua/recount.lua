-- recount: no job moves
-- Compares how many slots some groups are said to have taken with the jobs that have one, and puts the number right; who has room by
-- that is admitted. The caller has walked over `scheduled` and then over the lanes, and brings what it found of these groups. Here all of
-- it is looked at again at one moment, with what has come since, so the number is right whatever moved meanwhile: an entry stays
-- where it is until it is gone for good, and a job that comes to a lane comes behind the last entry that was seen there. A job comes to
-- `scheduled` with a slot only where groups keep their order, by a retry or a snooze; if there was one, nothing is judged.
--
-- KEYS[1] scheduled  millstream:{Q}:scheduled      zset, job id -> due (unix ms)
-- KEYS[2] jobs       millstream:{Q}:jobs           hash, job id -> record
-- KEYS[3] payloads   millstream:{Q}:payloads       hash, job id -> payload
-- KEYS[4] stats      millstream:{Q}:stats          hash, lifetime counters
-- KEYS[5] events     millstream:{Q}:events         stream, capped
-- KEYS[6] held       millstream:{Q}:held           zset, jobs that wait for their group
-- KEYS[7] groups     millstream:{Q}:groups         hash, group -> slots taken
-- KEYS[8] limits     millstream:{Q}:limits         hash, concurrency of groups
-- KEYS[9] rates      millstream:{Q}:rates          zset, buckets of groups that have a rate
-- KEYS[10] ready     millstream:{Q}:ready          stream for the jobs that may run
-- KEYS[11] suspects  millstream:{Q}:ready:suspect  stream of the jobs that are run one at a time
-- KEYS[12] high      millstream:{Q}:ready:high     stream, jobs of high priority
-- KEYS[13] low       millstream:{Q}:ready:low      stream, jobs of low priority
-- KEYS[14..] lanes   millstream:{Q}:ready*         streams
-- ARGV[1] kept       how many retries and snoozes there had been before the walk where groups keep their order, '' where they do not
-- ARGV[2] mend       1: puts the numbers right
-- ARGV[3] limit      entries that may have come to the lanes since, 1 to 1,000
-- ARGV[4..] found    for each lane the last entry that was seen, 0-0 for none; then group by group its name, how many were found, and for
--                    each the number of its lane from 1 and the entry, or 0 and the job
--
-- Returns {OK, behind, {told, counted ...}}: 1, and nothing was judged, when more has come since. For each group the number that is
-- stored, '' for none, and the right one; -1 when it is in doubt. Cost O(found log n + limit), n = jobs.
local scheduled, jobs, payloads, stats, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local held, groups, limits, rates, ready, suspects = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local high, low, lanes = KEYS[12], KEYS[13], { unpack(KEYS, 14) }
local kept, mends, limit = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local FIRST = 4

check('ZCARD', scheduled)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', stats)
check('XLEN', events)
for i = 1, #lanes do check('XLEN', lanes[i]) end
use_groups({
  held = held, groups = groups, limits = limits, rates = rates, lane = ready, suspects = suspects, jobs = jobs,
  payloads = payloads, stats = stats, high = high, low = low,
})

local come = {}
for i, lane in ipairs(lanes) do
  local entries = redis.call('XRANGE', lane, '(' .. ARGV[FIRST + i - 1], '+', 'COUNT', limit + 1)
  limit = limit - #entries
  if limit < 0 then return { OK, 1, {} } end
  for _, entry in ipairs(entries) do come[#come + 1] = slot_in(entry[2][8] or '') end
end

local counted, names = {}, {}
local at = FIRST + #lanes
while at <= #ARGV do
  local name, count = ARGV[at], 0
  local next_group = at + 2 + 2 * tonumber(ARGV[at + 1])
  for i = at + 2, next_group - 1, 2 do
    local lane, id = lanes[tonumber(ARGV[i])], ARGV[i + 1]
    if lane then
      count = count + #redis.call('XRANGE', lane, id, id)
    elseif redis.call('ZSCORE', scheduled, id) then
      local record = read_record(jobs, id)
      if record and slot_in(record.meta) == name then count = count + 1 end
    end
  end
  names[#names + 1], counted[name] = name, count
  at = next_group
end
for _, name in ipairs(come) do
  if counted[name] then counted[name] = counted[name] + 1 end
end

local waited = redis.call('HMGET', stats, 'retried', 'snoozed')
local keeps_now = for_all().group_order == 'block' or kept ~= ''
local in_doubt = keeps_now and kept ~= string.format('%.0f', (tonumber(waited[1]) or 0) + (tonumber(waited[2]) or 0))
local judged, mended = {}, 0
for _, name in ipairs(names) do
  local told, right = redis.call('HGET', groups, name), counted[name]
  if mends and not in_doubt and tonumber(told or 0) ~= right then
    local group = group_named(name)
    group.taken, group.before = right, nil
    look_after(group)
    mended = mended + 1
  end
  judged[#judged + 1], judged[#judged + 2] = told or '', in_doubt and -1 or right
end
close_groups()
if mended > 0 then event_of(events, 'mended', '', mended) end
return { OK, 0, judged }
