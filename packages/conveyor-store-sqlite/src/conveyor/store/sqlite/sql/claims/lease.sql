update conveyor_jobs
   set state = 'active',
       token = :token,
       lease_until = :lease_until,
       locked_by = :worker,
       attempt = attempt + 1,
       started = :started and stalled = 0,
       processed_at = :now
 where seq in (select value from json_each(:seqs))
   and state in ('waiting', 'delayed', 'waiting-children')
