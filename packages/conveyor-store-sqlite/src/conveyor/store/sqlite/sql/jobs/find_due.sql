select json_group_array(json_array(run_at, seq, id))
  from (
    select run_at, seq, id
      from conveyor_jobs
     where queue = :queue
       and state = 'delayed'
       and run_at <= :now
     order by run_at
     limit :limit
  )
