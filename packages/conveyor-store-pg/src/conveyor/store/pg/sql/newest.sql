-- The jobs of one rank of a lane that are older than a given one, newest first.
select rank, place
  from (
    (
      select rank, place
        from {schema}.conveyor_jobs
       where {lane}
         and rank = %(rank)s::float8
         and place > -%(before)s::bigint
         and place < 0
       order by rank, place
       limit %(count)s
    )
    union all
    (
      select rank, place
        from {schema}.conveyor_jobs
       where {lane}
         and rank = %(rank)s::float8
         and place > 0
         and place < %(before)s::bigint
       order by rank desc, place desc
       limit %(count)s
    )
  ) n
