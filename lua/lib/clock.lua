-- clock: Redis's clock is the only one that decides anything. Read it once per script.
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- The whole millisecond that has begun.
local function ms_of(us)
  return math.floor(us / 1000)
end
