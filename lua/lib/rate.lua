-- rate: a token bucket that is one number, the time at which it is full again. All is counted in whole ticks, so nothing drifts: a
-- job takes as many as the rate's time has microseconds, and a microsecond brings as many as the rate has jobs.
-- rates: zset; "full US <group>" -> minus the time at which its bucket is full (unix us), gone once it is; "next US <group>" -> when
-- its first held job may start (unix us). The bucket of the queue itself is that of the group without a name.
local PER_US = { s = 1000000, m = 60000000, h = 3600000000 }

local function full_of(name) return 'full\31' .. name end
local function next_of(name) return 'next\31' .. name end

-- "50/s" and how many may start at once after a quiet time; nil without a rate, or with one that somebody broke by hand.
local function read_rate(text, burst)
  local count, unit = string.match(text or '', '^(%d+)/([smh])$')
  count = tonumber(count)
  if not count or count < 1 then return nil end
  local each = PER_US[unit]
  burst = math.max(1, tonumber(burst) or math.floor(count * PER_US.s / each))
  return { count = count, each = each, burst = burst, depth = burst * each }
end

-- Ticks that are missing in the bucket, and whether that has to be written down: never more than it holds, and from now on, so a clock
-- that was set back takes no more than one filling.
local function missing_of(rates, name, rate, us)
  local full_us = -(tonumber(looked_at(rates, redis.pcall('ZSCORE', rates, full_of(name)))) or -us)
  local missing = math.max(0, full_us - us) * rate.count
  -- It was rounded up to a whole microsecond.
  return math.min(rate.depth, missing), missing >= rate.depth + rate.count
end

local function write_missing(rates, name, rate, us, missing)
  redis.call('ZADD', rates, string.format('%.0f', -(us + math.ceil(missing / rate.count))), full_of(name))
end

-- What a job of that cost takes: not more than a full bucket, or it would never start.
local function ticks_of(rate, cost)
  return math.min(cost, rate.burst) * rate.each
end

-- Microseconds until there is enough for a job of that cost.
local function wait_for(rate, missing, cost)
  return math.max(0, math.ceil((missing + ticks_of(rate, cost) - rate.depth) / rate.count))
end

-- Microseconds until `admit` has something to do here, 0 when it has now, -1 when it has not: a timer, or a bucket to be forgotten.
local function rated_in(rates, us)
  if #redis.call('ZRANGE', rates, string.format('%.0f', -us), '(0', 'BYSCORE', 'LIMIT', 0, 1) > 0 then return 0 end
  local soonest = redis.call('ZRANGE', rates, 0, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  return soonest and math.max(0, tonumber(soonest) - us) or -1
end

-- The groups whose time has come, and takes them off the list; forgets buckets that are full.
local function take_due(rates, us, limit)
  local full = redis.call('ZRANGE', rates, string.format('%.0f', -us), '(0', 'BYSCORE', 'LIMIT', 0, limit)
  if #full > 0 then redis.call('ZREM', rates, unpack(full)) end
  local due = redis.call('ZRANGE', rates, 0, string.format('%.0f', us), 'BYSCORE', 'LIMIT', 0, limit)
  if #due > 0 then redis.call('ZREM', rates, unpack(due)) end
  for i, member in ipairs(due) do due[i] = string.match(member, '^next\31(.*)$') or '' end
  return due
end
