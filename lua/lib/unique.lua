-- unique: a unique key holds the id of its job and is released only for that job.
local function unlock(key, job_id)
  if redis.call('GET', key) == job_id then redis.call('DEL', key) end
end
