update conveyor_jobs
   set lease_until = :lease_until
 where seq in (select value from json_each(:seqs))
   and state = 'active'
