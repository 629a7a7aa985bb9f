-- Whether jobs are waiting; and when time alone may bring more.
select
  (
    select true
      from {schema}.conveyor_jobs
     where queue = %(queue)s and state = 'waiting' and grp is null
     order by sort_key, tie_break
     limit 1
  ) is not null
  or (
    select true
      from {schema}.conveyor_groups
     where queue = %(queue)s and waiting > 0
     order by last_served
     limit 1
  ) is not null,
  {include soonest} at time zone 'UTC'
