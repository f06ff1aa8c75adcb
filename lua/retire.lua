-- retire: no job moves
-- Forgets consumers that hold nothing: the one that is leaving, or all that have been silent for long.
-- Looking and removing are one step, so no delivery can fall in between.
--
-- KEYS[1] lane          millstream:{Q}:ready*  the stream
-- ARGV[1] group         consumer group
-- ARGV[2] consumer      the one that is leaving, or '' for all that are idle
-- ARGV[3] idle_ms       silence after which a consumer counts as gone
--
-- Returns {OK, forgotten}. Cost O(consumers).
local lane = KEYS[1]
local group, leaving, idle_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])

local forgotten = 0
for _, fields in ipairs(looked_at(lane, redis.pcall('XINFO', 'CONSUMERS', lane, group))) do
  local consumer = {}
  for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
  if consumer.pending == 0 and (consumer.name == leaving or (leaving == '' and consumer.idle >= idle_ms)) then
    redis.call('XGROUP', 'DELCONSUMER', lane, group, consumer.name)
    forgotten = forgotten + 1
  end
end
return { OK, forgotten }
