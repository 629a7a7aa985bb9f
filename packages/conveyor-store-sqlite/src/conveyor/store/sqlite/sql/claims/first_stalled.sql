-- The index of the first of these jobs that has stalled before.
select min(s.key)
  from json_each(:seqs) s
 cross join conveyor_jobs j
 where j.seq = s.value
   and j.stalled > 0
