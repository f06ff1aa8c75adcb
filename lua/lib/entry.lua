-- entry: the order of entry ids, and how an entry is taken out of its lane before its turn has come.

-- Entry ids compare by time and then by number.
local function is_after(entry, other)
  local ms, seq = string.match(entry, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  if ms ~= other_ms then return ms > other_ms end
  return tonumber(seq) > tonumber(other_seq)
end

-- Lane -> what Redis knows of its group, asked for once.
local groups_of_lanes = {}

-- Takes an entry out of its lane that is not being run; answers as XDEL does. Redis 7.0 counts the first entry that is delivered as the
-- next one, though one in front of it is missing: its lag is one too many for ever, and `cut` could not tell that something was
-- stranded. So the missing one counts as read.
local function withdraw(lane, group, entry)
  local deleted = redis.call('XDEL', lane, entry)
  local of = groups_of_lanes[lane]
  if not of then
    of = {}
    -- With pcall: who may not ask is told nothing.
    for _, row in ipairs(redis.pcall('XINFO', 'GROUPS', lane)) do
      local info = {}
      for i = 1, #row, 2 do info[row[i]] = row[i + 1] end
      if info.name == group then of = info end
    end
    groups_of_lanes[lane] = of
  end
  local last, count = of['last-delivered-id'], of['entries-read']
  if deleted == 1 and count and is_after(entry, last) then
    of['entries-read'] = count + 1
    -- Who may not say so has a lag that is one too many.
    redis.pcall('XGROUP', 'SETID', lane, group, last, 'ENTRIESREAD', string.format('%.0f', count + 1))
  end
  return deleted
end
