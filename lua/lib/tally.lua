-- tally: lifetime counters. What is counted has happened by then, so a counter that somebody edited into something that is
-- no number begins anew rather than fail the script half-way.
local function tally(stats, counter, by)
  local reply = redis.pcall('HINCRBY', stats, counter, by)
  if type(reply) == 'table' and reply.err then redis.call('HSET', stats, counter, by) end
end
