-- check: Redis does not roll back, so every key is looked at before the first write.

-- The reply of the first command on `key`, called with pcall; says which key it is that holds something else.
local function looked_at(key, reply)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then
    error({ err = 'WRONGTYPE ' .. key .. ' does not hold what Millstream keeps there' })
  end
  error(reply)
end

-- `read` is a cheap reading command of the type that the key must have.
local function check(read, key)
  looked_at(key, redis.pcall(read, key))
end
