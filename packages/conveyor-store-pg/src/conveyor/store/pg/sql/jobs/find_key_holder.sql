select id
  from {schema}.conveyor_jobs
 where queue = %(queue)s
   and unique_key = %(key)s
   and holds_key
