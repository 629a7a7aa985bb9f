-- What others listen to.
select wanted::text
  from {schema}.conveyor_listeners
 where handle <> %(handle)s
   and expires_at > clock_timestamp()
