-- ended: ends deliveries, and the short way through `complete` for a call of plain jobs and jobs that leave nothing behind but
-- a slot, when no job of any group is held. Keys and arguments are those of `complete`, and so is all that it does; it ends before the
-- functions that it does not need, which Lua would make anew in each call.

-- Returns those deliveries that were no longer live, and the set of their places from 1.
local function end_entries(lane, group, first, count)
  local acked = looked_at(lane, redis.pcall('XACK', lane, group, unpack(ARGV, first, first + count - 1)))
  return take_out(lane, group, first, count, acked)
end

-- Nothing is kept of these but their number, and of when the call was. The answer is a text by itself, which stands for {OK, answer}
-- and costs less.
local function settled(stats, producers, caller, number, count, lost)
  tally(stats, 'completed', count - #lost)
  if #lost > 0 then tally(stats, 'lease_lost', #lost) end
  local answer = table.concat(lost, ' ')
  -- When it was, to the second: `prune` asks for no more, and a number of 13 digits is dear to print.
  redis.call('HSET', producers, caller, number .. ' ' .. redis.call('TIME')[1] .. '000 ' .. answer)
  return answer
end

do
  local FIRST, count, slots = 9, tonumber(ARGV[5]), tonumber(ARGV[8])
  local jobs, stats, producers, progress, held, groups = KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7], KEYS[8]
  local after = FIRST + count
  -- Neither rows nor results, and nobody to be let in.
  local is_short = slots > 0 and #ARGV == after + 2 * slots - 1
    and looked_at(held, redis.pcall('ZCARD', held)) == 0
  if is_short then
    local again, answer = replayed(producers, ARGV[2], ARGV[3])
    if again then return { again, answer } end
    check('HLEN', stats)
    local names, place_of, records = {}, {}, {}
    check('HLEN', jobs)
    local has_told = looked_at(progress, redis.pcall('HLEN', progress)) > 0
    for i = after, #ARGV, 2 do
      local name = ARGV[i]
      if not place_of[name] then
        names[#names + 1] = name
        place_of[name] = #names
      end
    end
    local taken = looked_at(groups, redis.pcall('HMGET', groups, unpack(names)))
    local lost, is_lost = end_entries(KEYS[1], ARGV[1], FIRST, count)
    local left = {}
    for i = 1, slots do
      if not is_lost[i] then
        local at = after + 2 * (i - 1)
        local place = place_of[ARGV[at]]
        left[place] = (left[place] or 0) + 1
        if ARGV[at + 1] ~= '' then records[#records + 1] = ARGV[at + 1] end
      end
    end
    local fewer, free = {}, {}
    for place, name in ipairs(names) do
      local rest = (tonumber(taken[place]) or 0) - (left[place] or 0)
      if rest > 0 and left[place] then
        fewer[#fewer + 1], fewer[#fewer + 2] = name, rest
      elseif left[place] then
        free[#free + 1] = name
      end
    end
    if #fewer > 0 then redis.call('HSET', groups, unpack(fewer)) end
    if #free > 0 then redis.call('HDEL', groups, unpack(free)) end
    if #records > 0 then redis.call('HDEL', jobs, unpack(records)) end
    -- An earlier attempt may have told something.
    if has_told and #records > 0 then redis.call('HDEL', progress, unpack(records)) end
    return settled(stats, producers, ARGV[2], ARGV[3], count, lost)
  end
end
