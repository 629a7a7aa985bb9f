select min(rank)
  from {schema}.conveyor_jobs
 where {lane}
   and rank > %(rank)s::float8
