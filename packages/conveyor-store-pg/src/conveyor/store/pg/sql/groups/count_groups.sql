-- Count what has moved in each group, and note its turns and its parking. The rows are locked in order, and
-- whoever has one of them is the only one to move the group's jobs until it commits.
insert into {schema}.conveyor_groups as g
  (queue, grp, known, waiting, delayed, active, served, parked_for, parked_until)
select m.queue, m.grp, m.known, m.waiting, m.delayed, m.active, m.served, coalesce(m.parked_for, ''), m.parked_until
  from unnest(
    %(queues)s::text[],
    %(groups)s::text[],
    %(known)s::boolean[],
    %(waiting)s::int[],
    %(delayed)s::int[],
    %(active)s::int[],
    %(served)s::bigint[],
    %(parked_for)s::text[],
    %(parked_until)s::timestamptz[]
  ) m (queue, grp, known, waiting, delayed, active, served, parked_for, parked_until)
 order by m.queue collate "C", m.grp collate "C"
on conflict (queue, grp) do update
  set known = g.known or excluded.known,
      waiting = g.waiting + excluded.waiting,
      delayed = g.delayed + excluded.delayed,
      active = g.active + excluded.active,
      served = greatest(g.served, excluded.served),
      parked_for = case when excluded.parked_until is null then g.parked_for else excluded.parked_for end,
      parked_until = coalesce(excluded.parked_until, g.parked_until)
