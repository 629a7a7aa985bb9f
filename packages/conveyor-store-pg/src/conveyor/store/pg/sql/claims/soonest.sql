-- When time alone may let a claim return a job that it passes over now: it is due, or the pause of its name, the
-- pause of its group or the rate of its group ends.
least(
  (
    select run_at
      from {schema}.conveyor_jobs
     where queue = %(queue)s
       and state = 'delayed'
     order by run_at
     limit 1
  ),
  (
    select min(resumes_at)
      from {schema}.conveyor_pauses
     where queue = %(queue)s
       and kind = 'name'
       and resumes_at > %(now)s
  ),
  (
    select p.resumes_at
      from {schema}.conveyor_pauses p
     where p.queue = %(queue)s
       and p.kind = 'group'
       and p.resumes_at is not null
       and (
         select g.waiting > 0
           from {schema}.conveyor_groups g
          where g.queue = p.queue
            and g.grp = p.target
       )
     order by p.resumes_at
     limit 1
  ),
  (
    select throttled_until
      from {schema}.conveyor_groups
     where queue = %(queue)s
       and throttled_for = %(rate)s
       and throttled_for <> ''
       and waiting > 0
     order by throttled_until
     limit 1
  )
)
