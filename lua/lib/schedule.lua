-- schedule: files a job under the time at which it is due, rounded up so that it never runs early,
-- and wakes the worker that promotes when it is the new first. A user without the right to publish loses the hint, no more.
local function schedule(scheduled, wake, job_id, us, delay_ms)
  local due = math.ceil(us / 1000) + delay_ms
  local first = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
  redis.call('ZADD', scheduled, due, job_id)
  if not first[2] or due < tonumber(first[2]) then redis.pcall('PUBLISH', wake, 'due') end
  return due
end
