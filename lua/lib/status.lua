-- status: the first item of every reply.
-- ok           done
-- stale        this delivery is no longer the live one; nothing was changed
-- old          a later call of the same caller was carried out already; nothing was changed
-- missing      there is no such job; nothing was changed
-- wrong_state  the job is not in a state from which this transition starts; nothing was changed
-- standby      another worker does the upkeep at the moment; no job was moved
-- full         the queue has as many jobs as it may have; nothing was changed
-- group_full   a group has as many held jobs as it may have; nothing was changed
-- bounded      the queue has a maximum depth, which another script looks after; nothing was changed
local OK, STALE, OLD, MISSING, WRONG_STATE, STANDBY, FULL, GROUP_FULL, BOUNDED =
  'ok', 'stale', 'old', 'missing', 'wrong_state', 'standby', 'full', 'group_full', 'bounded'
