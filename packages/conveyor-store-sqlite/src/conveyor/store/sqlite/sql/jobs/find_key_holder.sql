select id
  from conveyor_jobs
 where queue = :queue
   and unique_key = :key
   and holds_key = 1
