-- event: what an operator wants to know, in a stream that keeps about the last 10,000.
local EVENTS_MAX = 10000

local function event(events, kind, job_id, detail)
  redis.call('XADD', events, 'MAXLEN', '~', EVENTS_MAX, '*', 'event', kind, 'job', job_id, 'detail', detail)
end

-- What was done to `count` jobs at once; `job_id` is named if it was one. Long work is done in many steps, which would push
-- everything else out of the stream: a step that comes right after another of its kind takes that one's place and says for how
-- many steps it stands. The first event of the stream stays, so that a follower can tell one that was replaced from one that is
-- gone.
local function event_of(events, kind, job_id, count)
  if count == 1 then return event(events, kind, job_id, '1 jobs') end
  local newest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 2)
  local fields = #newest == 2 and newest[1][2] or {}
  if fields[2] ~= kind or fields[4] ~= '' or not fields[6] then
    return event(events, kind, '', string.format('%d jobs', count))
  end
  local jobs, steps = string.match(fields[6], '^(%d+) jobs in (%d+) steps$')
  jobs = tonumber(jobs or string.match(fields[6], '^(%d+) jobs$')) or 0
  event(events, kind, '', string.format('%.0f jobs in %.0f steps', jobs + count, (tonumber(steps) or 1) + 1))
  redis.call('XDEL', events, newest[1][1])
end
