-- replay: a call that is sent again, because its answer was lost, gets the answer that it got the first time.
-- A caller numbers its calls and has one under way at a time, so its last number and answer are enough.
-- producers: hash, caller -> "<number> <unix ms> <answer>"; without the time where the answer begins with the id of a new entry, which
-- begins with it. `prune` looks at the time, for which the second would do: completions and the short ways keep it to that.

-- nil for a new call, 'old' for a call that was overtaken, else the remembered answer.
local function replayed(producers, caller, number)
  local last = looked_at(producers, redis.pcall('HGET', producers, caller))
  if not last then return nil end
  -- What is no number was not written here, and proves nothing.
  local last_number = tonumber(string.match(last, '^%d+')) or -1
  if tonumber(number) > last_number then return nil end
  if tonumber(number) < last_number then return OLD end
  -- Written again, so that a WAIT behind this call waits for what it is about, whichever connection it came by.
  redis.call('HSET', producers, caller, last)
  return OK, string.match(last, '^%d+ %d+ (.*)$') or string.match(last, '^%d+ (.*)$')
end

local function remember(producers, caller, number, now, answer)
  redis.call('HSET', producers, caller, string.format('%s %.0f %s', number, now, answer))
end
