-- schedule: when a job is due. In eighths of a millisecond, which a score holds exactly and redis-cli shows with three digits at most.

-- The eighth that comes next, in unix ms.
local function next_moment(us)
  return math.ceil(us / 125) / 8
end

-- Files a job under the time at which it is due, rounded up so that it never runs early, and wakes the worker that promotes when it
-- is the new first. A user without the right to publish loses the hint, no more.
local function schedule(scheduled, wake, job_id, us, delay_ms)
  local due = next_moment(us) + delay_ms
  local first = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
  redis.call('ZADD', scheduled, due, job_id)
  if not first[2] or due < tonumber(first[2]) then redis.pcall('PUBLISH', wake, 'due') end
  return due
end
