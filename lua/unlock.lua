-- unlock: no job moves
-- Releases the unique keys of jobs that `reclaim` sent to the dead letter: it could not know their names before.
--
-- KEYS[1..] unique  millstream:{Q}:unique:*  string, id of the job that holds the key
-- ARGV[1..] ids     the job for which each key is released; a key that another job holds is left alone
--
-- Returns {OK}. Cost O(keys).
for i = 1, #KEYS do check('STRLEN', KEYS[i]) end
for i = 1, #KEYS do unlock(KEYS[i], ARGV[i]) end
return { OK }
