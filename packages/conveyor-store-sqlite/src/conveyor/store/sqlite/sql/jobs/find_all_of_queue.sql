select json_group_array(seq)
  from conveyor_jobs
 where queue = :queue
