-- How many jobs are active, as far as that matters.
select count(*)
  from (
    select
      from {schema}.conveyor_jobs
     where queue = %(queue)s
       and state = 'active'
     limit %(limit)s
  ) a
