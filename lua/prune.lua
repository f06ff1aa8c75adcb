-- prune: completed | dead -> gone
-- Drops finished jobs that are old enough, and producers that no longer call.
--
-- KEYS[1] dead               millstream:{Q}:dead       zset, job id -> died at (unix ms)
-- KEYS[2] completed          millstream:{Q}:completed  stream, history
-- KEYS[3] jobs               millstream:{Q}:jobs       hash, job id -> record
-- KEYS[4] payloads           millstream:{Q}:payloads   hash, job id -> payload
-- KEYS[5] producers          millstream:{Q}:producers  hash, caller -> last number and answer
-- KEYS[6] progress           millstream:{Q}:progress   hash, job id -> what its handlers have told
-- ARGV[1] completed_age_ms   drop history older than this; -1 leaves it alone
-- ARGV[2] dead_age_ms        drop dead jobs older than this; -1 leaves them alone
-- ARGV[3] producer_age_ms    forget callers that were silent for longer; -1 leaves them alone
-- ARGV[4] cursor             0, or where the last call left off among the producers
-- ARGV[5] limit              of each kind, 1 to 1,000; fewer dead jobs where their payloads are large
--
-- Returns {OK, completed, dead, producers, cursor, more}: what was dropped, where to go on among the producers
-- (0 at the end), and 1 when more finished jobs are old enough. Cost O(limit log n), n = dead jobs.
local dead, completed, jobs, payloads, producers, progress = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local completed_age_ms, dead_age_ms, producer_age_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local cursor, limit = ARGV[4], tonumber(ARGV[5])

check('ZCARD', dead)
check('XLEN', completed)
check('HLEN', jobs)
check('HLEN', payloads)
check('HLEN', producers)
check('HLEN', progress)

local now, more = ms_of(now_us()), 0
-- So much of payloads may a call free: some 50 us a MiB.
local BYTES_MAX = 16777216

local old_history = {}
if completed_age_ms >= 0 then
  local before = string.format('(%.0f-0', math.max(0, now - completed_age_ms))
  old_history = redis.call('XRANGE', completed, '-', before, 'COUNT', limit)
  if #old_history == limit then more = 1 end
  if #old_history > 0 then
    local entries = {}
    for i, entry in ipairs(old_history) do entries[i] = entry[1] end
    redis.call('XDEL', completed, unpack(entries))
  end
end

local old_dead = {}
if dead_age_ms >= 0 then
  old_dead = redis.call('ZRANGEBYSCORE', dead, '-inf', now - dead_age_ms, 'LIMIT', 0, limit)
  local bytes = 0
  for i = 1, #old_dead do
    if bytes >= BYTES_MAX then
      old_dead = { unpack(old_dead, 1, i - 1) }
      more = 1
      break
    end
    bytes = bytes + redis.call('HSTRLEN', payloads, old_dead[i])
  end
  if #old_dead == limit then more = 1 end
  if #old_dead > 0 then
    redis.call('ZREM', dead, unpack(old_dead))
    redis.call('HDEL', jobs, unpack(old_dead))
    redis.call('HDEL', payloads, unpack(old_dead))
    redis.call('HDEL', progress, unpack(old_dead))
  end
end

local forgotten = 0
if producer_age_ms >= 0 then
  local page = redis.call('HSCAN', producers, cursor, 'COUNT', limit)
  cursor = page[1]
  for i = 1, #page[2], 2 do
    local last_ms = tonumber(string.match(page[2][i + 1], '^%d+ (%d+)'))
    if last_ms and last_ms < now - producer_age_ms then
      redis.call('HDEL', producers, page[2][i])
      forgotten = forgotten + 1
    end
  end
else
  cursor = '0'
end
return { OK, #old_history, #old_dead, forgotten, cursor, more }
