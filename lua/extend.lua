-- extend: running -> running
-- Renews the leases of a batch of deliveries.
--
-- KEYS[1] lane       millstream:{Q}:ready*  the stream that delivered the entries
-- ARGV[1] group      consumer group
-- ARGV[2] consumer   the worker that holds the leases
-- ARGV[3..] entries  entry ids, up to 1,000
--
-- Returns {OK, "id id ..."}: the deliveries that are no longer live and were not renewed. Cost O(entries).
local lane = KEYS[1]
local group, consumer = ARGV[1], ARGV[2]
local FIRST = 3

-- Without FORCE only what is still pending is renewed: an entry that was taken away is not.
local command = { 'XCLAIM', lane, group, consumer, 0 }
for i = FIRST, #ARGV do command[#command + 1] = ARGV[i] end
command[#command + 1] = 'JUSTID'
local renewed = looked_at(lane, redis.pcall(unpack(command)))

local lost = {}
if #renewed < #ARGV - FIRST + 1 then
  local live = {}
  for _, entry_id in ipairs(renewed) do live[entry_id] = true end
  for i = FIRST, #ARGV do
    if not live[ARGV[i]] then lost[#lost + 1] = ARGV[i] end
  end
end
return { OK, table.concat(lost, ' ') }
