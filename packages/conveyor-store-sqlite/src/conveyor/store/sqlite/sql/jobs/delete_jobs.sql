delete from conveyor_jobs
 where seq in (select value from json_each(:seqs))
