-- Jobs that are about to run: the loss of their leases is a stall from now on.
update conveyor_jobs
   set started = 1
 where seq in (select value from json_each(:seqs))
   and state = 'active'
