-- The next lanes whose group has had no turn yet, newest first.
select p.rank, p.newest, p.grp, p.name, p.active, p.place, p.newest, p.served
  from unnest(%(names)s::text[], %(parked)s::text[], %(active)s::int[]) k (name, parked_for, active)
 cross join lateral (
   select l.rank, l.place, l.newest, l.served, l.active, l.grp, l.name
     from {schema}.conveyor_lanes l
    where l.queue = %(queue)s
      and l.name = k.name
      and l.parked_for = k.parked_for
      and l.active = k.active
      and not l.paused
      and l.served = 0
      and (l.rank, l.newest) >= (%(rank)s::float8, %(second)s::bigint)
    order by l.rank, l.newest
    limit %(count)s
 ) p
 order by p.rank, p.newest
 limit %(count)s
