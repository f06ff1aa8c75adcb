-- cron: what is kept of a schedule, three fields of the hash `cron`:
--   <id>          its definition, JSON; written by whoever sets the schedule, and read by the programs alone
--   <id> state    JSON { version, timing, fired, paused?, last_slot_ms?, last_job?, skipping? }
--   <id> payload  what its jobs carry
-- cron:due: zset, every schedule -> when its next slot is due (unix ms); inf while it is paused, or if it has none.
local NEVER = 'inf'

local function read_state(cron, id)
  local state = redis.call('HGET', cron, id .. ' state')
  if not state then return nil end
  -- What somebody broke by hand begins anew.
  local is_json, fields = pcall(cjson.decode, state)
  if not is_json or type(fields) ~= 'table' then return {} end
  return fields
end

local function write_state(cron, id, state)
  redis.call('HSET', cron, id .. ' state', cjson.encode(state))
end

-- Workers hear that there may be an earlier due time. They also look by themselves, so a user without the right to publish
-- stops nothing.
local function wake_cron(wake)
  redis.pcall('PUBLISH', wake, 'cron')
end
