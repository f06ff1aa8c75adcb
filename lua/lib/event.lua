-- event: what an operator wants to know, in a stream that keeps about the last 10,000.
local EVENTS_MAX = 10000

local function event(events, kind, job_id, detail)
  redis.call('XADD', events, 'MAXLEN', '~', EVENTS_MAX, '*', 'event', kind, 'job', job_id, 'detail', detail)
end
