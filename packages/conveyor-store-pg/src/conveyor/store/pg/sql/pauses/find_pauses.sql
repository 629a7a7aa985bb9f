select kind, target, resumes_at at time zone 'UTC'
  from {schema}.conveyor_pauses
 where queue = %(queue)s
   and (resumes_at is null or resumes_at > coalesce(%(now)s::timestamptz, clock_timestamp()))
