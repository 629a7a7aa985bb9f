select json_group_array(json_array(lease_until, seq, id, started))
  from (
    select lease_until, seq, id, started
      from conveyor_jobs
     where queue = :queue
       and state = 'active'
       and lease_until <= :now
     order by lease_until
     limit :limit
  )
