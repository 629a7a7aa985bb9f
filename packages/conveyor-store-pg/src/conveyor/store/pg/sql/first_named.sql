-- The jobs of these names without a group, most urgent first.
select j.rank, j.place
  from unnest(%(names)s::text[]) n (name)
 cross join lateral (
   select rank, place
     from {schema}.conveyor_jobs
    where queue = %(queue)s
      and name = n.name
      and state = 'waiting'
      and grp is null
    order by rank, place
    limit %(count)s
 ) j
 order by j.rank, j.place
 limit %(count)s
