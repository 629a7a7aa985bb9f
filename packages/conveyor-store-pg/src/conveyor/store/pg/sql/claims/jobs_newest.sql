-- The jobs of one sub-queue, most urgent first, and the newest first within a sort key: one sort key after
-- another, because no index has that order.
select r.sort_key, n.second
  from (
    with recursive sort_keys (sort_key, found) as (
      select
        h.sort_key,
        (select count(*) from (select from {schema}.conveyor_jobs j where {subqueue} and j.sort_key = h.sort_key limit {depth}) f)
        from (select j.sort_key from {schema}.conveyor_jobs j where {subqueue} order by j.sort_key, j.tie_break limit 1) h
      union all
      select
        h.sort_key,
        k.found
        + (select count(*) from (select from {schema}.conveyor_jobs j where {subqueue} and j.sort_key = h.sort_key limit {depth}) f)
        from sort_keys k
       cross join lateral (
         select j.sort_key
           from {schema}.conveyor_jobs j
          where {subqueue}
            and j.sort_key > k.sort_key
          order by j.sort_key, j.tie_break
          limit 1
       ) h
       where k.found < {depth}
    )
    select sort_key from sort_keys
  ) r
 cross join lateral (
   (
     select -abs(j.tie_break) as second
       from {schema}.conveyor_jobs j
      where {subqueue}
        and j.sort_key = r.sort_key
        and j.tie_break < 0
      order by j.sort_key, j.tie_break
      limit {depth}
   )
   union all
   (
     select -abs(j.tie_break)
       from {schema}.conveyor_jobs j
      where {subqueue}
        and j.sort_key = r.sort_key
        and j.tie_break > 0
      order by j.sort_key desc, j.tie_break desc
      limit {depth}
   )
 ) n
 order by r.sort_key, n.second
 limit {depth}
