-- check: Redis does not roll back, so every key is looked at before the first write.
-- `read` is a cheap reading command of the type that the key must have.
local function check(read, key)
  local reply = redis.pcall(read, key)
  if type(reply) == 'table' and reply.err then
    error({ err = 'WRONGTYPE ' .. key .. ' does not hold what Millstream keeps there (' .. read .. ' refused)' })
  end
end
