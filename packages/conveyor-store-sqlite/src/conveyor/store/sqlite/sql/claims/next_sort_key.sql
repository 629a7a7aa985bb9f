select min(sort_key)
  from conveyor_jobs
 where {subqueue}
   and sort_key > :sort_key
