-- limit: no job moves
-- Sets limits of the queue, or of one group, which then count instead of those for all groups.
--
-- KEYS[1] limits      millstream:{Q}:limits  hash, what limits the queue and its groups
-- KEYS[2] events      millstream:{Q}:events  stream, capped
-- ARGV[1] group       the group, or '' for the queue
-- ARGV[2] wake        channel on which workers listen
-- ARGV[3..] settings  two per setting: its name, and its value or '' to have none
--
-- Returns {OK, changed}: how many settings were not as they should be. Cost O(settings).
local limits, events = KEYS[1], KEYS[2]
local name, wake = ARGV[1], ARGV[2]
local FIRST, STRIDE = 3, 2

check('HLEN', limits)
check('XLEN', events)

local changes, fields = {}, {}
if name ~= '' then
  local own = redis.call('HGET', limits, 'group:' .. name)
  local is_json, said = pcall(cjson.decode, own or '')
  if is_json and type(said) == 'table' then fields = said end
end
for i = FIRST, #ARGV, STRIDE do
  local setting, value = ARGV[i], ARGV[i + 1]
  local was
  if name == '' then
    was = redis.call('HGET', limits, setting) or ''
  else
    was = fields[setting] == nil and '' or tostring(fields[setting])
  end
  if was ~= value then
    changes[#changes + 1] = setting .. ' ' .. (value == '' and 'none' or value)
    if name ~= '' then
      if value == '' then
        fields[setting] = nil
      else
        fields[setting] = tonumber(value) or value
      end
    elseif value == '' then
      redis.call('HDEL', limits, setting)
    else
      redis.call('HSET', limits, setting, value)
    end
  end
end
if #changes > 0 then
  if name ~= '' then
    if next(fields) then
      redis.call('HSET', limits, 'group:' .. name, cjson.encode(fields))
    else
      redis.call('HDEL', limits, 'group:' .. name)
    end
  end
  event(events, 'limited', '', (name == '' and 'queue: ' or 'group ' .. name .. ': ') .. table.concat(changes, ', '))
  -- Only a hint: workers look every second, and need no right to publish.
  redis.pcall('PUBLISH', wake, 'limits')
end
return { OK, #changes }
