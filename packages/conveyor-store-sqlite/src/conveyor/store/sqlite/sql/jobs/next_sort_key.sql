select min(sort_key)
  from conveyor_jobs
 where {lane}
   and sort_key > :sort_key
