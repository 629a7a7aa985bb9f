-- Whether jobs are waiting; and when time alone may let a claim return one that it passes over now: it is
-- due, or the pause of its name, the pause of its group or the rate of its group ends.
select json_array(
  exists (
    select 1
      from conveyor_jobs
     where queue = :queue
       and state = 'waiting'
       and grp is null
  )
  or exists (
    select 1
      from conveyor_groups
           indexed by conveyor_groups_waiting
     where queue = :queue
       and waiting > 0
  ),
  (
    select min(run_at)
      from conveyor_jobs
     where queue = :queue
       and state = 'delayed'
  ),
  (
    select min(resumes_at)
      from conveyor_pauses
     where queue = :queue
       and kind = 'name'
       and resumes_at > :now
  ),
  (
    select p.resumes_at
      from conveyor_pauses p
      join conveyor_groups g
        on g.queue = p.queue
       and g.grp = p.target
     where p.queue = :queue
       and p.kind = 'group'
       and p.resumes_at > :now
       and g.waiting > 0
     order by p.resumes_at
     limit 1
  ),
  (
    select throttled_until
      from conveyor_groups
           indexed by conveyor_groups_throttled
     where queue = :queue
       and throttled_for = :rate
       and throttled_for <> ''
       and waiting > 0
     order by throttled_until
     limit 1
  )
)
