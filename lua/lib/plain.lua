-- plain: the short way through `enqueue`, for a call of nothing but jobs that go to the lane at once, as most do: without a group
-- and a priority, with no option but a unique key that is held for a time, on a queue without a maximum depth.
-- Redis's clock is not asked and nothing is formatted, and the way ends before the functions that it does not need: Lua makes
-- those of a script anew in each call. Keys and arguments are those of `enqueue`, and so is all that it does.
if ARGV[5] ~= '1' and not looked_at(KEYS[9], redis.pcall('HGET', KEYS[9], 'max_depth')) then
  local FIRST, FIRST_UNIQUE, LAST = 6, 13, #ARGV
  local WINDOW = string.byte('!')
  local plain, run = true, FIRST
  local jobs_told = 0
  while plain and run <= LAST do
    local options = ARGV[run + 3]
    plain = options == '' or string.byte(options) == WINDOW and not string.find(options, '@', 1, true)
    local of_run = tonumber(ARGV[run])
    jobs_told = jobs_told + of_run
    run = run + 4 + of_run * (ARGV[run + 2] == '*' and 2 or 1)
  end
  if plain then
    local lane, stats, producers = KEYS[1], KEYS[5], KEYS[6]
    local caller, number = ARGV[2], ARGV[3]
    local again, answer = replayed(producers, caller, number)
    if again then return { again, answer } end
    -- Who holds the keys: asked for all at once, and hardly any is held.
    local holders = {}
    local taken = KEYS[FIRST_UNIQUE] and redis.call('EXISTS', unpack(KEYS, FIRST_UNIQUE)) or 0
    if taken > 0 then
      for i = FIRST_UNIQUE, #KEYS do
        holders[KEYS[i]] = looked_at(KEYS[i], redis.pcall('GET', KEYS[i])) or nil
      end
    end
    -- The first two writes ask by themselves whether their keys hold what they should: a call that fails changes nothing.
    local told = run == FIRST + 4 + jobs_told and ARGV[FIRST] or jobs_told
    local counted = redis.pcall('HINCRBY', stats, 'enqueued', told)
    if type(counted) == 'table' then
      looked_at(stats, counted)
      check('XLEN', lane)
      tally(stats, 'enqueued', told)
    end
    local ids, count, duplicates, key_at, at_ms = {}, 0, 0, FIRST_UNIQUE, nil
    run = FIRST
    while run <= LAST do
      local name, meta, options = ARGV[run + 1], ARGV[run + 2], ARGV[run + 3]
      local own_meta = meta == '*'
      local step = own_meta and 2 or 1
      local last = run + 3 + tonumber(ARGV[run]) * step
      local window = options ~= '' and string.sub(options, 2)
      for i = run + 3 + step, last, step do
        local key, holder
        count = count + 1
        if window then
          key = KEYS[key_at]
          key_at, holder = key_at + 1, holders[key]
        end
        if holder then
          ids[count] = '=' .. holder
          duplicates = duplicates + 1
        else
          local id = redis.pcall('XADD', lane, '*',
            'name', name, 'payload', ARGV[i], 'attempt', '1', 'meta', own_meta and ARGV[i - 1] or meta)
          if type(id) == 'table' then
            if not at_ms then redis.call('HINCRBY', stats, 'enqueued', -jobs_told) end
            looked_at(lane, id)
          end
          at_ms = at_ms or string.match(id, '^%d+')
          if key then
            redis.call('SET', key, id, 'PX', window)
            holders[key] = id
          end
          ids[count] = id
        end
      end
      run = last + 1
    end
    if duplicates > 0 then redis.call('HINCRBY', stats, 'enqueued', -duplicates) end
    answer = table.concat(ids, ' ')
    redis.call('HSET', producers, caller, table.concat({ number, at_ms or string.format('%.0f', ms_of(now_us())), answer }, ' '))
    return { OK, answer }
  end
end
