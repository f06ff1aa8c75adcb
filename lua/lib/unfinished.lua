-- unfinished: whether a job may still run. It is on the lane that took it in, or it has a record.
local function is_unfinished(lane, jobs, job_id)
  local record = read_record(jobs, job_id)
  if record then return record.state ~= 'dead' end
  return string.find(job_id, '^%d+%-%d+$') ~= nil and #redis.call('XRANGE', lane, job_id, job_id) > 0
end
