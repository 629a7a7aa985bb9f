-- The next lanes whose group has had a turn, the one served longest ago first.
select p.rank, p.served, p.grp, p.name, p.active, p.place, p.newest, p.served
  from unnest(%(names)s::text[], %(parked)s::text[], %(active)s::int[]) k (name, parked_for, active)
 cross join lateral (
   select l.rank, l.place, l.newest, l.served, l.active, l.grp, l.name
     from {schema}.conveyor_lanes l
    where l.queue = %(queue)s
      and l.name = k.name
      and l.parked_for = k.parked_for
      and l.active = k.active
      and not l.paused
      and l.served > 0
      and (l.rank, l.served) >= (%(rank)s::float8, %(second)s::bigint)
    order by l.rank, l.served
    limit %(count)s
 ) p
 order by p.rank, p.served
 limit %(count)s
