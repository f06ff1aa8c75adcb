-- plain: the short way through `enqueue`, for a call of nothing but jobs without a group and without options, as most are, to a
-- queue without a maximum depth.
-- Lua makes every function of a script anew in each call, so this way ends before those that it does not need. Keys and
-- arguments are those of `enqueue`, and so is all that it does.
if ARGV[5] ~= '1' and #KEYS == 12 and not looked_at(KEYS[9], redis.pcall('HGET', KEYS[9], 'max_depth')) then
  local FIRST = 6
  local plain, run = true, FIRST
  while plain and run <= #ARGV do
    plain = ARGV[run + 3] == ''
    run = run + 4 + tonumber(ARGV[run])
  end
  if plain then
    local lane, stats, producers = KEYS[1], KEYS[5], KEYS[6]
    local caller, number = ARGV[2], ARGV[3]
    local again, answer = replayed(producers, caller, number)
    if again then return { again, answer } end
    check('XLEN', lane)
    check('HLEN', stats)
    local now = ms_of(now_us())
    local ids, count = {}, 0
    run = FIRST
    while run <= #ARGV do
      local last, name, meta = run + 3 + tonumber(ARGV[run]), ARGV[run + 1], ARGV[run + 2]
      for i = run + 4, last do
        count = count + 1
        ids[count] = redis.call('XADD', lane, '*', 'name', name, 'payload', ARGV[i], 'attempt', '1', 'meta', meta)
      end
      run = last + 1
    end
    answer = table.concat(ids, ' ')
    tally(stats, 'enqueued', count)
    remember(producers, caller, number, now, answer)
    return { OK, answer }
  end
end
