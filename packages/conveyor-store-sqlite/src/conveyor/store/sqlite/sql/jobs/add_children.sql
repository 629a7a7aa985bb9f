-- Parents in the store wait for their new children too.
update conveyor_jobs
   set pending = pending + (e.value ->> 2)
  from json_each(:parents) e
 where conveyor_jobs.queue = e.value ->> 0
   and conveyor_jobs.id = e.value ->> 1
   and conveyor_jobs.state = 'waiting-children'
