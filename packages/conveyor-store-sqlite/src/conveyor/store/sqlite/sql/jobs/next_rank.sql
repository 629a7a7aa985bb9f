select min(rank)
  from conveyor_jobs
 where {lane}
   and rank > :rank
