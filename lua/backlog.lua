-- backlog: no job moves
-- How many jobs of each group are held.
--
-- KEYS[1] held     millstream:{Q}:held  zset, jobs that wait for their group
-- ARGV[1..] names  groups, up to 1,000
--
-- Returns {OK, {count ...}}, in the order of the groups. Cost O(groups log n), n = held jobs.
local held = KEYS[1]

check('ZCARD', held)
local counts = {}
for i = 1, #ARGV do counts[i] = redis.call('ZLEXCOUNT', held, '[' .. ARGV[i] .. '\31', '(' .. ARGV[i] .. ' ') end
return { OK, counts }
