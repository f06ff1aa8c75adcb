-- progress: no job moves
-- Notes how far a running job has come, and lines that its handler logs; the newest 100 are kept, of all attempts together. Only the
-- live delivery may. Sent again with the same number it changes nothing.
--
-- KEYS[1] lane      millstream:{Q}:ready*    the stream that delivered the entry
-- KEYS[2] progress  millstream:{Q}:progress  hash, job id -> what its handlers have told (JSON)
-- KEYS[3] events    millstream:{Q}:events    stream, capped
-- ARGV[1] group     consumer group
-- ARGV[2] entry_id  the delivery; the fence
-- ARGV[3] job_id    the job
-- ARGV[4] name      of the job, to which what is sealed is bound
-- ARGV[5] attempt   from 1
-- ARGV[6] number    of this note among those of the delivery, counting up
-- ARGV[7] told      JSON { done, total, note?, sealed? }, or '' when it is as before
-- ARGV[8..] lines   JSON { line, sealed? }, up to 100
--
-- Returns {OK}, or {STALE} with nothing changed. Cost O(lines that are kept).
local lane, progress, events = KEYS[1], KEYS[2], KEYS[3]
local group, entry_id, job_id, name = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local attempt, number, told = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local FIRST = 8
local LINES_MAX = 100

check('HLEN', progress)
check('XLEN', events)
local pending = redis.pcall('XPENDING', lane, group, entry_id, entry_id, 1)
if pending.err and string.find(pending.err, 'NOGROUP', 1, true) then return { STALE } end
if #looked_at(lane, pending) == 0 then return { STALE } end

local is_json, kept = pcall(cjson.decode, redis.call('HGET', progress, job_id) or '{}')
-- What somebody broke by hand begins anew.
if not is_json or type(kept) ~= 'table' then kept = {} end
local delivery = entry_id .. ' ' .. lane
local is_same = kept.delivery == delivery
if is_same and (tonumber(kept.number) or 0) >= number then return { OK } end

-- Of so much, in quarters, people are told: a handler that tells every step would push everything else out of the events.
local function quarters(of)
  local done, total = tonumber(of.done) or 0, tonumber(of.total) or 0
  if total <= 0 then return 0 end
  return math.floor(4 * math.min(done, total) / total)
end

local now = ms_of(now_us())
local before = is_same and quarters(kept) or 0
local lines = type(kept.lines) == 'table' and kept.lines or {}
kept.delivery, kept.number, kept.name, kept.attempt = delivery, number, name, attempt
if told ~= '' then
  local fields = cjson.decode(told)
  kept.done, kept.total, kept.note, kept.sealed, kept.told_ms = fields.done, fields.total, fields.note, fields.sealed, now
end
for i = FIRST, #ARGV do
  local line = cjson.decode(ARGV[i])
  line.at_ms, line.attempt = now, attempt
  lines[#lines + 1] = line
end
while #lines > LINES_MAX do table.remove(lines, 1) end
-- An empty list and an empty object are the same to cjson.
kept.lines = #lines > 0 and lines or nil
redis.call('HSET', progress, job_id, cjson.encode(kept))
if quarters(kept) > before then event(events, 'progress', job_id, string.format('%d%%', 25 * quarters(kept))) end
return { OK }
