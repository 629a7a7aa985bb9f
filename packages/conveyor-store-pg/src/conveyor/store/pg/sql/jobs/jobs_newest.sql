-- The jobs of one lane, most urgent first, and the newest first within a rank: rank by rank, because no index has
-- that order.
select r.rank, n.second
  from (
    with recursive ranks (rank, found) as (
      select
        h.rank,
        (select count(*) from (select from {schema}.conveyor_jobs j where {lane} and j.rank = h.rank limit {depth}) f)
        from (select j.rank from {schema}.conveyor_jobs j where {lane} order by j.rank, j.place limit 1) h
      union all
      select
        h.rank,
        k.found
        + (select count(*) from (select from {schema}.conveyor_jobs j where {lane} and j.rank = h.rank limit {depth}) f)
        from ranks k
       cross join lateral (
         select j.rank
           from {schema}.conveyor_jobs j
          where {lane}
            and j.rank > k.rank
          order by j.rank, j.place
          limit 1
       ) h
       where k.found < {depth}
    )
    select rank from ranks
  ) r
 cross join lateral (
   (
     select -abs(j.place) as second
       from {schema}.conveyor_jobs j
      where {lane}
        and j.rank = r.rank
        and j.place < 0
      order by j.rank, j.place
      limit {depth}
   )
   union all
   (
     select -abs(j.place)
       from {schema}.conveyor_jobs j
      where {lane}
        and j.rank = r.rank
        and j.place > 0
      order by j.rank desc, j.place desc
      limit {depth}
   )
 ) n
 order by r.rank, n.second
 limit {depth}
