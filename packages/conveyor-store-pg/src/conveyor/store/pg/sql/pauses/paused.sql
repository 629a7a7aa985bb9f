select kind, target, until at time zone 'UTC'
  from {schema}.conveyor_pauses
 where queue = %(queue)s
   and (until is null or until > coalesce(%(now)s::timestamptz, clock_timestamp()))
