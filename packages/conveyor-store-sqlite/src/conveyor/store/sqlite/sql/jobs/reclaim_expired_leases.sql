update conveyor_jobs
   set state = case
         when pending > 0 then 'waiting-children'
         when run_at > :now then 'delayed'
         else 'waiting'
       end,
       run_at = case when pending > 0 or run_at > :now then run_at end,
       stalled = stalled + started,
       started = 0,
       token = null,
       lease_until = null,
       locked_by = null
 where seq in (select value from json_each(:seqs))
   and state = 'active'
