update conveyor_jobs
   set state = 'waiting',
       run_at = null
 where seq in (select value from json_each(:seqs))
   and state = 'delayed'
