-- room: the short way through `enqueue` for a call of jobs that have a group, or nothing, to say and nothing else, on a queue that limits
-- no more than the concurrency of its groups, when there is room for all of them: no job of these groups is held. Keys and arguments
-- are those of `enqueue`, and so is all that it does; it ends before the functions that it does not need, which Lua would make anew in
-- each call.
if ARGV[5] == '1' then
  local FIRST, LAST = 6, #ARGV
  local GROUP, OWN_GROUP, US = string.byte('@'), '#', '\31'
  local stats, producers, limits, held, groups = KEYS[5], KEYS[6], KEYS[9], KEYS[10], KEYS[13]
  local concurrency = looked_at(limits, redis.pcall('HMGET', limits, 'group_concurrency', 'group_order'))
  local known = (concurrency[1] and 1 or 0) + (concurrency[2] and 1 or 0)
  local max = tonumber(concurrency[1])
  local has_room = redis.call('HLEN', limits) == known
  -- How many jobs each group gets, and the groups in the order in which they come up.
  local more, names, run, jobs_told = {}, {}, FIRST, 0
  while has_room and run <= LAST do
    local count, options = tonumber(ARGV[run]), ARGV[run + 3]
    local step = options == OWN_GROUP and 3 or ARGV[run + 2] == '*' and 2 or 1
    local name = string.byte(options) == GROUP and string.sub(options, 2)
    local last = run + 3 + count * step
    if step == 3 then
      for i = run + 4, last, 3 do
        local of_job = ARGV[i]
        local so_far = more[of_job]
        if not so_far then names[#names + 1] = of_job end
        more[of_job] = (so_far or 0) + 1
      end
    elseif name then
      if not more[name] then names[#names + 1] = name end
      more[name] = (more[name] or 0) + count
    elseif options ~= '' then
      has_room = false
    end
    jobs_told, run = jobs_told + count, last + 1
  end
  local taken = {}
  if has_room and max and #names > 0 then
    local told = looked_at(groups, redis.pcall('HMGET', groups, unpack(names)))
    for i, name in ipairs(names) do
      local sum = (tonumber(told[i]) or 0) + more[name]
      if sum > max then has_room = false end
      taken[2 * i - 1], taken[2 * i] = name, sum
    end
  end
  -- Nobody overtakes those who wait, not even when there is room for all of them.
  if has_room and looked_at(held, redis.pcall('ZCARD', held)) > 0 then
    for _, name in ipairs(names) do
      if #redis.call('ZRANGEBYLEX', held, '[' .. name .. US, '(' .. name .. ' ', 'LIMIT', 0, 1) > 0 then
        has_room = false
        break
      end
    end
  end
  if has_room then
    local lane, caller, number = KEYS[1], ARGV[2], ARGV[3]
    local again, answer = replayed(producers, caller, number)
    if again then return { again, answer } end
    -- The first two writes ask by themselves whether their keys hold what they should: a call that fails changes nothing.
    local counted = redis.pcall('HINCRBY', stats, 'enqueued', jobs_told)
    if type(counted) == 'table' then
      looked_at(stats, counted)
      check('XLEN', lane)
      tally(stats, 'enqueued', jobs_told)
    end
    local ids, count = {}, 0
    run = FIRST
    while run <= LAST do
      local name, common, options = ARGV[run + 1], ARGV[run + 2], ARGV[run + 3]
      local step = options == OWN_GROUP and 3 or common == '*' and 2 or 1
      local last = run + 3 + tonumber(ARGV[run]) * step
      local is_counted = max and options ~= ''
      for i = run + 3 + step, last, step do
        local meta = step > 1 and ARGV[i - 1] or common
        if is_counted then meta = '{"slot":true,' .. string.sub(meta, 2) end
        local id = redis.pcall('XADD', lane, '*', 'name', name, 'payload', ARGV[i], 'attempt', '1', 'meta', meta)
        if type(id) == 'table' then
          if count == 0 then redis.call('HINCRBY', stats, 'enqueued', -jobs_told) end
          looked_at(lane, id)
        end
        count = count + 1
        ids[count] = id
      end
      run = last + 1
    end
    if #taken > 0 then redis.call('HSET', groups, unpack(taken)) end
    answer = table.concat(ids, ' ')
    redis.call('HSET', producers, caller, table.concat({ number, string.match(ids[1], '^%d+'), answer }, ' '))
    return { OK, answer }
  end
end
