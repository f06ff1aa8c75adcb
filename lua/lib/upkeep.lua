-- upkeep: one worker at a time does the upkeep of a queue. The lock is only thrift: upkeep is safe to run twice at once.
local function leads(lock, worker, ttl_ms)
  local leader = looked_at(lock, redis.pcall('GET', lock))
  if leader and leader ~= worker then return false end
  -- Upkeep moves jobs and makes none, so it goes on when memory is full: Redis refuses growth only before the first
  -- write of a script, and this one does not grow.
  redis.call('PERSIST', lock)
  redis.call('SET', lock, worker, 'PX', ttl_ms)
  return true
end
