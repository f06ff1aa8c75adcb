-- ended: ends deliveries, and the short way through `complete` for a call of nothing but plain jobs and jobs that leave nothing behind but
-- a slot, when no job of any group is held. Keys and arguments are those of `complete`, and so is all that it does; it ends before the
-- functions that it does not need, which Lua would make anew in each call.

local NONE = {}
-- Deliveries from which on it pays to look how the stream can be cut instead of taking them out one by one.
local CUT_MIN = 20

-- Cuts the stream off in front of the first delivery that is not settled, when nothing but the `count` deliveries that have just been
-- acknowledged can be there: a whole node of the stream goes for less than what one entry in the middle of it costs. True when they are all
-- gone. What somebody has stranded by hand, delivered to nobody and read by nobody again, is no reason to lose it: then there is more in
-- the stream than has yet to be delivered, is delivered and was acknowledged just now, and nothing is cut. (Unless as many entries were
-- deleted by hand, while they were delivered or before, and the books come out even. What scripts take out is in the books: `withdraw`.)
local function cut(lane, group, count)
  -- With pcall: who may not ask, or cut, takes them out one by one.
  for _, row in ipairs(redis.pcall('XINFO', 'GROUPS', lane)) do
    local of = {}
    for i = 1, #row, 2 do of[row[i]] = row[i + 1] end
    -- Redis does not know the lag for sure while entries are missing that were never delivered.
    if of.name == group and of.lag and redis.pcall('XLEN', lane) == of.lag + of.pending + count then
      local first = redis.pcall('XPENDING', lane, group, '-', '+', 1)[1]
      return first and redis.pcall('XTRIM', lane, 'MINID', first[1]) == count
    end
  end
  return false
end

-- Takes the entries from their stream. Returns those that were no longer there, and the set of their places from 1.
local function end_entries(lane, group, first, count)
  local last = first + count - 1
  if looked_at(lane, redis.pcall('XACK', lane, group, unpack(ARGV, first, last))) == count then
    if count < CUT_MIN or not cut(lane, group, count) then
      redis.call('XDEL', lane, unpack(ARGV, first, last))
    end
    return NONE, NONE
  end
  local lost, is_lost = {}, {}
  -- Some delivery is not the live one: an entry that is already gone tells which.
  for i = first, last do
    if redis.call('XDEL', lane, ARGV[i]) == 0 then
      lost[#lost + 1] = ARGV[i]
      is_lost[i - first + 1] = true
    end
  end
  return lost, is_lost
end

-- Nothing is kept of these but their number, and of when the call was. The answer is a text by itself, which stands for {OK, answer}
-- and costs less.
local function settled(stats, producers, caller, number, count, lost)
  tally(stats, 'completed', count - #lost)
  if #lost > 0 then tally(stats, 'lease_lost', #lost) end
  local answer = table.concat(lost, ' ')
  -- The time as `remember` writes it: milliseconds, without going through a number of 13 digits, which is dear to print.
  local time = redis.call('TIME')
  local at_ms = time[1] .. string.format('%03d', time[2] / 1000)
  redis.call('HSET', producers, caller, number .. ' ' .. at_ms .. ' ' .. answer)
  return answer
end

do
  local FIRST, count, slots = 9, tonumber(ARGV[5]), tonumber(ARGV[8])
  local jobs, stats, producers, progress, held, groups = KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7], KEYS[8]
  local after = FIRST + count
  -- Neither rows nor results, and nobody to be let in.
  local is_short = #ARGV == after + 2 * slots - 1
  if is_short and slots > 0 then is_short = looked_at(held, redis.pcall('ZCARD', held)) == 0 end
  if is_short then
    local again, answer = replayed(producers, ARGV[2], ARGV[3])
    if again then return { again, answer } end
    check('HLEN', stats)
    if slots == 0 then
      return settled(stats, producers, ARGV[2], ARGV[3], count, (end_entries(KEYS[1], ARGV[1], FIRST, count)))
    end
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
