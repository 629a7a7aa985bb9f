-- How many jobs of the queue are active; no further than the limit, which is all that matters.
select count(*)
  from (
    select 1
      from conveyor_jobs
     where queue = :queue
       and state = 'active'
     limit :limit
  )
