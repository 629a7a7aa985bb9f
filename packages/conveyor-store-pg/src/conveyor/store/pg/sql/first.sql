-- The jobs of a lane behind a place, most urgent first.
select rank, place
  from {schema}.conveyor_jobs
 where {lane}
   and (rank, place) > (%(rank)s::float8, %(place)s::bigint)
 order by rank, place
 limit %(count)s
