-- take_out: takes deliveries that were acknowledged from their stream, in one piece where nothing else can be there.

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

-- Takes the entries from their stream, of which Redis has just acknowledged `acked`. Returns those that were no longer there, and the set
-- of their places from 1.
local function take_out(lane, group, first, count, acked)
  local last = first + count - 1
  if acked == count then
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
