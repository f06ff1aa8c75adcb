-- enqueue: new -> ready | scheduled
-- Stores a batch of jobs, all or nothing. Sent again with the same caller and number it stores nothing and gives the same answer.
--
-- KEYS[1] lane       millstream:{Q}:ready      stream for the jobs that may run at once
-- KEYS[2] scheduled  millstream:{Q}:scheduled  zset, job id -> due (unix ms)
-- KEYS[3] jobs       millstream:{Q}:jobs       hash, job id -> record
-- KEYS[4] payloads   millstream:{Q}:payloads   hash, job id -> payload
-- KEYS[5] stats      millstream:{Q}:stats      hash, lifetime counters
-- KEYS[6] producers  millstream:{Q}:producers  hash, caller -> last number and answer
-- KEYS[7..] unique   millstream:{Q}:unique:*   string, id of the job that holds the key
-- ARGV[1] caller     who numbers its calls
-- ARGV[2] number     of this call, counting up
-- ARGV[3] wake       channel that hears of a new earliest due time
-- ARGV[4..] jobs     four per job: name, payload, meta, options
--
-- options is '' for a job that may run at once, else JSON:
--   id            the job's id (with delay_ms)
--   delay_ms      wait before it may run
--   unique        number of the unique key, from 1: KEYS[6 + unique]
--   unique_ms     how long the key is held, at most
--   window        true: the key outlives the job, so a finished holder still counts
--   expires_ms    how long the job may wait before it starts
--
-- Returns {OK, "id id ..."}; an id with '=' in front is the holder of the unique key, and no job was made.
-- {OLD} when a later call of this caller was carried out. Cost O(jobs), O(log n) more for each scheduled one.
local lane, scheduled, jobs, payloads, stats, producers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local caller, number, wake = ARGV[1], ARGV[2], ARGV[3]
local FIRST, STRIDE = 4, 4

local again, answer = replayed(producers, caller, number)
if again then return { again, answer } end
check('XLEN', lane)
check('HLEN', stats)
for i = 7, #KEYS do check('STRLEN', KEYS[i]) end
for i = FIRST, #ARGV, STRIDE do
  if ARGV[i + 3] ~= '' then
    check('ZCARD', scheduled)
    check('HLEN', jobs)
    check('HLEN', payloads)
    break
  end
end
local us = now_us()
local duplicates = 0

-- A key that is held until its job is finished counts only while that job is unfinished.
local function unfinished(job_id)
  local record = read_record(jobs, job_id)
  if record then return record.state ~= 'dead' end
  return string.find(job_id, '^%d+%-%d+$') and #redis.call('XRANGE', lane, job_id, job_id) > 0
end

local function holder_of(options)
  local holder = redis.call('GET', KEYS[6 + options.unique])
  if holder and (options.window or unfinished(holder)) then return holder end
  return nil
end

local function store(name, payload, meta, options)
  local holder = options.unique and holder_of(options)
  if holder then
    duplicates = duplicates + 1
    return '=' .. holder
  end
  if options.expires_ms then
    local fields = read_meta(meta)
    fields.expires_at_ms = ms_of(us) + options.expires_ms
    meta = cjson.encode(fields)
  end
  local id = options.id
  if options.delay_ms then
    schedule(scheduled, wake, id, us, options.delay_ms)
    park(jobs, payloads, id,
      { state = 'scheduled', name = name, attempt = 1, meta = with_id(meta, id), payload_bytes = #payload }, payload)
  else
    id = redis.call('XADD', lane, '*', 'name', name, 'payload', payload, 'attempt', '1', 'meta', meta)
  end
  if options.unique then redis.call('SET', KEYS[6 + options.unique], id, 'PX', options.unique_ms) end
  return id
end

local ids, count = {}, 0
for i = FIRST, #ARGV, STRIDE do
  count = count + 1
  local options = ARGV[i + 3]
  if options == '' then
    ids[count] = redis.call('XADD', lane, '*', 'name', ARGV[i], 'payload', ARGV[i + 1], 'attempt', '1', 'meta', ARGV[i + 2])
  else
    ids[count] = store(ARGV[i], ARGV[i + 1], ARGV[i + 2], cjson.decode(options))
  end
end

answer = table.concat(ids, ' ')
tally(stats, 'enqueued', count - duplicates)
remember(producers, caller, number, ms_of(us), answer)
return { OK, answer }
