-- expiry: a job may have a time by which it must have started (expires_at_ms, gone once it has) and one by which it must be
-- done, retries and all (deadline_at_ms). Both are unix ms on Redis's clock.

-- Why a job that has not started may not start any more, in words; nil when it may.
local function out_of_time(fields, now)
  local expires_at_ms, deadline_at_ms = tonumber(fields.expires_at_ms), tonumber(fields.deadline_at_ms)
  if deadline_at_ms and deadline_at_ms <= now then return 'its deadline has passed' end
  if expires_at_ms and expires_at_ms <= now then return 'it waited longer than its `expires` allows' end
  return nil
end
